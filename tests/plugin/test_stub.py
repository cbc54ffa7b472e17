"""The stub: its construction, its calls and its attributes, alone and in new processes.

How its calls meet each other is tested in test_interleavings.py, and with signals in test_signals.py.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import logging
import os
import queue
import socket
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import grpc
import pytest

import nri_sync
from nri_sync import api, errors
from nri_sync.api import EventMask, nri_pb2
from nri_sync.codes import StatusCode
from nri_sync.errors import CallFailed
from nri_sync.plugin.state import State
from nri_sync.runtime import Peer
from tests.outputs import without_busy_warnings
from tests.plugin.conftest import Connect, MakeStub, Serve
from tests.plugin.harness import (
    CONTAINER,
    LONG,
    POD,
    PluginWith,
    Recorder,
    Runtime,
    configuration,
    descriptors,
    eventually,
    tasks,
)

__all__: list[str] = []

CREATE = nri_pb2.CreateContainerRequest(pod=POD, container=CONTAINER)
RUN_POD = nri_pb2.RunPodSandboxRequest(pod=POD)
UPDATE = nri_pb2.ContainerUpdate(container_id="ctr0")
OTHER = nri_pb2.ContainerUpdate(container_id="ctr1")


class TestMaking:
    def test_it_does_nothing_yet(self) -> None:
        # A thread that an earlier test has left may end, or start another one, at the same moment: compared again.
        for _ in range(10):
            before = (descriptors(), tasks())
            stub = nri_sync.Stub(Recorder(), name="logger", idx=7)
            after = (descriptors(), tasks())
            if after == before:
                break
        assert after == before
        assert (stub.name, stub.idx, stub.base_name) == ("07-logger", "07", "logger")
        assert (stub.state, stub.started) == (State.IDLE, False)
        assert stub.events == EventMask.ALL
        assert stub.missing_events == 0
        assert stub.close_reason is None
        assert (stub.registration_timeout, stub.request_timeout) == (5.0, 2.0)
        assert (stub.runtime_name, stub.runtime_version) == ("", "")
        assert stub.runtime_nri_version == "unknown"
        assert stub.plugin_nri_version == api.NRI_VERSION
        assert stub.counters == nri_sync.Counters()
        assert repr(stub) == "<nri_sync.Stub 07-logger idle>"

    def test_its_properties_cannot_be_set(self) -> None:
        stub = nri_sync.Stub(Recorder(), name="logger", idx=7)
        for name in (
            "state", "started", "events", "close_reason", "counters", "request_timeout",
            "registration_timeout", "runtime_name", "runtime_version", "runtime_nri_version",
            "missing_events",
        ):  # fmt: skip
            with pytest.raises(AttributeError):
                setattr(stub, name, None)

    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"dialer": "dial"}, TypeError, "dialer must be callable, not str"),
            ({"on_close": 5}, TypeError, "on_close must be callable, not int"),
            ({"failure_policy": True}, TypeError, "must be an api.FailurePolicy, not bool"),
            (
                {"required_events": 1 << 20},
                ValueError,
                "required_events has events without a handler",
            ),
            ({"registration_timeout": 0}, ValueError, "must be positive, not 0"),
            ({"registration_timeout": -1.0}, ValueError, "must be positive"),
            ({"registration_timeout": float("nan")}, ValueError, "must be positive"),
            ({"registration_timeout": "5"}, TypeError, "not supported"),
            ({"interceptors": [object()]}, TypeError, "derive its class from nri_sync.Interceptor"),
            ({"connection": 3}, TypeError, "connection must be a socket"),
            ({"name": "a b"}, errors.IdentityError, "plugin name"),
            ({"idx": "100"}, errors.IdentityError, "plugin index"),
        ],
    )
    def test_wrong_arguments(self, options: Any, error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text):
            nri_sync.Stub(Recorder(), **{"name": "test", "idx": "10", **options})

    def test_the_plugin_is_looked_at_first(self) -> None:
        with pytest.raises(errors.PluginError):
            nri_sync.Stub(object(), name="a b", idx="x")

    def test_a_connection_is_not_taken_over_when_making_fails(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            with pytest.raises(errors.IdentityError):
                nri_sync.Stub(Recorder(), name="a b", idx=1, connection=ours)
            ours.sendall(b"x")

    def test_it_can_be_collected(self) -> None:
        stub = nri_sync.Stub(PluginWith(shutdown=lambda: None), name="test", idx=1)
        reference = weakref.ref(stub)
        del stub
        assert reference() is None

    def test_one_that_was_used_can_be_collected(self, serve: Serve, socket_dir: Path) -> None:
        import gc

        serve()
        stub = nri_sync.Stub(
            Recorder(), name="test", idx=1, socket_path=str(socket_dir / "nri.sock")
        )
        with stub:
            assert stub.started
        reference = weakref.ref(stub)
        del stub

        def is_collected() -> bool:
            gc.collect()
            return reference() is None

        eventually(is_collected)


class TestTalking:
    def test_the_facts_of_the_runtime(self, connect: Connect) -> None:
        config = configuration(
            runtime_name="containerd",
            runtime_version="v2.4.0",
            registration_timeout=7000,
            request_timeout=3000,
            NRI_version="v0.12.5",
        )
        stub, peer = connect(Recorder(), config=config)
        for _ in range(2):
            assert (stub.registration_timeout, stub.request_timeout) == (7.0, 3.0)
            assert (stub.runtime_name, stub.runtime_version) == ("containerd", "v2.4.0")
            assert stub.runtime_nri_version == "v0.12.5"
            # It outlives the session.
            stub.stop()
        assert (peer.name, peer.nri_version) == ("10-test", api.NRI_VERSION)

    def test_timeouts_that_an_old_runtime_does_not_send(
        self, serve: Serve, make_stub: MakeStub
    ) -> None:
        serve(config=configuration(registration_timeout=0, request_timeout=0))
        stub = make_stub(Recorder(), registration_timeout=17.0)
        for _ in range(2):
            with stub:
                assert (stub.registration_timeout, stub.request_timeout) == (17.0, 2.0)
        assert stub.counters.restarts == 1

    def test_counters(self, serve: Serve, make_stub: MakeStub) -> None:
        with pytest.raises(errors.StartError):
            (stub := make_stub(Recorder(create_container=ValueError("no")))).start()
        runtime = serve(update_containers=lambda updates, evictions: [])
        for number in range(2):
            stub.start()
            peer = runtime.peer()
            peer.call("RunPodSandbox", RUN_POD, LONG)
            with pytest.raises(CallFailed):
                peer.call("CreateContainer", CREATE, LONG)
            stub.update_containers([])
            peer.close()
            assert stub.wait(LONG)
            # It is counted when the state is IDLE already.
            eventually(lambda: stub.counters.losses > number)  # noqa: B023
        assert stub.counters == nri_sync.Counters(
            sessions=2, failed_starts=1, losses=2, requests=8, errors=2, updates=2
        )
        assert stub.counters.restarts == 1


class TestUpdateContainers:
    def make(self, serve: Serve, make_stub: MakeStub, update: Any) -> nri_sync.Stub:
        runtime = serve(update_containers=update)
        stub = make_stub(Recorder())
        stub.start()
        runtime.peer()  # it takes updates once it has configured the plugin
        return stub

    def test_all_succeed(self, serve: Serve, make_stub: MakeStub) -> None:
        seen = []

        def update(updates: Any, evictions: Any) -> Any:
            seen.append((updates, evictions))
            return []

        stub = self.make(serve, make_stub, update)
        eviction = nri_pb2.ContainerEviction(container_id="ctr1", reason="why")
        assert stub.update_containers([UPDATE, api.Update("ctr1")], evict=[eviction]) == []
        assert stub.update_containers(iter([UPDATE])) == []
        assert stub.update_containers() == []
        assert seen == [([UPDATE, OTHER], [eviction]), ([UPDATE], []), ([], [])]

    def test_some_fail(self, serve: Serve, make_stub: MakeStub) -> None:
        stub = self.make(serve, make_stub, lambda updates, evictions: updates[1:])
        assert stub.update_containers([UPDATE, OTHER]) == [OTHER]

    @pytest.mark.parametrize("on_main", [True, False])
    def test_on_any_thread(self, serve: Serve, make_stub: MakeStub, on_main: bool) -> None:
        def update(updates: Any, evictions: Any) -> Any:
            if not updates:
                raise ValueError("nothing to do")
            return updates

        stub = self.make(serve, make_stub, update)
        outcomes: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def call() -> None:
            outcomes.put(stub.update_containers([UPDATE]))
            try:
                stub.update_containers([])
            except CallFailed as error:
                outcomes.put((error.code(), error.details()))

        if on_main:
            call()
        else:
            thread = threading.Thread(target=call)
            thread.start()
            thread.join(LONG)
        assert outcomes.get(timeout=LONG) == [UPDATE]
        expected = (StatusCode.UNKNOWN, "ValueError: nothing to do")
        assert outcomes.get(timeout=LONG) == expected

    @pytest.mark.parametrize("on_main", [True, False])
    @pytest.mark.parametrize("timeout", [0.05, 0, -1])
    def test_a_timeout(
        self, serve: Serve, make_stub: MakeStub, on_main: bool, timeout: float
    ) -> None:
        go_on = threading.Event()
        stub = self.make(serve, make_stub, lambda updates, evictions: go_on.wait(LONG) and [])
        outcomes: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def call() -> None:
            try:
                stub.update_containers([UPDATE], timeout=timeout)
            except CallFailed as error:
                outcomes.put(error.code())

        if on_main:
            call()
        else:
            thread = threading.Thread(target=call)
            thread.start()
            thread.join(LONG)
        assert outcomes.get(timeout=LONG) is StatusCode.DEADLINE_EXCEEDED
        go_on.set()
        assert stub.update_containers([UPDATE]) == []  # the connection is fine

    def test_updates_that_cannot_be_sent(self, serve: Serve, make_stub: MakeStub) -> None:
        stub = self.make(serve, make_stub, lambda updates, evictions: [])
        with pytest.raises(TypeError):
            stub.update_containers(["ctr0"])  # type: ignore[list-item]
        huge = nri_pb2.ContainerUpdate(container_id="x" * 5_000_000)
        with pytest.raises(CallFailed, match="exceeds the 4194304") as caught:
            stub.update_containers([huge])
        assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
        assert stub.update_containers([UPDATE]) == []

    def test_before_a_start_and_after_a_stop(self, serve: Serve, make_stub: MakeStub) -> None:
        runtime = serve(update_containers=lambda updates, evictions: [])
        stub = make_stub(Recorder())
        for _ in range(2):
            with pytest.raises(errors.NotConnected, match="plugin 10-test is idle: start"):
                stub.update_containers([UPDATE])
            with stub:
                runtime.peer()
                stub.update_containers([UPDATE])

    def test_while_it_starts(self, serve: Serve, make_stub: MakeStub) -> None:
        def configure(config: str, runtime: str, version: str) -> None:
            with pytest.raises(errors.NotConnected, match="plugin 10-test is starting"):
                stub.update_containers([UPDATE])

        stub = self.make_only(serve, make_stub, configure)
        stub.start()
        assert stub.started

    def test_in_a_repeated_configure(self, serve: Serve, make_stub: MakeStub) -> None:
        # The runtime holds its lock in events only.
        results: list[Any] = []

        def configure(config: str, runtime: str, version: str) -> None:
            if stub.started:
                results.append(stub.update_containers([UPDATE]))

        runtime = serve(
            config=configuration(runtime_name="containerd"),
            update_containers=lambda updates, evictions: [],
        )
        stub = make_stub(PluginWith(configure=configure))
        stub.start()
        runtime.peer().configure(configuration(runtime_name="containerd"), LONG)
        assert results == [[]]

    def make_only(self, serve: Serve, make_stub: MakeStub, configure: Any) -> nri_sync.Stub:
        serve(update_containers=lambda updates, evictions: [])
        return make_stub(PluginWith(configure=configure))

    @pytest.mark.parametrize(
        ("runtime_name", "refused"), [("containerd", True), ("cri-o", True), ("other", False)]
    )
    def test_in_a_handler(
        self, serve: Serve, make_stub: MakeStub, runtime_name: str, refused: bool
    ) -> None:
        outcomes: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def handler(pod: object, container: object) -> None:
            try:
                outcomes.put(stub.update_containers([UPDATE]))
            except errors.WouldDeadlock as error:
                outcomes.put(str(error))

        runtime = serve(
            config=configuration(runtime_name=runtime_name),
            update_containers=lambda updates, evictions: [],
        )
        stub = make_stub(PluginWith(create_container=handler))
        stub.start()
        runtime.peer().call("CreateContainer", CREATE, LONG)
        outcome = outcomes.get(timeout=LONG)
        if refused:
            assert f"inside create_container: {runtime_name} does not answer it" in outcome
        else:
            assert outcome == []

    @pytest.mark.parametrize("on_main", [True, False])
    def test_the_connection_is_lost(self, serve: Serve, make_stub: MakeStub, on_main: bool) -> None:
        def update(updates: Any, evictions: Any) -> Any:
            peers[0].close()
            peers[0].wait_closed(LONG)
            return []

        runtime = serve(update_containers=update)
        stub = make_stub(Recorder())
        stub.start()
        peers = [runtime.peer()]
        outcomes: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def call() -> None:
            try:
                stub.update_containers([UPDATE], timeout=LONG)
            except CallFailed as error:
                outcomes.put((error.code(), error.details()))

        if on_main:
            call()
        else:
            threading.Thread(target=call).start()
        code, details = outcomes.get(timeout=LONG)
        assert code is StatusCode.UNAVAILABLE
        assert "the peer closed the connection" in details


class TestOnClose:
    def test_once_for_each_loss_when_idle_and_with_the_reason(
        self, serve: Serve, make_stub: MakeStub
    ) -> None:
        told: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def on_close(stub: nri_sync.Stub) -> None:
            told.put((stub, stub.state, stub.close_reason, threading.current_thread().name))

        runtime = serve()
        stub = make_stub(Recorder(), on_close=on_close)
        for _ in range(3):
            stub.start()
            runtime.peer().close()
            who, state, reason, thread = told.get(timeout=LONG)
            assert (who, state, thread) == (stub, State.IDLE, "10-test-on-close")
            assert isinstance(reason, errors.ConnectionLost)
            assert reason.phase == "serve"
        with stub:
            pass
        assert told.empty()

    def test_not_after_a_start_that_failed(self, make_stub: MakeStub) -> None:
        told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        stub = make_stub(Recorder(), on_close=told.put)
        with pytest.raises(errors.StartError):
            stub.start()
        assert told.empty()

    @pytest.mark.leaves_threads
    def test_its_exception_goes_to_the_excepthook(
        self, serve: Serve, make_stub: MakeStub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: queue.SimpleQueue[Any] = queue.SimpleQueue()
        monkeypatch.setattr(
            threading, "excepthook", lambda arguments: seen.put(arguments.exc_value)
        )

        def on_close(stub: nri_sync.Stub) -> None:
            raise ValueError("cannot cope")

        runtime = serve()
        stub = make_stub(Recorder(), on_close=on_close)
        stub.start()
        runtime.peer().close()
        assert str(seen.get(timeout=LONG)) == "cannot cope"
        stub.start()
        assert stub.started

    def test_a_stop_that_ends_its_start_is_no_error(
        self,
        serve: Serve,
        make_stub: MakeStub,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.INFO, "nri_sync")
        reported: list[object] = []
        monkeypatch.setattr(threading, "excepthook", reported.append)
        runtime = serve()
        callers: list[threading.Thread] = []
        restarting = threading.Event()

        def on_close(stub: nri_sync.Stub) -> None:
            callers.append(threading.current_thread())
            restarting.set()
            stub.start()

        class Stopping(Recorder):
            def configure(self, config: str, name: str, version: str) -> None:
                if restarting.is_set():
                    stub.stop()

        stub = make_stub(Stopping(), on_close=on_close)
        stub.start()
        runtime.peer().close()
        assert restarting.wait(LONG)
        callers[0].join(LONG)
        assert (reported, stub.state) == ([], State.IDLE)
        assert "on_close has ended: plugin 10-test: stopped while it was starting" in caplog.text


class TestRunAndWait:
    def test_run_returns_after_a_stop(self, serve: Serve, make_stub: MakeStub) -> None:
        runtime = serve()
        stub = make_stub(Recorder())
        runner = threading.Thread(target=stub.run)
        runner.start()
        runtime.peer()
        stub.stop()
        runner.join(LONG)
        assert not runner.is_alive()

    def test_run_raises_after_a_loss(self, serve: Serve, make_stub: MakeStub) -> None:
        runtime = serve()
        stub = make_stub(Recorder())
        threading.Thread(target=lambda: runtime.peer().close()).start()
        with pytest.raises(errors.ConnectionLost) as caught:
            stub.run()
        assert caught.value is stub.close_reason

    def test_run_raises_the_exception_of_start(self, serve: Serve, make_stub: MakeStub) -> None:
        stub = make_stub(Recorder())
        with pytest.raises(errors.StartError):
            stub.run()
        serve()
        with stub, pytest.raises(errors.AlreadyStarted, match="plugin 10-test is started"):
            stub.run()

    def test_wait(self, serve: Serve, make_stub: MakeStub) -> None:
        runtime = serve()
        stub = make_stub(Recorder())
        assert stub.wait()
        stub.start()
        assert not stub.wait(0)
        assert not stub.wait(0.01)
        runtime.peer().close()
        assert stub.wait(LONG)
        assert stub.wait(0)

    def test_wait_synchronized(self, serve: Serve, make_stub: MakeStub) -> None:
        inside, may_return = threading.Event(), threading.Event()
        asked: list[bool] = []

        def synchronize(pods: Any, containers: Any) -> None:
            asked.append(stub.wait_synchronized())  # which could never come here
            inside.set()
            assert may_return.wait(LONG)

        serve()
        stub = make_stub(PluginWith(synchronize=synchronize))
        assert not stub.wait_synchronized(LONG)  # there is no session
        stub.start()
        assert not stub.wait_synchronized(0.01)
        waiting = concurrent.futures.ThreadPoolExecutor(2)
        with waiting:
            found = [waiting.submit(stub.wait_synchronized, LONG) for _ in range(2)]
            assert inside.wait(LONG)
            assert not any(future.done() for future in found)
            may_return.set()
            assert [future.result(LONG) for future in found] == [True, True]
        assert asked == [False]
        assert stub.wait_synchronized()
        stub.stop()
        assert not stub.wait_synchronized(LONG)

    @pytest.mark.parametrize("ends", ["is lost", "is stopped"])
    def test_a_session_that_ends_before_it_is_synchronized(
        self, serve: Serve, make_stub: MakeStub, ends: str
    ) -> None:
        runtime = serve(synchronize=False)
        stub = make_stub(Recorder())
        stub.start()
        with concurrent.futures.ThreadPoolExecutor(1) as waiting:
            found = waiting.submit(stub.wait_synchronized)
            runtime.peer().close() if ends == "is lost" else stub.stop()
            assert found.result(LONG) is False

    def test_with(self, serve: Serve, make_stub: MakeStub) -> None:
        serve()
        stub = make_stub(Recorder())
        with stub as entered:
            assert entered is stub
            assert stub.started
            assert repr(stub) == "<nri_sync.Stub 10-test started>"
        assert stub.state is State.IDLE
        with pytest.raises(KeyError), stub:
            raise KeyError
        assert stub.state is State.IDLE


class TestConnectionSources:
    def test_a_given_connection_serves_once(self, socket_dir: Path) -> None:
        ours, theirs = socket.socketpair()
        stub = nri_sync.Stub(Recorder(), name="test", idx=1, connection=ours)
        peer = OnePeer(theirs)
        stub.start()
        peer.connected()
        stub.stop()
        assert peer.wait_closed(LONG)
        assert ours.fileno() == -1
        for _ in range(2):
            with pytest.raises(
                errors.StartError, match=r"has been used up.*pass dialer="
            ) as caught:
                stub.start()
            assert caught.value.phase == "dial"

    def test_then_the_runtime_s_socket(
        self, serve: Serve, make_stub: MakeStub, socket_dir: Path
    ) -> None:
        ours, theirs = socket.socketpair()
        path = str(socket_dir / "nri.sock")
        stub = make_stub(Recorder(), connection=ours, socket_path=path)
        peer = OnePeer(theirs)
        stub.start()
        peer.connected()
        peer.close()
        assert stub.wait(LONG)
        runtime = serve()
        stub.start()
        assert runtime.peer().name == "10-test"

    def test_a_dialer(self, serve: Serve, make_stub: MakeStub, socket_dir: Path) -> None:
        runtime = serve()
        asked = []

        def dialer(path: str) -> socket.socket:
            asked.append(path)
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(LONG)
            sock.connect(str(socket_dir / "nri.sock"))
            return sock

        stub = make_stub(Recorder(), dialer=dialer, socket_path="/elsewhere")
        for _ in range(2):
            with stub:
                runtime.peer()
        assert asked == ["/elsewhere"] * 2

    @pytest.mark.parametrize(
        ("failure", "text"),
        [
            (KeyError("tunnel"), "the dialer failed for /elsewhere: KeyError: 'tunnel'"),
            (None, "the dialer returned NoneType, not a connected socket"),
        ],
    )
    def test_a_dialer_that_fails(self, make_stub: MakeStub, failure: Any, text: str) -> None:
        def dialer(path: str) -> Any:
            if failure:
                raise failure

        stub = make_stub(Recorder(), dialer=dialer, socket_path="/elsewhere")
        with pytest.raises(errors.StartError, match=text) as caught:
            stub.start()
        assert caught.value.phase == "dial"
        assert not isinstance(caught.value, errors.StartTimeout)


class OnePeer(Peer):
    """A runtime for one connection, which takes the plugin through registration on its own thread."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.wait_registered(LONG)
        self.configure(configuration(), LONG)

    def connected(self) -> None:
        """Wait until it is done."""
        self._thread.join(LONG)
        assert self.events


