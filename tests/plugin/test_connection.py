"""One connection of a stub: its phases, its end, and its messages about that."""

from __future__ import annotations

import logging
import queue
import re
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nri_sync
from nri_sync import errors
from nri_sync.api import nri_pb2
from nri_sync.errors import CallFailed, StartError
from nri_sync.plugin import connection
from nri_sync.plugin.state import State
from nri_sync.rpc import envelope_pb2
from nri_sync.rpc.client import ClientEnd
from nri_sync.runtime import Peer
from tests.plugin.conftest import Connect, MakeStub, Serve
from tests.plugin.harness import (
    CONTAINER,
    LONG,
    POD,
    PluginWith,
    RawRuntime,
    Recorder,
    Runtime,
    configuration,
    eventually,
)

__all__: list[str] = []

RUN_POD = nri_pb2.RunPodSandboxRequest(pod=POD)
CREATE = nri_pb2.CreateContainerRequest(pod=POD, container=CONTAINER)


def _start(stub: nri_sync.Stub, runtime: RawRuntime, **timeouts: int) -> None:
    """Start the stub with a runtime that the test plays: registered and configured."""
    start = Start(stub)
    runtime.accept_registration()
    runtime.call(1, "Configure", configuration(**timeouts))
    runtime.response(1)
    assert start.outcome() is None


class Start:
    """``start()`` on a new thread, and its outcome."""

    def __init__(self, stub: nri_sync.Stub, timeout: float | None = LONG) -> None:
        self._stub = stub
        self._outcome: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, args=(timeout,), name="starter").start()

    def _run(self, timeout: float | None) -> None:
        try:
            self._stub.start(timeout)
        except BaseException as error:
            self._outcome.put(error)
        else:
            self._outcome.put(None)

    def outcome(self) -> BaseException | None:
        return self._outcome.get(timeout=LONG)


