"""All that can happen to a start: losses, silence, dialers, refusals, deadlines, no more threads."""

from __future__ import annotations

import _thread
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from nri_sync.deadline import Deadline
from nri_sync.errors import (
    AlreadyStarted,
    ConnectionLost,
    StartError,
    StartTimeout,
    StubStopped,
)
from nri_sync.net.sockets import listen
from nri_sync.plugin.state import State
from nri_sync.rpc import envelope_pb2
from tests.outputs import without_busy_warnings
from tests.plugin._scene import EVENT, SHORT, SOON, Call, Make, Scene, handled
from tests.plugin.harness import LONG, RawRuntime, Recorder, configuration, eventually

__all__: list[str] = []

# Seconds of a start that has to run out of time: enough for the steps before that, on a busy machine.
ENOUGH = 1.0


# The connection is lost, or the runtime silent, between any two steps


class Stepwise(Recorder):
    """A plugin whose handlers wait until the test lets them go on."""

    def __init__(self) -> None:
        self.configured, self.synchronized = threading.Event(), threading.Event()
        super().__init__(
            configure=lambda *_: self.configured.wait(LONG) and None,
            synchronize=lambda *_: self.synchronized.wait(LONG) and None,
        )

    def go(self) -> None:
        self.configured.set()
        self.synchronized.set()


def _reach(it: Scene, plugin: Stepwise, step: str) -> RawRuntime:
    """Play the runtime up to a step, with no answer outstanding but that of the step."""
    runtime = it.runtime()
    if step == "dialled":
        return runtime
    connection_id, message = runtime.next()
    assert connection_id == 2
    if step == "register sent":
        return runtime
    runtime.send(2, 2, message.stream_id, b"")
    if step == "register answered":
        return runtime
    runtime.call(1, "Configure", configuration())
    if step == "configure sent":
        return runtime
    plugin.expect("configure")
    if step == "configure handler":
        return runtime
    plugin.configured.set()
    runtime.response(1)
    if step == "configure answered":
        return runtime
    runtime.call(3, "Synchronize")
    plugin.expect("synchronize")
    if step == "synchronize handler":
        return runtime
    plugin.synchronized.set()
    runtime.response(3)
    assert step == "serving"
    return runtime


_PHASES = {
    "dialled": ("register",),
    "register sent": ("register",),
    "register answered": ("register", "configure"),  # the answer may not have been read yet
    "configure sent": ("register", "configure"),
    "configure handler": ("register", "configure"),
    "configure answered": ("synchronize",),
    "synchronize handler": ("synchronize",),
    "serving": ("serve",),
}


@pytest.mark.parametrize("step", _PHASES)
@pytest.mark.parametrize("how", ["close", "garbage", "reset"])
def test_a_connection_lost_at_any_step(scene: Make, step: str, how: str) -> None:
    plugin = Stepwise()
    it = scene(plugin)
    start = Call(it.stub.start)
    runtime = _reach(it, plugin, step)
    waits = [Call(it.stub.wait) for _ in range(3)]
    for wait in waits:
        wait.settle()
    if how == "garbage":
        runtime.sock.sendall(b"\xff" * 64)
    elif how == "reset":
        runtime.sock.shutdown(socket.SHUT_WR)
    else:
        runtime.sock.close()
    for wait in waits:
        assert wait.result(SOON) is True
    if step in ("configure answered", "synchronize handler", "serving"):
        start.result(SOON)
        reason = it.reasons.get(timeout=LONG)
        assert isinstance(reason, ConnectionLost)
        assert it.stub.close_reason is reason
    else:
        reason = start.outcome()
        # A session that was configured before the stub noticed the loss has started, and was lost then.
        assert isinstance(reason, StartError), reason
        assert it.closes == 0
        assert it.stub.counters.sessions == 0
    assert reason.phase in _PHASES[step]
    assert it.stub.state is State.IDLE
    plugin.go()
    it.up()


_SILENT = {
    "dialled": "register",
    "register sent": "register",
    "register answered": "configure",
    "configure handler": "configure",
}


