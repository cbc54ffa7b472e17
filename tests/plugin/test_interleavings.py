"""Every way in which two calls on a stub, or a call and the end of its session, can meet.

The meetings are forced: a gate holds one thread at a step while another one goes as far as it can. After each
case the scene checks the moves of the lifecycle, on_close, the locks, threads and descriptors. Calls in
handlers, all that can happen to a start, and each call at each step are in modules of their own.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest

import nri_sync
from nri_sync.api import nri_pb2
from nri_sync.errors import (
    AlreadyStarted,
    ConnectionLost,
    StartTimeout,
    StubStopped,
)
from nri_sync.plugin.state import State
from tests.plugin._scene import EVENT, SHORT, SOON, Call, Make, Scene
from tests.plugin.harness import LONG, RawRuntime, Recorder, configuration, eventually

__all__: list[str] = []


# start() and start()


def test_of_many_starts_one_wins(scene: Make) -> None:
    it = scene()
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait(LONG)
        it.stub.start()

    calls = [Call(start) for _ in range(8)]
    runtime = it.runtime()
    eventually(lambda: sum(call.done for call in calls) == 7, "the refusal of seven")
    it.configure(runtime)
    outcomes = [call.outcome() for call in calls]
    assert outcomes.count(None) == 1
    assert sum(isinstance(outcome, AlreadyStarted) for outcome in outcomes) == 7
    assert it.stub.started
    assert it.dialed.empty()


@pytest.mark.parametrize("state", [State.STARTING, State.STARTED])
@pytest.mark.parametrize("method", ["start", "run"])
def test_a_start_while_one_is_under_way_or_up_is_refused_at_once(
    scene: Make, state: State, method: str
) -> None:
    it = scene()
    start = Call(it.stub.start)
    runtime = it.runtime()
    if state is State.STARTED:
        it.configure(runtime)
        start.result()
    assert it.stub.state is state
    with pytest.raises(AlreadyStarted, match=f"10-test is {state.value}"):
        Call(getattr(it.stub, method)).result(SOON)
    assert it.stub.state is state
    it.stub.stop()


def test_of_two_starts_that_wait_for_a_session_to_end_one_wins(scene: Make) -> None:
    it = scene()
    it.up()
    ended = it.gate("ended", "before")
    stop = Call(it.stub.stop)
    ended.wait()
    starts = [Call(it.stub.start), Call(it.stub.start)]
    for start in starts:
        start.settle()
    assert it.stub.state is State.STOPPING
    ended.open()
    stop.result(SOON)
    it.configure(it.runtime())
    outcomes = [start.outcome() for start in starts]
    assert outcomes.count(None) == 1
    assert sum(isinstance(outcome, AlreadyStarted) for outcome in outcomes) == 1


def test_a_start_that_waits_for_a_session_to_end_gives_up_at_its_deadline(scene: Make) -> None:
    it = scene()
    it.up()
    ended = it.gate("ended", "before")
    stop = Call(it.stub.stop)
    ended.wait()
    with pytest.raises(StartTimeout, match="the session before") as error:
        Call(it.stub.start, SHORT).result(SOON)
    assert error.value.phase == "dial"
    assert it.stub.state is State.STOPPING
    assert not stop.done
    ended.open()
    stop.result(SOON)


def test_a_start_that_waits_for_a_session_to_end_is_ended_by_a_stop(scene: Make) -> None:
    it = scene()
    it.up()
    ended = it.gate("ended", "before")
    stop = Call(it.stub.stop)
    ended.wait()
    start = Call(it.stub.start)
    start.settle()
    second = Call(it.stub.stop)
    with pytest.raises(StubStopped):
        start.result(SOON)
    assert it.stub.state is State.STOPPING
    ended.open()
    stop.result(SOON)
    second.result(SOON)


# start() and stop()


@pytest.mark.parametrize("grace", [None, 0.0, SHORT])
def test_a_stop_ends_a_start_at_every_step(scene: Make, grace: float | None) -> None:
    for step in ("dialled", "registering", "registered"):
        it = scene()
        run, start = Call(it.stub.run), None
        runtime = it.runtime()
        if step != "dialled":
            connection_id, message = runtime.next()
            assert connection_id == 2
            if step == "registered":
                runtime.send(2, 2, message.stream_id, b"")
        Call(it.stub.stop, grace).result(SOON)
        assert it.stub.state is State.IDLE
        assert run.result(SOON) is None  # a stop while it is starting is a normal end
        start = Call(it.stub.start)
        it.configure(it.runtime())
        start.result(SOON)
        it.stub.stop(grace)


def test_a_stop_ends_a_start_while_configure_is_being_handled(scene: Make) -> None:
    go = threading.Event()
    plugin = Recorder(configure=lambda *_: go.wait(LONG) and None)
    it = scene(plugin)
    start = Call(it.stub.start)
    runtime = it.runtime()
    runtime.accept_registration()
    runtime.call(1, "Configure", configuration())
    plugin.expect("configure")
    Call(it.stub.stop).result(SOON)
    assert it.stub.state is State.IDLE
    assert isinstance(start.outcome(), StubStopped)
    assert runtime.at_end()
    go.set()
    it.up()  # the end of the old configure handler does not touch the new session
    assert it.stub.started


def test_a_stop_ends_a_start_whose_dialer_is_blocked(scene: Make) -> None:
    entered, go = threading.Event(), threading.Event()
    ours, theirs = socket.socketpair()

    def dialer(path: str) -> socket.socket:
        entered.set()
        assert go.wait(LONG)
        return ours

    it = scene(dialer=dialer)
    start = Call(it.stub.start)
    assert entered.wait(LONG)
    Call(it.stub.stop).result(SOON)
    assert it.stub.state is State.IDLE
    assert isinstance(start.outcome(), StubStopped)
    go.set()
    with theirs:
        theirs.settimeout(LONG)
        assert theirs.recv(1) == b""  # the connection that came too late is closed
    assert ours.fileno() == -1


def test_a_stop_is_not_undone_by_a_start_that_has_been_held_up(scene: Make) -> None:
    for method in ("begin", "attach"):
        it = scene()
        gate = it.gate(method, "before")
        start = Call(it.stub.start)
        gate.wait()
        Call(it.stub.stop).result(SOON)
        assert it.stub.state is State.IDLE
        assert isinstance(start.outcome(), StubStopped)
        gate.open()


def test_a_stop_that_comes_when_configure_has_been_handled_finds_a_session(scene: Make) -> None:
    it = scene()
    gate = it.gate("configured", "after")
    start = Call(it.stub.start)
    runtime = it.runtime()
    runtime.accept_registration()
    runtime.call(1, "Configure", configuration())
    gate.wait()
    assert it.stub.started
    stop = Call(it.stub.stop)
    stop.result(SOON)
    gate.open()
    start.result(SOON)  # it has succeeded, if only for a moment
    assert it.stub.state is State.IDLE
    assert it.stub.close_reason is None


def test_a_stop_that_comes_before_configure_has_been_handled_wins(scene: Make) -> None:
    it = scene()
    gate = it.gate("configured", "before")
    start = Call(it.stub.start)
    runtime = it.runtime()
    runtime.accept_registration()
    runtime.call(1, "Configure", configuration())
    gate.wait()
    Call(it.stub.stop).result(SOON)
    gate.open()
    assert isinstance(start.outcome(), StubStopped)
    assert it.stub.counters.sessions == 0


# stop() and stop()


def test_many_stops_share_one_teardown(scene: Make) -> None:
    it = scene()
    runtime = it.up()
    ended = it.gate("ended", "before")
    stops = [Call(it.stub.stop) for _ in range(8)]
    ended.wait()
    for stop in stops:
        stop.settle()
    assert not any(stop.done for stop in stops)
    ended.open()
    for stop in stops:
        stop.result(SOON)
    assert it.stub.state is State.IDLE
    assert sum(it.model.made.values()) == 4
    assert runtime.at_end()


def test_a_stop_without_a_session_does_nothing(scene: Make) -> None:
    it = scene()
    for grace in (None, 0.0, 1.0):
        Call(it.stub.stop, grace).result(SOON)
    assert not it.model.made
    it.up()  # nor does it keep a later start from starting


def serving(it: Scene, plugin: Recorder) -> RawRuntime:
    """A session with a request whose handler is running."""
    runtime = it.up()
    plugin.expect("configure")
    plugin.expect("synchronize")
    runtime.call(5, EVENT, nri_pb2.RunPodSandboxRequest())
    plugin.expect("run_pod_sandbox")
    return runtime


def test_a_stop_with_grace_lets_handlers_finish(scene: Make) -> None:
    go = threading.Event()
    plugin = Recorder(run_pod_sandbox=lambda *_: go.wait(LONG) and None)
    it = scene(plugin)
    runtime = serving(it, plugin)
    stop = Call(it.stub.stop, LONG)
    stop.settle()
    assert it.stub.state is State.STOPPING
    assert not it.stub.started
    assert not stop.done
    go.set()
    assert not runtime.response(5).status.message
    stop.result(SOON)
    assert runtime.at_end()
    assert it.closes == 0


@pytest.mark.parametrize("second", ["stop", "wait", "run", "start"])
def test_calls_during_a_stop_with_grace(scene: Make, second: str) -> None:
    go = threading.Event()
    plugin = Recorder(run_pod_sandbox=lambda *_: go.wait(LONG) and None)
    it = scene(plugin)
    runtime = serving(it, plugin)
    stop = Call(it.stub.stop, LONG)
    stop.settle()
    call = Call(getattr(it.stub, second))
    if second == "stop":  # the impatient one ends it for both
        call.result(SOON)
        stop.result(SOON)
        assert runtime.at_end()
        go.set()
    else:
        call.settle()
        assert not call.done
        go.set()
        runtime.response(5)
        stop.result(SOON)
        if second != "wait":
            it.configure(it.runtime())
            it.stub.stop()
        assert call.result(SOON) is (True if second == "wait" else None)


def test_grace_is_over_after_its_time(scene: Make) -> None:
    go = threading.Event()
    plugin = Recorder(run_pod_sandbox=lambda *_: go.wait(LONG) and None)
    it = scene(plugin)
    runtime = serving(it, plugin)
    began = time.monotonic()
    Call(it.stub.stop, SHORT).result(SOON)
    assert time.monotonic() - began >= SHORT
    assert it.stub.state is State.IDLE
    assert runtime.at_end()  # without an answer
    go.set()


def test_a_stop_does_not_wait_for_a_handler(scene: Make) -> None:
    go = threading.Event()
    plugin = Recorder(run_pod_sandbox=lambda *_: go.wait(LONG) and None)
    it = scene(plugin)
    serving(it, plugin)
    Call(it.stub.stop).result(SOON)
    assert it.stub.state is State.IDLE
    it.up()
    go.set()
    assert it.stub.started


# Losses, and on_close


def test_a_loss_and_a_stop_at_the_same_moment_the_loss_first(scene: Make) -> None:
    it = scene()
    runtime = it.up()
    gate = it.gate("ended", "after")
    runtime.sock.close()
    gate.wait()  # IDLE, and no thread knows yet
    stop = Call(it.stub.stop)
    stop.settle()
    gate.open()
    stop.result(SOON)
    assert isinstance(it.reasons.get(timeout=LONG), ConnectionLost)
    assert it.model.losses == 1


def test_a_loss_and_a_stop_at_the_same_moment_the_stop_first(scene: Make) -> None:
    it = scene()
    runtime = it.up()
    gate = it.gate("ended", "before")
    runtime.sock.close()
    gate.wait()  # the sockets are closed, the state is not changed yet
    stop = Call(it.stub.stop)
    eventually(lambda: it.stub.state is State.STOPPING)
    gate.open()
    stop.result(SOON)
    assert it.model.losses == 0
    assert it.stub.close_reason is None


@pytest.mark.parametrize("action", ["stop", "start", "wait", "nothing"])
def test_on_close_may_call_anything(scene: Make, action: str) -> None:
    called = threading.Event()

    def on_close(stub: nri_sync.Stub) -> None:
        assert stub.state is State.IDLE
        assert isinstance(stub.close_reason, ConnectionLost)
        if action != "nothing":
            getattr(stub, action)()
        called.set()

    it = scene(on_close=on_close)
    it.up().sock.close()
    if action == "start":
        it.configure(it.runtime())
    assert called.wait(LONG)
    assert it.stub.started is (action == "start")
    assert it.closes == 1


def test_a_restart_in_on_close_and_a_stop_from_outside(scene: Make) -> None:
    outcome: list[BaseException | None] = []

    def on_close(stub: nri_sync.Stub) -> None:
        outcome.append(Call(stub.start).outcome())

    it = scene(on_close=on_close)
    it.up().sock.close()
    runtime = it.runtime()  # it is starting
    Call(it.stub.stop).result(SOON)
    eventually(lambda: outcome)
    assert isinstance(outcome[0], StubStopped)
    assert it.stub.state is State.IDLE
    while not runtime.at_end():
        pass


def test_a_stop_outside_before_the_restart_in_on_close(scene: Make) -> None:
    entered, go = threading.Event(), threading.Event()

    def on_close(stub: nri_sync.Stub) -> None:
        entered.set()
        assert go.wait(LONG)
        stub.start()

    it = scene(on_close=on_close)
    it.up().sock.close()
    assert entered.wait(LONG)
    Call(it.stub.stop).result(SOON)  # there is nothing to stop: it is idle
    go.set()
    it.configure(it.runtime())
    eventually(lambda: it.stub.started)


def test_a_restart_in_on_close_does_not_prolong_wait_or_run(scene: Make) -> None:
    it = scene(on_close=lambda stub: stub.start())
    run = Call(it.stub.run)
    runtime = it.runtime()
    it.configure(runtime)
    eventually(lambda: it.stub.started)
    waits = [Call(it.stub.wait) for _ in range(4)]
    for wait in [*waits, run]:
        wait.settle()
    runtime.sock.close()
    second = it.runtime()
    it.configure(second)
    for wait in waits:
        assert wait.result(SOON) is True
    assert isinstance(run.outcome(), ConnectionLost)
    assert it.closes == 1
    eventually(lambda: it.stub.started)
    assert Call(it.stub.wait, SHORT).result(SOON) is False


def test_a_slow_on_close_delays_no_other_thread(scene: Make) -> None:
    entered, go = threading.Event(), threading.Event()

    def on_close(stub: nri_sync.Stub) -> None:
        entered.set()
        assert go.wait(LONG)

    it = scene(on_close=on_close)
    runtime = it.up()
    wait = Call(it.stub.wait)
    wait.settle()
    runtime.sock.close()
    assert entered.wait(LONG)
    assert wait.result(SOON) is True
    runtime = it.up()
    runtime.sock.close()  # nor does it delay the next on_close
    eventually(lambda: it.closes == 2)
    go.set()


def test_a_failing_on_close_is_reported(scene: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)

    def on_close(stub: nri_sync.Stub) -> None:
        raise ValueError("from on_close")

    it = scene(on_close=on_close)
    it.up().sock.close()
    eventually(lambda: reported)
    assert str(reported[0].exc_value) == "from on_close"
    it.up()


def test_the_reason_is_there_as_soon_as_the_state_is(scene: Make) -> None:
    it = scene()
    runtime = it.up()
    gate = it.gate("ended", "after")
    runtime.sock.close()
    gate.wait()
    assert not it.stub.started
    lost = it.stub.close_reason
    assert isinstance(lost, ConnectionLost)
    it.up()
    stop = Call(it.stub.stop)
    eventually(lambda: it.stub.state is State.IDLE)
    assert it.stub.close_reason is None
    gate.open()  # the end of the first session does not bring its reason back
    stop.result(SOON)
    eventually(lambda: it.closes == 1)
    assert it.stub.close_reason is None


# wait()


def test_waits_in_many_threads_end_with_the_session(scene: Make) -> None:
    it = scene()
    it.up()
    waits = [Call(it.stub.wait) for _ in range(16)]
    for wait in waits:
        wait.settle()
    it.stub.stop()
    assert [wait.result(SOON) for wait in waits] == [True] * 16


def test_a_wait_during_a_start_ends_with_it(scene: Make) -> None:
    it = scene()
    start = Call(it.stub.start)
    it.runtime()
    wait = Call(it.stub.wait)
    wait.settle()
    assert not wait.done
    it.stub.stop()
    assert wait.result(SOON) is True
    assert isinstance(start.outcome(), StubStopped)


def test_a_wait_that_has_returned_is_followed_by_a_start(scene: Make) -> None:
    """The lifecycle has no session any more when its state says so, and not before."""
    it = scene()
    runtime = it.up()
    gate = it.gate("_move_locked", "before")
    runtime.sock.close()
    gate.wait()
    wait = Call(it.stub.wait)
    wait.settle()
    assert not wait.done
    assert it.stub.started
    gate.open()
    assert wait.result(SOON) is True
    assert it.stub.state is State.IDLE
    it.up()


def test_a_wait_in_the_moment_of_the_end(scene: Make) -> None:
    it = scene()
    runtime = it.up()
    gate = it.gate("_move_locked", "after")
    runtime.sock.close()
    gate.wait()
    assert it.stub.state is State.IDLE
    assert Call(it.stub.wait, 0).result(SOON) is True
    start = Call(it.stub.start)
    start.settle()
    gate.open()
    runtime = it.runtime()
    it.configure(runtime)
    start.result()
    it.synchronize(runtime)


@pytest.mark.parametrize("timeout", [0, -1, SHORT])
def test_a_wait_times_out(scene: Make, timeout: float) -> None:
    it = scene()
    assert Call(it.stub.wait, timeout).result(SOON) is True  # without a session
    it.up()
    assert Call(it.stub.wait, timeout).result(SOON) is False
