"""Interceptors around the handlers, and around the calls to the runtime."""

from __future__ import annotations

import queue
import threading
from types import SimpleNamespace
from typing import Any, Callable
from unittest import mock

import grpc
import pytest

import nri_sync
from nri_sync import Interceptor, api, errors
from nri_sync.errors import CallFailed
from nri_sync.plugin.interceptors import Interceptors, event_name
from nri_sync.rpc.context import RequestContext
from tests.plugin.conftest import MakeStub, Serve
from tests.plugin.harness import LONG, PluginWith

__all__: list[str] = []

POD = api.PodSandbox(id="pod0", name="web", namespace="default")
CREATE = api.CreateContainerRequest(pod=POD, container=api.Container(id="ctr0"))
UPDATE = api.ContainerUpdate(container_id="ctr0")
DETAILS: Any = SimpleNamespace(method="/nri.pkg.api.v1alpha1.Plugin/RunPodSandbox")


def items(log: queue.SimpleQueue[str]) -> list[str]:
    found = []
    while not log.empty():
        found.append(log.get())
    return found


class Ours(Interceptor):
    def __init__(self, word: str, log: queue.SimpleQueue[str]) -> None:
        self.word = word
        self.log = log

    def serve(self, event: str, request: Any, context: RequestContext, proceed: Any) -> Any:
        assert nri_sync.request_context() is context
        self.log.put(f"{self.word} {event}")
        return proceed(request, context)

    def call(self, method: str, request: Any, metadata: Any, proceed: Any) -> Any:
        self.log.put(f"{self.word} calls {method}")
        return proceed(request, [*metadata, (self.word, "x")])


class Theirs(grpc.ServerInterceptor, grpc.UnaryUnaryClientInterceptor):
    def __init__(self, word: str, log: queue.SimpleQueue[str]) -> None:
        self.word = word
        self.log = log

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)

        def serve(request: Any, context: Any) -> Any:
            self.log.put(f"{self.word} {details.method.rpartition('/')[2]}")
            return handler.unary_unary(request, context)

        return handler and grpc.unary_unary_rpc_method_handler(
            serve, handler.request_deserializer, handler.response_serializer
        )

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        sent = [pair[0] for pair in details.metadata or ()]
        self.log.put(f"{self.word} calls with {sent}")
        return continuation(details, request)


class TestServing:
    @pytest.mark.parametrize(
        "kinds", [(Ours, Ours), (Ours, Theirs), (Theirs, Ours), (Ours, Theirs, Ours, Theirs, Ours)]
    )
    def test_the_first_is_the_outermost(
        self, serve: Serve, make_stub: MakeStub, kinds: tuple[Any, ...]
    ) -> None:
        log: queue.SimpleQueue[str] = queue.SimpleQueue()
        words = [str(number) for number in range(len(kinds))]
        plugin = PluginWith(create_container=lambda pod, container: log.put("handler"))
        stub = make_stub(plugin, interceptors=[kind(word, log) for kind, word in zip(kinds, words)])
        for _ in range(2):  # each session has its handlers
            runtime = serve()
            stub.start()
            peer = runtime.peer()
            expected = [
                f"{word} {event}" for event in ("Configure", "Synchronize") for word in words
            ]
            assert items(log) == expected
            for _ in range(2):
                peer.call("CreateContainer", CREATE, LONG)
                assert items(log) == [*(f"{word} CreateContainer" for word in words), "handler"]
            stub.stop()
            runtime.close()

    @pytest.mark.parametrize("others", [(), (Theirs,)])
    def test_a_state_change_goes_by_its_event(
        self, serve: Serve, make_stub: MakeStub, others: tuple[Any, ...]
    ) -> None:
        log: queue.SimpleQueue[str] = queue.SimpleQueue()
        unseen: queue.SimpleQueue[str] = queue.SimpleQueue()
        plugin = PluginWith(stop_pod_sandbox=lambda pod: None)
        interceptors = [Ours("a", log), *(kind("b", unseen) for kind in others)]
        stub = make_stub(plugin, interceptors=interceptors)
        runtime = serve()
        stub.start()
        peer = runtime.peer()
        items(log)
        numbers: list[Any] = [api.Event.STOP_POD_SANDBOX, 99]
        for number in numbers:
            peer.call("StateChange", api.StateChangeEvent(event=number, pod=POD), LONG)
        assert items(log) == ["a StopPodSandbox", "a StateChange"]

    def test_it_may_answer_itself_and_refuse(self, serve: Serve, make_stub: MakeStub) -> None:
        class Mine(Interceptor):
            def serve(self, event: str, request: Any, context: Any, proceed: Any) -> Any:
                if event != "CreateContainer":
                    return proceed(request, context)
                if request.container.id:
                    raise PermissionError("not this one")
                return api.CreateContainerResponse(update=[UPDATE])

        runtime = serve()
        stub = make_stub(PluginWith(create_container=lambda *_: None), interceptors=[Mine()])
        stub.start()
        peer = runtime.peer()
        with pytest.raises(CallFailed, match="not this one"):
            peer.call("CreateContainer", CREATE, LONG)
        response = peer.call("CreateContainer", api.CreateContainerRequest(), LONG)
        assert response.update[0] == UPDATE
        assert stub.counters.requests == 0