@pytest.fixture
def raw() -> Iterator[tuple[socket.socket, RawRuntime]]:
    """A connection for the stub, and the runtime's end of it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, RawRuntime(theirs)


@pytest.fixture
def closed() -> queue.SimpleQueue[errors.ConnectionLost | None]:
    return queue.SimpleQueue()


class TestPhases:
    """As far as the runtime lets it come; then the runtime is gone."""

    def lose(
        self, make_stub: MakeStub, raw: tuple[socket.socket, RawRuntime], steps: int
    ) -> tuple[nri_sync.Stub, BaseException | None]:
        stub = make_stub(Recorder(), connection=raw[0])
        start = Start(stub)
        runtime = raw[1]
        if steps == 0:
            runtime.next()
        else:
            runtime.accept_registration()
        if steps >= 2:
            runtime.call(1, "Configure", configuration())
            assert not runtime.response(1).HasField("status")
        if steps >= 3:
            runtime.call(3, "Synchronize", nri_pb2.SynchronizeRequest(more=True))
            assert not runtime.response(3).HasField("status")
        if steps >= 4:
            runtime.call(5, "Synchronize", nri_pb2.SynchronizeRequest())
            assert not runtime.response(5).HasField("status")
        if steps >= 5:
            # A second Configure does not start the session again.
            runtime.call(7, "Configure", configuration())
            assert not runtime.response(7).HasField("status")
        runtime.sock.close()
        outcome = start.outcome()
        assert stub.wait(LONG)
        assert stub.state is State.IDLE
        return stub, outcome

    @pytest.mark.parametrize(
        ("steps", "phase", "text"),
        [
            (
                0,
                "register",
                "before it answered RegisterPlugin; is this the socket of an NRI runtime?",
            ),
            (
                1,
                "configure",
                "after the registration, before the plugin was configured; the runtime",
            ),
        ],
    )
    def test_a_start_fails(
        self,
        make_stub: MakeStub,
        raw: tuple[socket.socket, RawRuntime],
        steps: int,
        phase: str,
        text: str,
    ) -> None:
        stub, outcome = self.lose(make_stub, raw, steps)
        assert isinstance(outcome, errors.StartError)
        assert not isinstance(outcome, errors.StartTimeout)
        assert outcome.phase == phase
        assert str(outcome).startswith("plugin 10-test: the peer closed the connection ")
        assert text in str(outcome)
        assert isinstance(outcome.__cause__, errors.ConnectionLost)
        assert stub.close_reason is None
        assert stub.counters == nri_sync.Counters(failed_starts=1)

    @pytest.mark.parametrize(
        ("steps", "phase", "text"),
        [
            (
                2,
                "synchronize",
                "before the plugin was synchronized; the runtime refused the events",
            ),
            (3, "synchronize", "before the plugin was synchronized"),
            (4, "serve", "while the plugin was serving; the runtime was stopped or restarted"),
            (5, "serve", "while the plugin was serving"),
        ],
    )
    def test_a_session_is_lost(
        self,
        make_stub: MakeStub,
        raw: tuple[socket.socket, RawRuntime],
        steps: int,
        phase: str,
        text: str,
    ) -> None:
        stub, outcome = self.lose(make_stub, raw, steps)
        assert outcome is None
        reason = stub.close_reason
        assert isinstance(reason, errors.ConnectionLost)
        assert reason.phase == phase
        assert str(reason).startswith("plugin 10-test: the peer closed the connection ")
        assert text in str(reason)
        assert stub.counters[:3] == (1, 0, 1)

    def test_configure_may_overtake_the_answer_to_the_registration(
        self, make_stub: MakeStub, raw: tuple[socket.socket, RawRuntime]
    ) -> None:
        stub = make_stub(Recorder(), connection=raw[0])
        start = Start(stub)
        runtime = raw[1]
        registration = runtime.next()[1]
        runtime.call(1, "Configure", configuration())
        assert not runtime.response(1).HasField("status")
        assert start.outcome() is None
        runtime.send(2, 2, registration.stream_id, b"")
        runtime.sock.close()
        assert stub.wait(LONG)
        assert stub.close_reason is not None
        assert stub.close_reason.phase == "synchronize"

    def test_a_registration_that_cannot_begin(
        self,
        make_stub: MakeStub,
        raw: tuple[socket.socket, RawRuntime],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fail(*args: Any, **options: Any) -> None:
            raise MemoryError("no room for a call")

        monkeypatch.setattr(ClientEnd, "start", fail)
        outcome = Start(make_stub(Recorder(), connection=raw[0])).outcome()
        assert isinstance(outcome, errors.StartError)
        assert not isinstance(outcome, errors.StartTimeout)
        assert isinstance(outcome.__cause__, MemoryError)
        assert raw[1].at_end()

    def test_a_connection_that_was_just_made_is_in_dial(self) -> None:
        stub = nri_sync.Stub(Recorder(), name="x", idx=1)
        conn = stub._new_connection(None)
        assert conn.phase == "dial"


def cut_off(peer: Peer) -> None:
    with pytest.raises(CallFailed):
        peer.call("CreateContainer", CREATE, LONG)


class TestReasons:
    def test_a_slow_handler_is_named(self, connect: Connect) -> None:
        entered, go_on = threading.Event(), threading.Event()

        def slow(pod: object, container: object) -> None:
            entered.set()
            go_on.wait(LONG)

        stub, peer = connect(
            PluginWith(create_container=slow),
            config=configuration(request_timeout=50),
            late_reply=False,
        )
        caller = threading.Thread(target=cut_off, args=(peer,))
        caller.start()
        assert entered.wait(LONG)
        conn = stub._current()
        assert conn is not None
        (served,) = conn.serving.values()
        eventually(lambda: time.monotonic() - served.since > 0.05)
        peer.close()
        assert stub.wait(LONG)
        go_on.set()
        caller.join(LONG)
        text = r"a handler took longer than the request timeout of 0.05 s: create_container \(\d+\.\d s\)"
        assert re.search(text, str(stub.close_reason))

    def test_unreadable_bytes(
        self, make_stub: MakeStub, raw: tuple[socket.socket, RawRuntime]
    ) -> None:
        stub = make_stub(Recorder(), connection=raw[0])
        start = Start(stub)
        raw[1].sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        outcome = start.outcome()
        assert isinstance(outcome, errors.StartError)
        assert isinstance(outcome.__cause__, errors.RemoteProtocolError)
        assert "mux frame for connection 1213486160 claims 791752241 bytes" in str(outcome)
        assert "is this the socket of an NRI runtime?" in str(outcome)

    def test_a_refused_registration(
        self, make_stub: MakeStub, raw: tuple[socket.socket, RawRuntime]
    ) -> None:
        stub = make_stub(Recorder(), connection=raw[0])
        start = Start(stub)
        registration = raw[1].next()[1]
        status = envelope_pb2.Status(code=2, message="invalid plugin name")
        response = envelope_pb2.Response(status=status)
        raw[1].send(2, 2, registration.stream_id, response.SerializeToString())
        outcome = start.outcome()
        assert isinstance(outcome, errors.StartError)
        assert outcome.phase == "register"
        text = "the runtime refused the registration: invalid plugin name (UNKNOWN)"
        assert text in str(outcome)
        # A runtime gives up on this connection without closing it.
        assert raw[1].at_end()


class TestTimeouts:
    @pytest.mark.parametrize(
        ("steps", "phase", "text"),
        [
            (0, "register", "waiting for an answer to RegisterPlugin; does an NRI runtime listen"),
            (1, "configure", "waiting to be configured; is the runtime busy with other plugins?"),
        ],
    )
    def test_a_silent_runtime(
        self,
        make_stub: MakeStub,
        raw: tuple[socket.socket, RawRuntime],
        steps: int,
        phase: str,
        text: str,
    ) -> None:
        stub = make_stub(Recorder(), connection=raw[0])
        start = Start(stub, 1.0)
        if steps:
            raw[1].accept_registration()
        outcome = start.outcome()
        assert isinstance(outcome, errors.StartTimeout)
        assert outcome.phase == phase
        assert text in str(outcome)
        if not steps:
            raw[1].next()
        assert raw[1].at_end()

    def test_a_configure_handler_that_takes_too_long(
        self, make_stub: MakeStub, serve: Serve
    ) -> None:
        go_on = threading.Event()
        serve()
        stub = make_stub(
            PluginWith(configure=lambda config, runtime, version: go_on.wait(LONG) and None)
        )
        with pytest.raises(
            errors.StartTimeout, match="the plugin's own configure handler"
        ) as caught:
            stub.start(1.0)
        go_on.set()
        assert caught.value.phase == "configure"
        assert stub.state is State.IDLE
        # Its result comes too late to start anything.
        eventually(lambda: not threads_of("10-test"))
        assert stub.counters.sessions == 0


def threads_of(name: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(name)]


class TestEnd:
    def test_the_last_answer_waits_for_a_peer_that_does_not_read(
        self, make_stub: MakeStub, raw: tuple[socket.socket, RawRuntime]
    ) -> None:
        # So much that the kernel cannot take it all.
        large = nri_pb2.ContainerAdjustment(args=["x" * 4_000_000])

        def handler(pod: object, container: object) -> Any:
            stub.stop()
            return large

        stub = make_stub(PluginWith(create_container=handler), connection=raw[0])
        runtime = raw[1]
        _start(stub, runtime)
        runtime.call(3, "CreateContainer", CREATE)
        eventually(lambda: stub.state is State.STOPPING)
        assert len(runtime.response(3).payload) > 4_000_000
        assert runtime.at_end()
        assert stub.wait(LONG)

    def test_the_end_waits_until_the_peer_has_read_the_last_answer(
        self,
        make_stub: MakeStub,
        raw: tuple[socket.socket, RawRuntime],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A peer in Go may lose an answer that it has not read when it sees the end."""
        monkeypatch.setattr(connection, "DRAIN", LONG)

        def handler(pod: object, container: object) -> None:
            stub.stop()

        stub = make_stub(PluginWith(create_container=handler), connection=raw[0])
        runtime = raw[1]
        _start(stub, runtime)
        runtime.call(3, "CreateContainer", CREATE)
        poll = select.poll()
        poll.register(runtime.sock, select.POLLIN)
        assert poll.poll(LONG * 1000) == [(runtime.sock.fileno(), select.POLLIN)]
        poll.modify(runtime.sock, select.POLLRDHUP)
        assert poll.poll(200) == []
        runtime.response(3)
        assert runtime.at_end()
        assert stub.wait(LONG)

    def test_a_peer_that_never_reads_does_not_hold_it_up(
        self,
        make_stub: MakeStub,
        raw: tuple[socket.socket, RawRuntime],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(connection, "DRAIN", 0.05)
        large = nri_pb2.ContainerAdjustment(args=["x" * 4_000_000])

        def handler(pod: object, container: object) -> Any:
            stub.stop()
            return large

        stub = make_stub(PluginWith(create_container=handler), connection=raw[0])
        runtime = raw[1]
        _start(stub, runtime, request_timeout=100)
        runtime.call(3, "CreateContainer", CREATE)
        assert stub.wait(LONG)
        assert stub.state is State.IDLE

    def test_on_idle_nothing_is_left(
        self, connect: Connect, closed: queue.SimpleQueue[errors.ConnectionLost | None]
    ) -> None:
        stub, peer = connect(Recorder(), on_close=lambda stub: closed.put(stub.close_reason))
        peer.call("RunPodSandbox", RUN_POD, LONG)
        assert threads_of("10-test")
        peer.close()
        assert closed.get(timeout=LONG) is stub.close_reason
        eventually(lambda: not threads_of("10-test"))


def test_the_log_tells_the_story(
    connect: Connect, caplog: pytest.LogCaptureFixture, socket_dir: Path
) -> None:
    caplog.set_level("DEBUG", "nri_sync.stub")
    stub, _ = connect(PluginWith(run_pod_sandbox=lambda pod: None))
    stub.stop()

    def story() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "nri_sync.stub"]

    wanted = [
        f"connecting to {socket_dir / 'nri.sock'}",
        "connected to process ",
        "registering",
        "registered with the runtime",
        "configured, subscribed to RunPodSandbox",
        "synchronize: 1 pods, 1 containers",
        "disconnected",
    ]
    # The thread that registers may write its line after the other threads have written theirs.
    for text in wanted:
        eventually(lambda text=text: any(text in line for line in story()), text)  # type: ignore[misc]
    assert all(line.startswith("10-test: ") for line in story())
    levels = {record.getMessage(): record.levelname for record in caplog.records}
    assert levels["10-test: registered with the runtime"] == "INFO"
    assert levels["10-test: synchronize: 1 pods, 1 containers"] == "DEBUG"


def test_a_start_that_never_connected_is_no_disconnection(
    make_stub: MakeStub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "nri_sync.stub")
    with pytest.raises(StartError):
        make_stub(PluginWith(run_pod_sandbox=lambda pod: None)).start()
    assert [record.getMessage().split(": ")[1][:10] for record in caplog.records] == ["connecting"]


def test_another_logger(
    make_stub: MakeStub, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mine")
    runtime: Runtime = serve()
    stub = make_stub(Recorder(), logger=logging.getLogger("mine"))
    stub.start()
    runtime.peer()
    assert {record.name for record in caplog.records if "10-test: " in record.getMessage()} == {
        "mine"
    }
