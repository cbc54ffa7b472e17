"""Answers for handlers that take too long."""

from __future__ import annotations

import logging
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

import nri_sync
from nri_sync import api
from nri_sync.api import EventMask, nri_pb2
from nri_sync.codes import StatusCode
from nri_sync.errors import CallFailed
from nri_sync.plugin import parts
from nri_sync.plugin.facts import Facts
from nri_sync.plugin.late import Late
from nri_sync.plugin.parts import Parts as PartsOfState
from nri_sync.rpc.late import LateCall
from nri_sync.rpc.status import Status
from nri_sync.runtime import Peer
from tests.net.rig import in_thread
from tests.plugin.conftest import Connect
from tests.plugin.harness import (
    CONTAINER,
    LONG,
    POD,
    PluginWith,
    Recorder,
    Slow,
    configuration,
    eventually,
)
from tests.plugin.test_servicer import ready

__all__: list[str] = []

ADJUSTED = nri_pb2.CreateContainerRequest(pod=POD, container=CONTAINER)


class Parts(nri_sync.Interceptor):
    """Holds up each Synchronize while the test wants it."""

    def __init__(self) -> None:
        self.blocks = False
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def serve(self, event: str, request: Any, context: Any, proceed: Any) -> Any:
        if event == "Synchronize" and self.blocks:
            self.entered.set()
            assert self.go_on.wait(LONG)
        return proceed(request, context)


def hurry(stub: nri_sync.Stub, request_timeout: float = 0.3) -> None:
    """Set the request timeout of the requests that follow: short, so that a late answer comes soon.

    The requests of a connection's start keep a long timeout: a busy machine may serve them late, too, and the
    tests count the late answers.
    """
    (conn,) = stub._live()
    conn.facts = conn.facts._replace(request_timeout=request_timeout)
    conn.answer_within = conn.facts.answer_within


@pytest.fixture
def hurried(connect: Connect) -> Connect:
    """Connects a plugin, and has its requests answered late soon."""

    def make(plugin: object, **options: Any) -> tuple[nri_sync.Stub, Peer]:
        stub, peer = connect(plugin, **options)
        hurry(stub)
        return stub, peer

    return make


