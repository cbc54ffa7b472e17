"""Every way in which two calls on a stub, or a call and the end of its session, can meet.

The meetings are forced: a gate holds one thread at a step while another one goes as far as it can. After each
case the scene checks the moves of the lifecycle, on_close, the locks, threads and descriptors.
"""

from __future__ import annotations

import contextlib
import queue
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import grpc
import pytest

import nri_sync
from nri_sync.api import nri_pb2
from nri_sync.deadline import Deadline
from nri_sync.errors import (
    AlreadyStarted,
    ConnectionLost,
    LifecycleError,
    NotConnected,
    StartError,
    StartTimeout,
    StubStopped,
    WouldDeadlock,
)
from nri_sync.net.sockets import listen
from nri_sync.plugin.state import State
from nri_sync.ttrpc import envelope_pb2
from tests.plugin._scene import Call, Scene, nothing_left
from tests.plugin.harness import LONG, RawRuntime, Recorder, configuration, eventually

__all__: list[str] = []

# Seconds. What has to be at once is allowed this, on a busy machine; what has to time out gets SHORT.
SOON = 5.0
SHORT = 0.05

EVENT = "RunPodSandbox"


@pytest.fixture
def scene() -> Iterator[Callable[..., Scene]]:
    made: list[Scene] = []

    def make(plugin: Any = None, **options: Any) -> Scene:
        made.append(Scene(plugin or Recorder(), **options))
        return made[-1]

    with nothing_left():
        yield make
        for item in made:
            item.finish()


Make = Callable[..., Scene]


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
    assert it._dialed.empty()


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
    it.up()  # what is left of the old configure handler does not touch the new session
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
    for method in ("admit", "attach"):
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
    """A session with a request of which the handler is running."""
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
def test_what_meets_a_stop_with_grace(scene: Make, second: str) -> None:
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
    gate.wait()  # IDLE, and nobody knows yet
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


def test_a_slow_on_close_delays_nobody(scene: Make) -> None:
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
    gate.open()  # what is left of the first session does not bring its reason back
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


@pytest.mark.parametrize("timeout", [0, -1, SHORT])
def test_a_wait_times_out(scene: Make, timeout: float) -> None:
    it = scene()
    assert Call(it.stub.wait, timeout).result(SOON) is True  # without a session
    it.up()
    assert Call(it.stub.wait, timeout).result(SOON) is False


# In handlers


def handled(
    scene: Make, rpc: str, action: Callable[[nri_sync.Stub], object]
) -> tuple[Scene, list[Any]]:
    """A scene in which the handler for ``rpc`` does ``action``, and the list of what comes of it."""
    outcomes: list[Any] = []

    def handler(*_: Any) -> None:
        try:
            outcomes.append(action(it.stub))
        except Exception as error:
            outcomes.append(error)

    it: Scene = scene(Recorder(**{rpc: handler}))
    return it, outcomes


_EVENTS = sorted(name for name in vars(nri_sync.Plugin) if not name.startswith("_"))


def camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


@pytest.mark.parametrize("rpc", [name for name in _EVENTS if name not in ("configure",)])
def test_a_stop_in_any_handler_sends_its_answer_first(scene: Make, rpc: str) -> None:
    it, outcomes = handled(scene, rpc, lambda stub: stub.stop())
    start = Call(it.stub.start)
    runtime = it.runtime()
    it.configure(runtime)
    start.result()
    response = it.call(runtime, 3, camel(rpc))
    assert not response.status.message
    assert outcomes == [None]
    assert runtime.at_end()
    assert Call(it.stub.wait).result(SOON) is True
    assert it.model.losses == 0


def test_a_stop_in_configure_sends_its_answer_first(scene: Make) -> None:
    it, outcomes = handled(scene, "configure", lambda stub: stub.stop())
    start = Call(it.stub.start)
    runtime = it.runtime()
    it.configure(runtime)  # and takes the answer
    assert runtime.at_end()
    assert isinstance(start.outcome(), StubStopped)
    assert outcomes == [None]
    assert it.stub.counters.sessions == 0