class Watching(grpc.ServerInterceptor):
    """Notes the methods that the runtime calls, and may refuse some."""

    def __init__(self, name: str, log: list[str], refuse: str = "") -> None:
        self._name = name
        self._log = log
        self._refuse = refuse

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        method = details.method.rpartition("/")[2]
        self._log.append(f"{self._name} {method}")
        if method == self._refuse:

            def refuse(request: bytes, context: grpc.ServicerContext) -> Any:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "not allowed")

            return grpc.unary_unary_rpc_method_handler(refuse)
        return continuation(details)


class Around(grpc.ServerInterceptor):
    """Does something around CreateContainer: before or after the handler, or when the call is over."""

    def __init__(self, when: str, act: Callable[[], None]) -> None:
        self._when = when
        self._act = act

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)
        if not details.method.endswith("/CreateContainer"):
            return handler

        def behaviour(request: Any, context: grpc.ServicerContext) -> Any:
            if self._when == "over":
                context.add_callback(self._act)
            if self._when == "before":
                self._act()
            response = handler.unary_unary(request, context)
            if self._when == "after":
                self._act()
            return response

        return grpc.unary_unary_rpc_method_handler(
            behaviour, handler.request_deserializer, handler.response_serializer
        )


class Marking(grpc.UnaryUnaryClientInterceptor):
    def __init__(self, log: list[str]) -> None:
        self._log = log

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self._log.append(details.method)
        return continuation(details, request)