class TestAroundHandlersOfGrpc:
    """One of ours with one of gRPC's inside."""

    def adapted(self) -> Any:
        log: queue.SimpleQueue[str] = queue.SimpleQueue()
        return Interceptors([Ours("a", log), Theirs("b", log)])._server[0]

    def test_sessions_that_overlap_keep_their_own_handlers(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Ours, "serve", lambda self, event, *rest: (event, rest[2](*rest[:2])))
        adapted = self.adapted()
        handlers: dict[str, Any] = {
            word: grpc.unary_unary_rpc_method_handler(lambda *_, word=word: word)
            for word in ("old", "new")
        }
        for word in ("old", "new", "old", "old", "new"):
            found = adapted.intercept_service(lambda _, word=word: handlers[word], DETAILS)
            assert found.unary_unary(None, None) == ("RunPodSandbox", word)

    def test_an_unknown_method_and_a_stream_are_left_alone(self) -> None:
        adapted = self.adapted()
        assert adapted.intercept_service(lambda _: None, DETAILS) is None
        stream: Any = grpc.unary_stream_rpc_method_handler(lambda request, context: iter(()))
        assert adapted.intercept_service(lambda _: stream, DETAILS) is stream


class TestCalling:
    @pytest.mark.parametrize("on_main", [True, False])
    def test_ours_are_outside_of_those_of_grpc(
        self, serve: Serve, make_stub: MakeStub, on_main: bool
    ) -> None:
        log: queue.SimpleQueue[str] = queue.SimpleQueue()
        runtime = serve(update_containers=lambda updates, evictions: updates)
        interceptors = [Theirs("grpc", log), Ours("a", log), Ours("b", log)]
        stub = make_stub(PluginWith(shutdown=lambda: None), interceptors=interceptors)
        stub.start()
        runtime.peer()
        items(log)
        outcome: list[Any] = []

        def update() -> None:
            outcome.extend(stub.update_containers([UPDATE]))

        if on_main:
            update()
        else:
            thread = threading.Thread(target=update)
            thread.start()
            thread.join(LONG)
        assert outcome == [UPDATE]
        assert items(log) == [
            "a calls UpdateContainers",
            "b calls UpdateContainers",
            "grpc calls with ['a', 'b']",
        ]
        assert stub.counters.updates == 1

    def test_never_on_the_main_thread_and_its_error_is_the_callers(
        self, serve: Serve, make_stub: MakeStub
    ) -> None:
        class Refusing(Interceptor):
            def call(self, method: str, request: Any, metadata: Any, proceed: Any) -> Any:
                where.append(threading.current_thread())
                raise LookupError("not now")

        where: list[threading.Thread] = []
        runtime = serve()
        stub = make_stub(PluginWith(shutdown=lambda: None), interceptors=[Refusing()])
        stub.start()
        runtime.peer()
        with pytest.raises(LookupError, match="not now"):
            stub.update_containers([UPDATE])
        assert where[0] is not threading.main_thread()
        assert stub.counters.updates == 0


class Owned(Interceptor):
    """Notes the calls of the stub."""

    def __init__(self, word: str = "", log: list[Any] | None = None) -> None:
        self.word = word
        self.log: list[Any] = [] if log is None else log
        self.on_close: Callable[[], None] = lambda: None

    def attach(self, stub: nri_sync.Stub) -> None:
        self.log.append(f"{self.word}attach {stub.name}")

    def close(self, timeout: float | None = 5.0) -> None:
        assert timeout is not None
        self.log.append(f"{self.word}close")
        self.timeout = timeout
        self.on_close()