def test_stops_in_two_handlers_send_both_answers_first(scene: Make) -> None:
    both = threading.Barrier(2)
    last = threading.Event()

    def action(stub: nri_sync.Stub) -> None:
        both.wait(LONG)
        stub.stop()
        if both.wait(LONG) == 0:
            assert last.wait(LONG)

    it, outcomes = handled(scene, "run_pod_sandbox", action)
    runtime = it.up()
    runtime.call(5, EVENT)
    runtime.call(7, EVENT)
    first = runtime.next()[1].stream_id
    last.set()
    second = runtime.next()[1].stream_id
    assert {first, second} == {5, 7}
    assert runtime.at_end()
    assert outcomes == [None, None]


def test_a_stop_in_a_handler_that_never_returns_ends_the_session_all_the_same(scene: Make) -> None:
    go = threading.Event()

    def action(stub: nri_sync.Stub) -> None:
        stub.stop()
        assert go.wait(LONG)

    it, _ = handled(scene, "run_pod_sandbox", action)
    start = Call(it.stub.start)
    runtime = it.runtime()
    it.configure(runtime, request_timeout=100)
    start.result()
    it.synchronize(runtime)
    runtime.call(5, EVENT)
    assert Call(it.stub.wait).result(SOON) is True
    assert it.stub.state is State.IDLE
    go.set()


def test_a_stop_from_outside_overtakes_the_one_in_a_handler(scene: Make) -> None:
    stopped, go = threading.Event(), threading.Event()

    def action(stub: nri_sync.Stub) -> None:
        stub.stop()
        stopped.set()
        assert go.wait(LONG)

    it, _ = handled(scene, "run_pod_sandbox", action)
    runtime = it.up()
    runtime.call(5, EVENT)
    assert stopped.wait(LONG)
    Call(it.stub.stop).result(SOON)
    assert it.stub.state is State.IDLE
    go.set()


@pytest.mark.parametrize("rpc", ["configure", "run_pod_sandbox"])
@pytest.mark.parametrize("method", ["start", "run"])
def test_a_start_in_a_handler_is_refused(scene: Make, rpc: str, method: str) -> None:
    it, outcomes = handled(scene, rpc, lambda stub: getattr(stub, method)())
    runtime = it.up()
    if rpc != "configure":
        it.call(runtime, 5, EVENT)
    assert [type(outcome) for outcome in outcomes] == [AlreadyStarted]
    assert it.stub.started


def test_a_start_in_a_handler_does_not_wait_for_the_end_that_waits_for_it(scene: Make) -> None:
    def action(stub: nri_sync.Stub) -> None:
        stub.stop()
        stub.start()

    it, outcomes = handled(scene, "run_pod_sandbox", action)
    runtime = it.up()
    it.call(runtime, 5, EVENT)
    assert [type(outcome) for outcome in outcomes] == [AlreadyStarted]
    assert runtime.at_end()


def test_a_handler_of_a_lost_session_may_start_the_next(scene: Make) -> None:
    go = threading.Event()

    def action(stub: nri_sync.Stub) -> None:
        assert go.wait(LONG)
        stub.start()

    it, outcomes = handled(scene, "run_pod_sandbox", action)
    runtime = it.up()
    runtime.call(5, EVENT)
    runtime.sock.close()
    it.reasons.get(timeout=LONG)
    go.set()
    it.configure(it.runtime())
    eventually(lambda: outcomes)
    assert outcomes == [None]
    assert it.stub.started


def test_a_wait_in_a_handler_ends_with_the_session(scene: Make) -> None:
    it, outcomes = handled(scene, "run_pod_sandbox", lambda stub: stub.wait())
    runtime = it.up()
    runtime.call(5, EVENT)
    Call(it.stub.stop).result(SOON)
    eventually(lambda: outcomes)
    assert outcomes == [True]


def test_a_wait_in_a_handler_after_its_own_stop_ends(scene: Make) -> None:
    def action(stub: nri_sync.Stub) -> bool:
        stub.stop()
        return stub.wait()

    it, outcomes = handled(scene, "run_pod_sandbox", action)
    runtime = it.up()
    runtime.call(5, EVENT)
    assert Call(it.stub.wait).result(SOON) is True
    eventually(lambda: outcomes)
    assert outcomes == [True]