@pytest.mark.parametrize("step", _SILENT)
@pytest.mark.parametrize("held_by", ["start", "clock"])
def test_a_runtime_that_is_silent_at_any_step(scene: Make, step: str, held_by: str) -> None:
    plugin = Stepwise()
    it = scene(plugin)
    began = time.monotonic()
    if held_by == "start":
        start = Call(it.stub.start, ENOUGH)
        runtime = _reach(it, plugin, step)
        error = start.outcome()
    else:  # no thread is in start() any more: an interrupt has ended the call
        conn = it.stub._new_connection(ENOUGH)
        Call(conn.run)
        runtime = _reach(it, plugin, step)
        assert conn.ended.wait(Deadline(LONG))
        error = conn.attempt.error
    assert ENOUGH <= time.monotonic() - began < SOON
    assert isinstance(error, StartTimeout)
    assert isinstance(error, TimeoutError)
    assert error.phase == _SILENT[step]
    assert it.stub.state is State.IDLE
    assert it.closes == 0
    plugin.go()
    while not runtime.at_end():
        pass
    it.up()


# Dialling


def _raising(error: BaseException) -> Callable[[str], socket.socket]:
    def dialer(path: str) -> socket.socket:
        raise error

    return dialer


@pytest.mark.parametrize(
    "error",
    [OSError("no"), ValueError("no"), SystemExit("no"), KeyboardInterrupt("no"), MemoryError("no")],
    ids=lambda error: type(error).__name__,
)
def test_a_dialer_that_raises(scene: Make, error: BaseException) -> None:
    it = scene(dialer=_raising(error))
    for _ in range(3):
        with pytest.raises(StartError, match="no") as caught:
            Call(it.stub.start).result(SOON)
        assert caught.value.phase == "dial"
        assert caught.value.__cause__ is error
        assert it.stub.state is State.IDLE


def test_a_dialer_that_raises_when_the_start_has_been_stopped(scene: Make) -> None:
    entered, go = threading.Event(), threading.Event()

    def dialer(path: str) -> socket.socket:
        entered.set()
        assert go.wait(LONG)
        raise OSError("too late to matter")

    it = scene(dialer=dialer)
    start = Call(it.stub.start)
    assert entered.wait(LONG)
    it.stub.stop()
    go.set()
    assert isinstance(start.outcome(), StubStopped)


@pytest.mark.parametrize("what", [None, 7, "connection"])
def test_a_dialer_that_returns_something_else(scene: Make, what: Any) -> None:
    it = scene(dialer=lambda path: what)
    with pytest.raises(StartError, match=type(what).__name__):
        Call(it.stub.start).result(SOON)


def test_a_dialer_that_returns_a_closed_socket(scene: Make) -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    theirs.close()
    it = scene(dialer=lambda path: ours)
    with pytest.raises(StartError) as error:
        Call(it.stub.start).result(SOON)
    assert error.value.phase == "dial"


def test_a_dialer_that_blocks_beyond_the_deadline(scene: Make) -> None:
    entered, go = threading.Event(), threading.Event()
    it: Scene

    def dialer(path: str) -> socket.socket:
        if entered.is_set():
            return it.dial(path)
        entered.set()
        assert go.wait(LONG)
        return it.dial(path)

    it = scene(dialer=dialer)
    with pytest.raises(StartTimeout) as error:
        Call(it.stub.start, ENOUGH).result(SOON)
    assert error.value.phase == "dial"
    assert it.stub.state is State.IDLE
    runtime = it.up()  # while the first one is still dialling
    go.set()
    assert it.runtime().at_end()  # the stub closes its new connection at once
    assert it.stub.started
    it.call(runtime, 5, EVENT)


def test_a_dialer_that_stops_or_starts_the_stub(scene: Make) -> None:
    outcomes = []
    it: Scene

    def dialer(path: str) -> socket.socket:
        try:
            it.stub.start()
        except AlreadyStarted as error:
            outcomes.append(error)
        it.stub.stop()
        return it.dial(path)

    it = scene(dialer=dialer)
    with pytest.raises(StubStopped):
        Call(it.stub.start).result(SOON)
    assert len(outcomes) == 1
    assert it.runtime().at_end()