class TestLateReplies:
    def test_an_empty_one(
        self, hurried: Connect, slow: Slow, caplog: pytest.LogCaptureFixture
    ) -> None:
        slow.outcome = nri_pb2.ContainerAdjustment(args=["x"])
        plugin = PluginWith(create_container=slow, run_pod_sandbox=lambda pod: None)
        stub, peer = hurried(plugin)
        response = peer.call("CreateContainer", ADJUSTED, LONG)
        assert response == nri_pb2.CreateContainerResponse()
        text = "CreateContainer of default/pod:container has not answered within the request timeout of 0.3 s"
        eventually(lambda: text in caplog.text)
        assert (stub.counters.late_replies, stub.counters.late_results) == (1, 0)
        # The connection is kept, and the handler goes on.
        hurry(stub, LONG)
        peer.call("RunPodSandbox", nri_pb2.RunPodSandboxRequest(), LONG)
        assert stub.started
        slow.go_on.set()
        eventually(lambda: stub.counters.late_results == 1)
        text = "CreateContainer of default/pod:container succeeded after it had been answered for"
        eventually(lambda: text in caplog.text)
        assert stub.late_by_event == {"CreateContainer": 1}
        peer.call("RunPodSandbox", nri_pb2.RunPodSandboxRequest(), LONG)

    def test_a_part_of_the_state_is_never_answered_late(self, hurried: Connect) -> None:
        parts = Parts()
        plugin = Recorder()
        stub, peer = hurried(plugin, interceptors=[parts])
        ready(plugin)
        parts.blocks = True
        answers: list[Any] = []
        request = nri_pb2.SynchronizeRequest(pods=[nri_pb2.PodSandbox(id="pod1")], more=True)
        thread = in_thread(lambda: answers.append(peer.call("Synchronize", request, LONG)))
        assert parts.entered.wait(LONG)
        # A request that comes later is answered late; the part is not.
        assert peer.call("Synchronize", nri_pb2.SynchronizeRequest(), LONG) is not None
        assert stub.counters.late_replies == 1
        assert answers == []
        parts.go_on.set()
        thread.join(LONG)
        assert answers == [nri_pb2.SynchronizeResponse(more=True)]
        assert stub.counters.late_replies == 1

    @pytest.mark.parametrize("left", [0.2, -100.0])
    def test_all_parts_of_a_state_have_one_timeout(
        self, connect: Connect, slow: Slow, left: float
    ) -> None:
        """The last part is answered before the runtime gives up, however late that part has come."""

        def synchronize(pods: Any, containers: Any) -> None:
            if pods[0].id == "last":
                slow()

        config = configuration(request_timeout=60_000)
        stub, peer = connect(PluginWith(synchronize=synchronize), config=config)
        (conn,) = stub._live()
        peer.call("Synchronize", nri_pb2.SynchronizeRequest(more=True), LONG)
        # As if the parts before had taken nearly all of it.
        within = conn.facts.answer_within
        conn.parts.due = time.monotonic() + conn.facts.request_timeout - within + left
        last = nri_pb2.SynchronizeRequest(pods=[nri_pb2.PodSandbox(id="last")])
        assert peer.call("Synchronize", last, LONG) == nri_pb2.SynchronizeResponse()
        assert stub.late_by_event == {"Synchronize": 1}
        # The answer may come before a thread has taken the part in.
        assert slow.entered.wait(LONG)
        slow.go_on.set()
        # The next state starts from nothing.
        assert Late(stub._spec, conn).limit() == within

    def test_the_last_part_is_answered_when_its_time_passes_before_it_is_parsed(
        self, connect: Connect, slow: Slow, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While it is not known to be the last one, there is no answer: the timer has to look again."""
        parsing, looked = threading.Event(), threading.Event()

        class Watched(Late):
            def answer(self, call: LateCall) -> bytes | Status | None:
                assert parsing.wait(LONG)
                outcome = super().answer(call)
                looked.set()
                return outcome

        measure = parts.measure

        def measure_after_the_look(data: bytes) -> Any:
            if is_last:
                parsing.set()
                assert looked.wait(LONG)
            return measure(data)

        is_last: list[bool] = []
        monkeypatch.setattr(parts, "measure", measure_after_the_look)
        monkeypatch.setattr("nri_sync.plugin.connection.Late", Watched)
        plugin = PluginWith(
            synchronize=lambda pods, containers: slow() if pods[0].id == "last" else None
        )
        stub, peer = connect(plugin, config=configuration(request_timeout=60_000))
        (conn,) = stub._live()
        peer.call("Synchronize", nri_pb2.SynchronizeRequest(more=True), LONG)
        conn.parts.due = time.monotonic() - 100.0
        is_last.append(True)
        last = nri_pb2.SynchronizeRequest(pods=[nri_pb2.PodSandbox(id="last")])
        assert peer.call("Synchronize", last, LONG) == nri_pb2.SynchronizeResponse()
        assert stub.late_by_event == {"Synchronize": 1}
        slow.go_on.set()

    @pytest.mark.parametrize("timeout", [10.0, None])
    def test_when_the_runtime_gives_up_on_a_state(
        self, connect: Connect, timeout: float | None
    ) -> None:
        """As its client says with each call, or, for a client that does not, from the first part on."""
        config = configuration(request_timeout=60_000)
        stub, peer = connect(PluginWith(synchronize=lambda pods, containers: None), config=config)
        (conn,) = stub._live()
        dues = []
        began = time.monotonic()
        for _ in range(2):
            peer.call("Synchronize", nri_pb2.SynchronizeRequest(more=True), timeout)
            dues.append(conn.parts.due)
        taken = time.monotonic() - began
        assert dues[0] is not None
        assert dues[1] is not None
        assert (dues[0] == dues[1]) is (timeout is None)
        assert 0 <= dues[0] - began - (timeout or 60.0) <= taken

    def test_a_last_part_that_is_being_parsed(self, connect: Connect) -> None:
        stub, _ = connect(PluginWith(synchronize=lambda pods, containers: None))
        (conn,) = stub._live()
        late = Late(stub._spec, conn)
        method = f"/{nri_pb2.DESCRIPTOR.package}.Plugin/Synchronize"
        call: Any = SimpleNamespace(method=method, payload=lambda: b"", about="")
        call.context = SimpleNamespace(request=None)
        conn.parts.is_complete = False
        assert late.answer(call) is None
        conn.parts.is_complete = True
        assert late.answer(call) == b""

    @pytest.mark.parametrize("required", [False, True])
    def test_a_request_that_waits_for_a_thread(self, connect: Connect, required: bool) -> None:
        stub, _ = connect(PluginWith(create_container=lambda pod, container: None))
        (conn,) = stub._live()
        names = api.format_required_plugins(["test" if required else "other"])
        request = nri_pb2.CreateContainerRequest(
            pod=nri_pb2.PodSandbox(name="p", annotations={api.REQUIRED_PLUGINS: names}),
            container=CONTAINER,
        )
        method = f"/{nri_pb2.DESCRIPTOR.package}.Plugin/CreateContainer"
        call: Any = SimpleNamespace(method=method, payload=request.SerializeToString, context=None)
        answer = Late(stub._spec, conn).answer(call)
        assert call.about.startswith("CreateContainer of /p")
        if required:
            assert isinstance(answer, Status)
            assert answer.code is StatusCode.DEADLINE_EXCEEDED
        else:
            assert answer == b""

    def test_an_answer_that_the_handler_overtakes_is_not_counted(
        self, hurried: Connect, slow: Slow, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answered, looked = threading.Event(), threading.Event()
        answer = Late.answer

        def answer_after_the_handler(late: Late, call: LateCall) -> bytes | Status | None:
            outcome = answer(late, call)
            slow.go_on.set()
            assert answered.wait(LONG)
            looked.set()
            return outcome

        monkeypatch.setattr(Late, "answer", answer_after_the_handler)
        slow.outcome = nri_pb2.ContainerAdjustment(args=["x"])
        stub, peer = hurried(PluginWith(create_container=slow))
        assert peer.call("CreateContainer", ADJUSTED, LONG).adjust.args == ["x"]
        answered.set()
        assert looked.wait(LONG)
        stub.stop()
        assert (stub.counters.late_replies, stub.late_by_event) == (0, {})

    def test_a_result_that_is_an_error_is_logged_as_one(
        self, hurried: Connect, slow: Slow, caplog: pytest.LogCaptureFixture
    ) -> None:
        slow.outcome = ValueError("too late")
        stub, peer = hurried(PluginWith(run_pod_sandbox=slow))
        peer.call("RunPodSandbox", nri_pb2.RunPodSandboxRequest(), LONG)
        slow.go_on.set()
        eventually(lambda: stub.counters.late_results == 1)
        text = "RunPodSandbox failed (ValueError: too late) after it had been answered for"
        eventually(lambda: text in caplog.text)

    @pytest.mark.parametrize("options", [{}, {"interceptors": [nri_sync.Interceptor()]}])
    def test_the_result_after_a_lost_connection_is_not_a_late_one(
        self,
        connect: Connect,
        slow: Slow,
        options: dict[str, Any],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        stub, peer = connect(PluginWith(run_pod_sandbox=slow), **options)

        def call() -> None:
            with pytest.raises(CallFailed):
                peer.call("RunPodSandbox", nri_pb2.RunPodSandboxRequest(), LONG)

        calling = in_thread(call)
        assert slow.entered.wait(LONG)
        peer.close()
        calling.join(LONG)
        assert stub.wait(LONG)
        slow.go_on.set()
        eventually(lambda: "the answer is not wanted any more" in caplog.text)
        assert stub.counters.late_results == 0

    def test_an_error_where_the_policy_wants_requests_to_fail(
        self, hurried: Connect, slow: Slow
    ) -> None:
        policy = nri_pb2.FailurePolicy(fail_request=True)
        plugin = PluginWith(create_container=slow)
        stub, peer = hurried(plugin, failure_policy=policy)
        with pytest.raises(CallFailed, match="10-test has not handled CreateContainer") as caught:
            peer.call("CreateContainer", ADJUSTED, LONG)
        assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
        assert stub.started

    @pytest.mark.parametrize("name", ["test", "10-test", "other"])
    @pytest.mark.parametrize("event", ["RunPodSandbox", "CreateContainer", "StopContainer"])
    @pytest.mark.parametrize("old", [False, True])
    def test_an_error_where_the_pod_requires_the_plugin(
        self, hurried: Connect, slow: Slow, name: str, event: str, old: bool
    ) -> None:
        """An empty reply would count as its work, and the pod run without it."""
        handlers: dict[str, Any] = {
            "run_pod_sandbox": slow, "create_container": slow, "stop_container": slow,
        }  # fmt: skip
        _, peer = hurried(PluginWith(**handlers))
        required = api.format_required_plugins([name])
        pod = nri_pb2.PodSandbox(id="p", name="p", annotations={api.REQUIRED_PLUGINS: required})
        request: Any = getattr(nri_pb2, f"{event}Request")(pod=pod)
        rpc = event
        if event != "RunPodSandbox":
            request.container.name = "c"
        elif old:
            rpc, request = (
                "StateChange",
                nri_pb2.StateChangeEvent(event=nri_pb2.RUN_POD_SANDBOX, pod=pod),
            )
        if name == "other" or event == "StopContainer":
            peer.call(rpc, request, LONG)
            return
        with pytest.raises(CallFailed, match=f"10-test has not handled {event} of /p"):
            peer.call(rpc, request, LONG)

    def test_an_annotation_that_cannot_be_read(self, hurried: Connect, slow: Slow) -> None:
        _, peer = hurried(PluginWith(run_pod_sandbox=slow))
        pod = nri_pb2.PodSandbox(annotations={api.REQUIRED_PLUGINS: "{test"})
        peer.call("RunPodSandbox", nri_pb2.RunPodSandboxRequest(pod=pod), LONG)

    def test_a_validation_is_never_approved_unseen(self, hurried: Connect, slow: Slow) -> None:
        plugin = PluginWith(validate_container_adjustment=slow)
        stub, peer = hurried(plugin)
        request = nri_pb2.ValidateContainerAdjustmentRequest()
        with pytest.raises(CallFailed, match="has not handled ValidateContainerAdjustment"):
            peer.call("ValidateContainerAdjustment", request, LONG)
        assert stub.started

    def test_none_for_configure_and_shutdown(self, hurried: Connect, slow: Slow) -> None:
        plugin = PluginWith(shutdown=slow)
        stub, peer = hurried(plugin)
        with pytest.raises(CallFailed) as caught:
            peer.call("Shutdown", nri_pb2.Empty(), 0.5)
        assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
        assert stub.counters.late_replies == 0

    def test_none_where_they_are_off(self, hurried: Connect, slow: Slow) -> None:
        plugin = PluginWith(create_container=slow)
        stub, peer = hurried(plugin, late_reply=False)
        with pytest.raises(CallFailed) as caught:
            peer.call("CreateContainer", ADJUSTED, 0.5)
        assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
        assert stub.counters.late_replies == 0

    def test_the_context_tells(self, hurried: Connect, slow: Slow) -> None:
        told = threading.Event()

        def handler(pod: object, container: object) -> None:
            if not nri_sync.request_context().add_callback(told.set):
                told.set()  # the answer came before this thread
            slow()

        _, peer = hurried(PluginWith(create_container=handler))
        peer.call("CreateContainer", ADJUSTED, LONG)
        assert told.wait(LONG)

    @pytest.mark.parametrize(
        ("timeout", "limit"), [(2.0, 1.8), (30.0, 27.0), (0.3, 0.25), (0.08, 0.04)]
    )
    def test_when(self, timeout: float, limit: float) -> None:
        class Conn:
            facts = Facts(EventMask(0), 5.0)
            answer_within: float | None = facts._replace(request_timeout=timeout).answer_within
            parts = PartsOfState()

        plugin: Any = None
        conn = Conn()
        assert Late(plugin, conn).limit() == pytest.approx(limit)
        conn.answer_within = None
        assert Late(plugin, conn).limit() is None

    def test_delays_are_counted_and_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        # A new logger: on a busy machine, other stubs may log the same of their threads.
        logger = logging.getLogger("nri_sync.delayed")

        def warnings() -> list[str]:
            return [r.getMessage()[6:39] for r in caplog.records if r.name == logger.name]

        plugin = PluginWith(shutdown=lambda: None)
        stub = nri_sync.Stub(plugin, name="x", idx=1, logger=logger)
        late = Late(stub._spec, stub._new_connection(LONG))
        late.clock_ran(0.05)
        assert (stub.timer_delay, stub.counters.timer_delays) == (0.05, 0)
        assert not warnings()
        late.clock_ran(0.4)
        assert (stub.timer_delay, stub.counters.timer_delays) == (0.4, 1)
        assert warnings() == ["the timer thread ran 400 ms late:"]
        late.clock_ran(0.3)
        assert (stub.timer_delay, stub.counters.timer_delays) == (0.38, 2)
        assert len(warnings()) == 1
        # It fades.
        for _ in range(20):
            late.clock_ran(0.0)
        assert 0.1 < stub.timer_delay < 0.2

    def test_a_delay_is_kept_for_the_sessions_that_follow(self) -> None:
        stub = nri_sync.Stub(PluginWith(shutdown=lambda: None), name="x", idx=1)
        Late(stub._spec, stub._new_connection(LONG)).clock_ran(0.2)
        assert Late(stub._spec, stub._new_connection(LONG)).ahead() == pytest.approx(1.2)

    def test_not_before_it_is_configured(self) -> None:
        stub = nri_sync.Stub(PluginWith(shutdown=lambda: None), name="x", idx=1)
        assert stub._new_connection(LONG).answer_within is None


class Fleeting:
    """A context whose request disappears after one look, as at the end of the call."""

    def __init__(self, request: Any) -> None:
        self._requests = [request]

    @property
    def request(self) -> Any:
        return self._requests.pop() if self._requests else None


@pytest.mark.parametrize("rpc", ["CreateContainer", "Synchronize"])
@pytest.mark.parametrize("seen", [True, False])
def test_the_call_ends_during_the_look(rpc: str, seen: bool) -> None:
    """The timer thread reads the request of a call that another thread ends."""
    request = ADJUSTED if rpc == "CreateContainer" else nri_pb2.SynchronizeRequest(pods=[POD])
    call: Any = SimpleNamespace(
        method=f"/nri.pkg.api.v1alpha1.Plugin/{rpc}",
        about="",
        context=Fleeting(request if seen else None),
        payload=lambda: b"\xff",
    )
    stub = nri_sync.Stub(PluginWith(shutdown=lambda: None), name="x", idx=1)
    late = Late(stub._spec, stub._new_connection(LONG))
    answer = late.answer(call)
    if seen:
        assert answer == b""
    elif rpc == "Synchronize":
        assert answer is None
    else:  # it cannot be parsed, and the pod may require the plugin
        assert isinstance(answer, Status)
        assert answer.code is StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    "method", ["/nri.pkg.api.v1alpha1.Plugin/Newer", "/other.Service/CreateContainer", ""]
)
def test_an_unknown_method_that_waits_for_a_thread(method: str) -> None:
    """An empty reply would say that the plugin has it: a newer runtime would send no StateChange."""
    stub = nri_sync.Stub(PluginWith(shutdown=lambda: None), name="x", idx=1)
    late = Late(stub._spec, stub._new_connection(LONG))
    call: Any = SimpleNamespace(method=method, about="", context=None, payload=lambda: b"")
    answer = late.answer(call)
    assert isinstance(answer, Status)
    assert answer == (StatusCode.UNIMPLEMENTED, f"method {method.rpartition('/')[2]}", None)
    late.won(call)
    assert stub.late_by_event == {"UnknownMethod": 1}