def test_a_wait_in_configure_with_a_timeout(scene: Make) -> None:
    it, outcomes = handled(scene, "configure", lambda stub: stub.wait(SHORT))
    it.up()
    assert outcomes == [False]


def test_calls_of_one_handler_end_with_the_stop_of_another(scene: Make) -> None:
    waiting = threading.Event()

    def wait(*_: Any) -> None:
        waiting.set()
        it.stub.wait()

    def stop(*_: Any) -> None:
        it.stub.stop()

    it = scene(Recorder(run_pod_sandbox=wait, stop_pod_sandbox=stop))
    runtime = it.up()
    runtime.call(5, EVENT)
    assert waiting.wait(LONG)
    it.call(runtime, 7, "StopPodSandbox")
    assert Call(it.stub.wait).result(SOON) is True


# update_containers()


def test_a_stop_ends_update_containers(scene: Make) -> None:
    it = scene()
    runtime = it.up()
    calls = [Call(it.stub.update_containers, timeout=LONG) for _ in range(4)]
    for _ in calls:
        assert runtime.next()[0] == 2
    Call(it.stub.stop).result(SOON)
    for call in calls:
        error = call.outcome()
        assert isinstance(error, grpc.RpcError)
        assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_a_loss_ends_update_containers(scene: Make) -> None:
    it = scene()
    runtime = it.up()
    call = Call(it.stub.update_containers, timeout=LONG)
    assert runtime.next()[0] == 2
    runtime.sock.close()
    assert isinstance(call.outcome(), grpc.RpcError)
    assert isinstance(it.reasons.get(timeout=LONG), ConnectionLost)


def test_update_containers_of_an_old_session_does_not_reach_the_new(scene: Make) -> None:
    it = scene()
    it.up()
    session = it.stub.lifecycle.conn
    assert session is not None
    assert session.session is not None
    gate = it.gate("start", "before", owner=session.session.client)
    call = Call(it.stub.update_containers, timeout=LONG)
    gate.wait()
    it.stub.stop()
    runtime = it.up()
    gate.open()
    assert isinstance(call.outcome(), grpc.RpcError)
    it.stub.stop()
    assert runtime.at_end()


def test_update_containers_needs_a_session(scene: Make) -> None:
    it = scene()
    for when in ("idle", "starting"):
        start = Call(it.stub.start) if when == "starting" else None
        if start is not None:
            it.runtime()
        with pytest.raises(NotConnected, match=when):
            Call(it.stub.update_containers).result(SOON)
    it.stub.stop()
    assert start is not None
    assert isinstance(start.outcome(), StubStopped)


def test_update_containers_in_a_handler_of_a_runtime_that_locks(scene: Make) -> None:
    it, outcomes = handled(scene, "run_pod_sandbox", lambda stub: stub.update_containers())
    start = Call(it.stub.start)
    runtime = it.runtime()
    it.configure(runtime, runtime_name="containerd")
    start.result()
    it.call(runtime, 5, EVENT)
    assert [type(outcome) for outcome in outcomes] == [WouldDeadlock]


# The connection is lost, or the runtime silent, between any two steps


class Stepwise(Recorder):
    """A plugin that goes on only when it is told to."""

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
        # What was configured before the loss was seen has started, and was lost then.
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
        start = Call(it.stub.start, 0.3)
        runtime = _reach(it, plugin, step)
        error = start.outcome()
    else:  # nobody is in start() any more: an interrupt has thrown it out
        conn = it.stub._new_connection(0.3)
        Call(conn.run)
        runtime = _reach(it, plugin, step)
        assert conn.ended.wait(Deadline(LONG))
        error = conn.error
    assert 0.3 <= time.monotonic() - began < SOON
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
        Call(it.stub.start, SHORT).result(SOON)
    assert error.value.phase == "dial"
    assert it.stub.state is State.IDLE
    runtime = it.up()  # while the first one is still dialling
    go.set()
    assert it.runtime().at_end()  # what it has dialled is closed at once
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
        start = Call(it.stub.start, LONG)
        eventually(lambda: it.stub.state is State.STARTING)
        Call(it.stub.stop).result(SOON)
        assert isinstance(start.outcome(), StubStopped)
        it.finish()