class TestInterceptors:
    def test_of_both_kinds_in_order(self, serve: Serve, make_stub: MakeStub) -> None:
        log: list[str] = []
        runtime = serve(update_containers=lambda updates, evictions: updates)
        interceptors = [Watching("outer", log), Marking(log), Watching("inner", log)]
        stub = make_stub(Recorder(), interceptors=interceptors)
        stub.start()
        peer = runtime.peer()
        expected = ["outer Configure", "inner Configure", "outer Synchronize", "inner Synchronize"]
        assert log == expected
        del log[:]
        peer.call("CreateContainer", CREATE, LONG)
        assert log == ["outer CreateContainer", "inner CreateContainer"]
        del log[:]
        assert stub.update_containers([UPDATE]) == [UPDATE]
        assert log == ["/nri.pkg.api.v1alpha1.Runtime/UpdateContainers"]

    def test_one_may_refuse(self, serve: Serve, make_stub: MakeStub) -> None:
        runtime = serve()
        plugin = Recorder()
        stub = make_stub(plugin, interceptors=[Watching("x", [], refuse="CreateContainer")])
        stub.start()
        peer = runtime.peer()
        with pytest.raises(CallFailed, match="not allowed"):
            peer.call("CreateContainer", CREATE, LONG)
        assert stub.started
        plugin.expect("configure")
        plugin.expect("synchronize")
        assert plugin.calls.empty()

    @pytest.mark.parametrize("when", ["before", "after", "over"])
    def test_one_that_stops_the_stub_is_answered_first(
        self, serve: Serve, make_stub: MakeStub, when: str
    ) -> None:
        stopped = threading.Event()

        def stop() -> None:
            stub.stop()
            stopped.set()

        runtime = serve()
        plugin = PluginWith(create_container=lambda pod, container: api.Adjustment())
        stub = make_stub(plugin, interceptors=[Around(when, stop)])
        stub.start()
        peer = runtime.peer()
        assert peer.call("CreateContainer", CREATE, LONG).HasField("adjust")
        assert stopped.wait(LONG)
        assert stub.wait(LONG)
        assert not stub.started
        peer.wait_closed(LONG)

    def test_one_that_has_the_handler_called_on_another_thread(
        self, serve: Serve, make_stub: MakeStub
    ) -> None:
        class Elsewhere(grpc.ServerInterceptor):
            def intercept_service(self, continuation: Any, details: Any) -> Any:
                handler = continuation(details)

                def behaviour(request: Any, context: grpc.ServicerContext) -> Any:
                    return pool.submit(handler.unary_unary, request, context).result(LONG)

                return grpc.unary_unary_rpc_method_handler(
                    behaviour, handler.request_deserializer, handler.response_serializer
                )

        def stop(pod: object, container: object) -> api.Adjustment:
            stub.stop()
            return api.Adjustment()

        runtime = serve()
        stub = make_stub(PluginWith(create_container=stop), interceptors=[Elsewhere()])
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            stub.start()
            peer = runtime.peer()
            assert peer.call("CreateContainer", CREATE, LONG).HasField("adjust")
            assert stub.wait(LONG)
        peer.wait_closed(LONG)

    @pytest.mark.parametrize(
        ("when", "name"), [("before", "CreateContainer"), ("after", "create_container")]
    )
    def test_one_that_would_wait_for_itself(
        self, serve: Serve, make_stub: MakeStub, when: str, name: str
    ) -> None:
        outcomes: queue.SimpleQueue[str] = queue.SimpleQueue()

        def update() -> None:
            with pytest.raises(errors.WouldDeadlock) as caught:
                stub.update_containers([UPDATE])
            outcomes.put(str(caught.value))

        runtime = serve(
            config=configuration(runtime_name="containerd"),
            update_containers=lambda updates, evictions: [],
        )
        plugin = PluginWith(create_container=lambda pod, container: None)
        stub = make_stub(plugin, interceptors=[Around(when, update)])
        stub.start()
        runtime.peer().call("CreateContainer", CREATE, LONG)
        assert f"inside {name}: containerd does not answer it" in outcomes.get(timeout=LONG)