class TestOwning:
    def test_attached_once_and_closed_at_the_end_only(
        self, serve: Serve, make_stub: MakeStub
    ) -> None:
        owned = Owned()
        stub = make_stub(PluginWith(shutdown=lambda: None), interceptors=[owned])
        assert owned.log == ["attach 10-test"]
        for _ in range(2):
            runtime = serve()
            with stub:
                runtime.peer()
            runtime.close()
        assert owned.log == ["attach 10-test"]
        stub.close()
        assert owned.log == ["attach 10-test", "close"]

    def test_closed_while_there_is_a_session_the_last_one_first(
        self, serve: Serve, make_stub: MakeStub
    ) -> None:
        log: list[Any] = []
        first, last = Owned("a ", log), Owned("b ", log)
        stub = make_stub(PluginWith(shutdown=lambda: None), interceptors=[first, last])
        first.on_close = lambda: log.append(stub.started)
        runtime = serve()
        stub.start()
        runtime.peer()
        stub.close(7.0)
        assert log == ["a attach 10-test", "b attach 10-test", "b close", "a close", True]
        assert 0 < first.timeout <= last.timeout <= 7.0
        assert not stub.started

    def test_one_that_raises_keeps_no_other_from_being_closed(
        self, serve: Serve, make_stub: MakeStub, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Broken(Interceptor):
            def close(self, timeout: float | None = 5.0) -> None:
                raise OSError("disk full")

        owned = Owned()
        stub = make_stub(PluginWith(shutdown=lambda: None), interceptors=[owned, Broken()])
        runtime = serve()
        stub.start()
        runtime.peer()
        stub.close()
        assert owned.log[-1] == "close"
        assert not stub.started
        assert "Broken object" in caplog.text
        assert "disk full" in caplog.text

    def test_one_that_is_shared_is_closed_by_the_last(self, make_stub: MakeStub) -> None:
        shared = Owned()
        plugin = PluginWith(shutdown=lambda: None)
        one = make_stub(plugin, interceptors=[shared])
        two = make_stub(plugin, interceptors=[shared])
        one.close()
        one.close()
        assert "close" not in shared.log
        two.close()
        assert shared.log[-1] == "close"

    def test_a_stub_that_could_not_be_made_owns_nothing(self, make_stub: MakeStub) -> None:
        class Picky(Interceptor):
            def attach(self, stub: nri_sync.Stub) -> None:
                stubs.append(stub)
                raise ValueError("not this stub")

        stubs: list[nri_sync.Stub] = []
        owned = Owned()
        plugin = PluginWith(shutdown=lambda: None)
        with pytest.raises(ValueError, match="not this stub"):
            make_stub(plugin, interceptors=[owned, Picky()])
        make_stub(plugin, interceptors=[owned]).close()
        assert owned.log[-1] == "close"


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (object(), "interceptors: <object object at .*> is none: derive its class"),
        (Owned, r"is an instance meant, Owned\(\)\?"),
        (lambda *_: None, "derive its class from nri_sync.Interceptor"),
        (None, "interceptors: None is none"),
    ],
)
def test_objects_that_are_no_interceptors(make_stub: MakeStub, wrong: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        make_stub(PluginWith(shutdown=lambda: None), interceptors=[wrong])


def test_methods_of_the_object_itself_count() -> None:
    """As a test sets them, or a mock has them."""
    ours = Interceptor()
    assert not Interceptors([ours]).serve_requests
    ours.serve = lambda event, request, context, proceed: 5  # type: ignore[method-assign]
    assert Interceptors([ours]).around("RunPodSandbox", lambda request, context: 0)(None, None) == 5  # type: ignore[arg-type]
    spied = mock.Mock(spec=Interceptor)
    interceptors = Interceptors([spied])
    interceptors.around("RunPodSandbox", lambda request, context: 0)(None, None)  # type: ignore[arg-type]
    interceptors.around_call("UpdateContainers", lambda request, metadata: 0)(None, ())
    assert (spied.serve.call_count, spied.call.call_count) == (1, 1)


def test_event_names() -> None:
    assert event_name(api.Event.RUN_POD_SANDBOX) == "RunPodSandbox"
    assert event_name(api.Event.UNKNOWN) == event_name(-1) == event_name(10**6) == "StateChange"


@pytest.mark.parametrize("on_main", [True, False])
@pytest.mark.parametrize("grace", [0.0, LONG])
def test_close_blocks_until_the_session_has_ended(
    serve: Serve, make_stub: MakeStub, grace: float, on_main: bool
) -> None:
    states: list[nri_sync.State] = []

    def close() -> None:
        stub.close(grace)
        states.append(stub.state)

    for _ in range(20):
        runtime = serve()
        stub = make_stub(PluginWith(shutdown=lambda: None))
        stub.start()
        runtime.peer()
        if on_main:
            close()
        else:
            thread = threading.Thread(target=close)
            thread.start()
            thread.join(LONG)
        runtime.close()
    assert states == [nri_sync.State.IDLE] * 20


def test_a_closed_stub_cannot_be_started(make_stub: MakeStub) -> None:
    stub = make_stub(PluginWith(shutdown=lambda: None))
    states = [stub.is_closed]
    stub.close()
    assert [*states, stub.is_closed] == [False, True]
    for call in (stub.start, stub.run):
        with pytest.raises(errors.StubClosed, match="10-test is closed; make a new stub"):
            call()