def test_a_listener_that_does_not_accept(scene: Make, socket_dir: Path) -> None:
    path = str(socket_dir / "nri.sock")
    with listen(path, backlog=0), socket.socket(socket.AF_UNIX) as first:
        first.connect(path)  # and the queue is full
        it = scene(dialer=None, socket_path=path)
        with pytest.raises(StartTimeout) as error:
            Call(it.stub.start, SHORT).result(SOON)
        assert error.value.phase == "dial"
        start = Call(it.stub.start, 100 * LONG)
        eventually(lambda: it.stub.state is State.STARTING)
        Call(it.stub.stop).result(SOON)
        assert isinstance(start.outcome(), StubStopped)
        it.finish()


def test_one_connection_serves_one_of_two_starts(scene: Make) -> None:
    """The first start is stopped while it is about to take the connection that was given."""
    ours, theirs = socket.socketpair()
    it = scene(dialer=None, connection=ours)
    gate = it.gate("open", "before", owner=it.stub._spec.source)
    first = Call(it.stub.start)
    gate.wait()
    it.stub.stop()
    assert isinstance(first.outcome(), StubStopped)
    second = Call(it.stub.start)
    runtime = RawRuntime(theirs)
    it.configure(runtime)
    second.result(SOON)
    gate.open()
    it.synchronize(runtime)
    assert it.stub.started
    it.stub.stop()
    with pytest.raises(StartError, match="used up"):
        Call(it.stub.start).result(SOON)
    theirs.close()


# Timeouts and refusals that race with success


def test_a_deadline_that_comes_too_late_does_not_end_the_session(scene: Make) -> None:
    it = scene()
    expire = it.gate("begin_end", "before", first_only=False)
    start = Call(it.stub.start, ENOUGH)
    runtime = it.runtime()
    runtime.accept_registration()
    expire.wait()  # a thread has noticed that the time is over
    it.call(runtime, 1, "Configure", configuration())
    expire.open()
    start.result(SOON)
    it.synchronize(runtime)
    assert it.stub.started
    assert it.closes == 0


def test_a_configuration_that_comes_too_late(scene: Make) -> None:
    it = scene()
    configured = it.gate("configured", "before")
    start = Call(it.stub.start, ENOUGH)
    runtime = it.runtime()
    runtime.accept_registration()
    runtime.call(1, "Configure", configuration())
    configured.wait()
    assert isinstance(start.outcome(), StartTimeout)
    configured.open()
    assert it.stub.state is State.IDLE
    assert it.closes == 0


@pytest.mark.parametrize("configured", [False, True])
def test_a_registration_that_is_refused(scene: Make, configured: bool) -> None:
    it = scene()
    start = Call(it.stub.start)
    runtime = it.runtime()
    _, message = runtime.next()
    if configured:
        it.call(runtime, 1, "Configure", configuration())
        start.result(SOON)
    response = envelope_pb2.Response(status={"code": 7, "message": "not you"})
    runtime.send(2, 2, message.stream_id, response.SerializeToString())
    assert runtime.at_end()
    if configured:  # by a runtime that is confused: for the plugin that is a loss
        reason = it.reasons.get(timeout=LONG)
        assert isinstance(reason, ConnectionLost)
    else:
        reason = start.outcome()
        assert isinstance(reason, StartError)
        assert reason.phase == "register"
    assert "not you" in str(reason)
    assert it.stub.state is State.IDLE


@pytest.mark.parametrize("stop_first", [False, True])
def test_a_configure_handler_that_raises(scene: Make, stop_first: bool) -> None:
    def configure(*_: Any) -> None:
        if stop_first:
            it.stub.stop()
        raise ValueError("not like this")

    it = scene(Recorder(configure=configure))
    start = Call(it.stub.start)
    runtime = it.runtime()
    runtime.accept_registration()
    response = it.call(runtime, 1, "Configure", configuration())
    assert "not like this" in response.status.message
    assert runtime.at_end()
    error = start.outcome()
    assert isinstance(error, StubStopped if stop_first else StartError)
    assert it.stub.state is State.IDLE