def session_threads() -> list[threading.Thread]:
    prefixes = ("10-test", "01-x", "nri-plugin-")
    return [thread for thread in threading.enumerate() if thread.name.startswith(prefixes)]


def test_nothing_leaks(serve: Serve, make_stub: MakeStub) -> None:
    runtime: Runtime = serve()
    stub = make_stub(Recorder())
    with stub:
        runtime.peer().call("RunPodSandbox", RUN_POD, LONG)
    eventually(lambda: not session_threads())
    open_before, tasks_before = descriptors(), tasks()
    for number in range(20):
        stub.start()
        peer = runtime.peer()
        peer.call("CreateContainer", CREATE, LONG)
        if number % 2:
            stub.stop()
        else:
            peer.close()
            assert stub.wait(LONG)
        with pytest.raises(errors.StartError):
            nri_sync.Stub(Recorder(), name="x", idx=1, socket_path="/nowhere").start()
    eventually(lambda: not session_threads())
    # The kernel may still count a thread that has come to its end.
    eventually(lambda: tasks() <= tasks_before and descriptors() <= open_before)
    assert stub.counters.sessions == 21


# In processes of their own

PLUGIN = """
    import json, os, sys, threading
    import nri_sync

    class Plugin:
        def run_pod_sandbox(self, pod):
            pass

    def sockets():
        links = [os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd")]
        return {os.readlink(link) for link in links if os.path.lexists(link)
                and os.readlink(link).startswith("socket:")}

    def tell(**facts):
        # Not by print(): an exit while a daemon thread is in it would abort the process.
        os.write(1, (json.dumps(facts) + "\\n").encode())

    stub = nri_sync.Stub(Plugin(), name="process", idx=20, socket_path=sys.argv[1])
"""