def test_one_connection_serves_one_of_two_starts(scene: Make) -> None:
    """The first start is stopped while it is about to take the connection that was given."""
    ours, theirs = socket.socketpair()
    it = scene(dialer=None, connection=ours)
    gate = it.gate("open", "before", owner=it.stub.source)
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
    start = Call(it.stub.start, 0.3)
    runtime = it.runtime()
    runtime.accept_registration()
    expire.wait()  # somebody has seen that the time is over
    it.call(runtime, 1, "Configure", configuration())
    expire.open()
    start.result(SOON)
    it.synchronize(runtime)
    assert it.stub.started
    assert it.closes == 0


def test_a_configuration_that_comes_too_late(scene: Make) -> None:
    it = scene()
    configured = it.gate("configured", "before")
    start = Call(it.stub.start, 0.3)
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


def test_a_loss_without_threads_is_told_all_the_same(scene: Make, no_threads: Forbid) -> None:
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


# Everything with everything: a thread is held at each step of the lifecycle, while another one does each
# thing that can be done.


def _lose(it: Scene) -> None:
    for runtime in list(it._runtimes):
        runtime.sock.shutdown(socket.SHUT_RDWR)


_ACTIONS: dict[str, Callable[[Scene], object]] = {
    "start": lambda it: it.stub.start(0.3),
    "run": lambda it: it.stub.run(),
    "stop": lambda it: it.stub.stop(),
    "stop with grace": lambda it: it.stub.stop(SHORT),
    "wait": lambda it: it.stub.wait(),
    "wait shortly": lambda it: it.stub.wait(SHORT),
    "update_containers": lambda it: it.stub.update_containers(timeout=SHORT),
    "loss": _lose,
}
# Each step, and what gets a session there.
_STEPS = [
    *((step, "start") for step in ("admit", "open", "attach", "configured")),
    *((step, "stop") for step in ("begin_end", "ended", "concluded")),
    *((step, "stop in a handler") for step in ("begin_end", "ended", "concluded")),
    *((step, "loss") for step in ("ended", "concluded")),
]
_EXPECTED = (LifecycleError, StartError, ConnectionLost, grpc.RpcError)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("step", "by"), _STEPS)
@pytest.mark.parametrize("action", _ACTIONS)
def test_each_call_while_another_is_held_at_each_step(
    scene: Make, step: str, by: str, when: str, action: str
) -> None:
    it, _ = handled(scene, "run_pod_sandbox", lambda stub: stub.stop())
    owner = {"open": it.stub.source, "concluded": it.stub}.get(step)
    gate = it.gate(step, when, owner=owner)
    runtimes = Runtimes(it)
    calls = [Call(it.stub.start, LONG)]
    if by != "start":
        calls[0].result()
        if by == "stop":
            calls.append(Call(it.stub.stop))
        elif by == "loss":
            _lose(it)
        else:
            it._runtimes[-1].call(99, EVENT)
    gate.wait()
    call = Call(_ACTIONS[action], it)
    call.settle()
    gate.open()
    for earlier in calls:
        earlier.outcome()
    Call(it.stub.stop).result(SOON)  # and what has been started since
    error = call.outcome()
    assert error is None or isinstance(error, _EXPECTED), error
    runtimes.end()


class Runtimes:
    """Brings up each connection that a scene makes, on a thread of its own."""

    def __init__(self, it: Scene) -> None:
        self._it = it
        self._call = Call(self._serve)

    def _serve(self) -> None:
        while True:
            try:
                runtime = self._it.runtime()
            except queue.Empty:
                return
            with contextlib.suppress(StopIteration, OSError):
                runtime.accept_registration()
                runtime.call(1, "Configure", configuration())
                while not runtime.at_end():  # what is not read holds up a gentle end
                    pass

    def end(self) -> None:
        self._it.no_more()
        self._call.result()