# No more threads


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the start of threads of certain names fail, as when the system has no more."""

    def forbid(names: str) -> None:
        def start(self: threading.Thread) -> None:
            if re.search(names, self.name):
                raise RuntimeError("can't start new thread")
            original(self)

        original = threading.Thread.start
        monkeypatch.setattr(threading.Thread, "start", start)

    return forbid


Forbid = Callable[[str], None]


def test_a_start_without_threads_fails_and_leaves_nothing(
    scene: Make, no_threads: Forbid, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = scene()
    no_threads("^10-test")
    start = Call(it.stub.start)
    error = start.outcome()
    assert isinstance(error, StartError)
    assert error.phase == "dial"
    assert not it.stub._conns
    assert it.stub.state is State.IDLE
    monkeypatch.undo()
    it.up()


def test_a_session_with_one_thread_alone_ends(scene: Make, no_threads: Forbid) -> None:
    """Where only the first thread could be had it reads, and refuses all requests."""
    it = scene()
    no_threads("^10-test-")
    start = Call(it.stub.start)
    runtime = it.runtime()
    runtime.accept_registration()
    assert it.call(runtime, 1, "Configure", configuration()).status.code == 8
    runtime.sock.close()
    assert isinstance(start.outcome(), StartError)


def test_a_loss_without_threads_is_reported(scene: Make, no_threads: Forbid) -> None:
    it = scene()
    runtime = it.up()
    no_threads("^10-test-on-close$")
    runtime.sock.close()
    assert isinstance(it.reasons.get(timeout=LONG), ConnectionLost)


def test_a_stop_in_a_handler_without_threads_ends_the_session(
    scene: Make, no_threads: Forbid
) -> None:
    it, outcomes = handled(scene, "run_pod_sandbox", lambda stub: stub.stop())
    runtime = it.up()
    no_threads("^10-test-stop$")
    runtime.call(5, EVENT)
    assert Call(it.stub.wait).result(SOON) is True
    eventually(lambda: outcomes)
    assert outcomes == [None]


def test_the_main_thread_starts_with_the_last_thread_that_there_is(
    scene: Make, no_threads: Forbid
) -> None:
    """It asks for a thread that starts the one wanted; where that cannot be had, the first stands in."""
    it = scene()
    no_threads("^10-test$")

    def play() -> None:
        runtime = it.runtime()
        it.configure(runtime)
        it.synchronize(runtime)

    runtime = Call(play)
    it.stub.start(LONG)
    runtime.result()
    assert it.stub.started
    it.stub.stop()


def test_the_main_thread_without_any_thread(scene: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    it = scene()
    runtime = it.up()
    with monkeypatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", refuse)
        it.stub.stop()  # rather here than not at all
        assert it.stub.state is State.IDLE
        assert runtime.at_end()
        with pytest.raises(StartError, match="can't start new thread"):
            it.stub.start()
        assert not it.stub._conns
        assert it.stub.state is State.IDLE
        assert it.stub.wait()


_AT_EXIT = """
import atexit, socket, threading
import nri_sync
from nri_sync.runtime import Peer
from tests.plugin.harness import Recorder, configuration

ours, theirs = socket.socketpair()
stub = nri_sync.Stub(Recorder(), name="test", idx="10", connection=ours)

def play():
    peer = Peer(theirs)
    peer.wait_registered(20)
    peer.configure(configuration(), 20)

playing = threading.Thread(target=play)
playing.start()
stub.start()
playing.join()

def at_exit():
    stub.stop()
    print(stub.state.value, stub.wait(5))

if {when!r} == "at exit":
    atexit.register(at_exit)
"""


@pytest.mark.parametrize(("when", "output"), [("at exit", "idle True\n"), ("never", "")])
def test_a_stop_at_exit_and_none_at_all(when: str, output: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", _AT_EXIT.format(when=when)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONG,
    )
    text = without_busy_warnings(done.stdout)
    lines = [line for line in text.splitlines() if "ResourceWarning" not in line]
    assert (done.returncode, "".join(f"{line}\n" for line in lines)) == (0, output)