class Process:
    """A plugin in a new process, whose output the test reads line by line."""

    def __init__(self, script: str, *arguments: str, **options: Any) -> None:
        code = textwrap.dedent(PLUGIN) + textwrap.dedent(script)
        options.setdefault("env", {**os.environ, "PYTHONWARNINGS": "ignore"})
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def told(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate(timeout=LONG)
        facts: dict[str, Any] = json.loads(line)
        return facts

    def end(self) -> tuple[int, str]:
        """Let it go on, and wait for its end: the exit status, and the text on stderr."""
        _, errors = self.process.communicate(timeout=LONG)
        return self.process.returncode, without_busy_warnings(errors)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def process(socket_dir: Path) -> Iterator[Callable[..., Process]]:
    made: list[Process] = []

    def make(script: str, **options: Any) -> Process:
        made.append(Process(script, str(socket_dir / "nri.sock"), **options))
        return made[-1]

    yield make
    for item in made:
        with contextlib.suppress(ValueError):
            item.close()


class TestProcesses:
    @pytest.mark.parametrize(
        "ending",
        ["", "sys.exit()", "import atexit; atexit.register(stub.stop)", "stub.stop()"],
        ids=["end", "exit", "atexit", "stop"],
    )
    def test_one_that_comes_to_its_end_exits(
        self, serve: Serve, process: Callable[..., Process], ending: str
    ) -> None:
        runtime = serve()
        plugin = process(f"stub.start()\ntell(started=stub.started)\nsys.stdin.read()\n{ending}\n")
        peer = runtime.peer()
        assert plugin.told() == {"started": True}
        assert plugin.end() == (0, "")
        assert peer.wait_closed(LONG)

    def test_one_whose_handler_never_returns_exits(
        self, serve: Serve, process: Callable[..., Process]
    ) -> None:
        runtime = serve()
        script = """
            Plugin.create_container = lambda self, pod, container: (tell(entered=True), threading.Event().wait())
            stub = nri_sync.Stub(Plugin(), name="process", idx=20, socket_path=sys.argv[1])
            stub.start()
            sys.stdin.read()
        """
        plugin = process(script)
        peer = runtime.peer()
        caller = threading.Thread(
            target=suppressed, args=(peer.call, "CreateContainer", CREATE, LONG)
        )
        caller.start()
        assert plugin.told() == {"entered": True}
        assert plugin.end() == (0, "")
        caller.join(LONG)

    def test_a_forked_child_finds_it_idle_and_may_start_its_own(
        self, serve: Serve, process: Callable[..., Process]
    ) -> None:
        runtime = serve()
        plugin = process(
            """
            stub.start()
            before = sockets()
            if os.fork() == 0:
                left = len(sockets() & before)
                tell(state=stub.state.value, left=left, wait=stub.wait(0), threads=threading.active_count())
                stub.stop()
                stub.start()
                tell(state=stub.state.value, sessions=stub.counters.sessions)
                sys.stdin.readline()
                stub.stop()
                os._exit(0)
            os.wait()
            tell(state=stub.state.value, the_same=sockets() == before)
            sys.stdin.readline()
            stub.stop()
            """
        )
        parent = runtime.peer()
        # Only its standard streams may be sockets of both.
        assert plugin.told() == {"state": "idle", "left": 0, "wait": True, "threads": 1}
        child = runtime.peer()
        assert plugin.told() == {"state": "started", "sessions": 2}
        for peer in (parent, child):
            peer.call("RunPodSandbox", RUN_POD, LONG)
        assert plugin.process.stdin is not None
        plugin.process.stdin.write("\n")
        plugin.process.stdin.flush()
        assert child.wait_closed(LONG)
        assert plugin.told() == {"state": "started", "the_same": True}
        parent.call("RunPodSandbox", RUN_POD, LONG)
        assert plugin.end() == (0, "")

    def test_a_child_that_is_forked_in_a_handler(
        self, serve: Serve, process: Callable[..., Process]
    ) -> None:
        runtime = serve()
        plugin = process(
            """
            def run_pod_sandbox(self, pod):
                if os.fork() == 0:
                    tell(state=stub.state.value)
                    os._exit(0)
                os.wait()

            Plugin.run_pod_sandbox = run_pod_sandbox
            stub = nri_sync.Stub(Plugin(), name="process", idx=20, socket_path=sys.argv[1])
            stub.start()
            sys.stdin.read()
            """
        )
        peer = runtime.peer()
        peer.call("RunPodSandbox", RUN_POD, LONG)
        assert plugin.told() == {"state": "idle"}
        peer.call("RunPodSandbox", RUN_POD, LONG)
        assert plugin.end() == (0, "")

    def test_one_that_the_runtime_launches(self, socket_dir: Path) -> None:
        ours, theirs = socket.socketpair()
        program = socket_dir / "25-launched"
        program.write_text(
            textwrap.dedent(
                """
                import json, os, subprocess, sys
                import nri_sync

                class Plugin:
                    def run_pod_sandbox(self, pod):
                        pass

                stub = nri_sync.Stub(Plugin())
                children = subprocess.run(["/bin/ls", "/proc/self/fd"], capture_output=True, text=True,
                                          close_fds=False)
                print(json.dumps([stub.name, sorted(os.environ), children.stdout.split()]), flush=True)
                try:
                    stub.run()
                except nri_sync.errors.ConnectionLost:
                    try:
                        stub.start()
                    except nri_sync.errors.StartError as error:
                        print(json.dumps(str(error)), flush=True)
                """
            )
        )
        # All variables and descriptors that a runtime gives to a launched plugin.
        environment = {
            "NRI_PLUGIN_NAME": "launched",
            "NRI_PLUGIN_IDX": "25",
            "NRI_PLUGIN_SOCKET": str(theirs.fileno()),
        }
        plugin = subprocess.Popen(
            [sys.executable, str(program)],
            env=environment,
            pass_fds=[theirs.fileno()],
            stdout=subprocess.PIPE,
            text=True,
        )
        fd = theirs.fileno()
        theirs.close()
        peer = Peer(ours)
        try:
            assert plugin.stdout is not None
            name, variables, child = json.loads(plugin.stdout.readline())
            assert name == "25-launched"
            # Python itself may add LC_CTYPE.
            assert set(variables) - {"LC_CTYPE"} == {"NRI_PLUGIN_NAME", "NRI_PLUGIN_IDX"}
            assert str(fd) not in child
            peer.wait_registered(LONG)
            peer.configure(configuration(), LONG)
            peer.synchronize([], [], LONG)
            assert peer.name == "25-launched"
            peer.call("RunPodSandbox", RUN_POD, LONG)
            peer.close()
            assert (
                "the runtime launched this plugin with one connection" in plugin.stdout.readline()
            )
            assert plugin.wait(LONG) == 0
        finally:
            peer.close()
            assert peer.wait_closed(LONG)
            plugin.kill()
            plugin.communicate()


def suppressed(function: Callable[..., object], *arguments: object) -> None:
    with contextlib.suppress(CallFailed):
        function(*arguments)


def test_the_logger_is_quiet_without_a_handler(make_stub: MakeStub, serve: Serve) -> None:
    # A library adds no handlers, and changes no levels.
    logger = logging.getLogger("nri_sync")
    assert (logger.handlers, logger.level) == ([], logging.NOTSET)
    assert logging.getLogger("nri_sync.stub").handlers == []
