"""Calls on a stub in its own handlers, and calls to the runtime, while the session ends."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

import nri_sync
from nri_sync.codes import StatusCode
from nri_sync.errors import (
    AlreadyStarted,
    CallFailed,
    ConnectionLost,
    NotConnected,
    StubStopped,
    WouldDeadlock,
)
from nri_sync.plugin.state import State
from tests.plugin._scene import EVENT, SHORT, SOON, Call, Make, handled
from tests.plugin.harness import LONG, RawRuntime, Recorder, eventually

__all__: list[str] = []


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


def stays_open(runtime: RawRuntime) -> bool:
    """Whether the plugin neither sends anything nor closes for longer than a gentle end takes."""
    runtime.sock.settimeout(0.2)
    try:
        runtime.sock.recv(1, socket.MSG_PEEK)
    except socket.timeout:
        return True
    finally:
        runtime.sock.settimeout(LONG)
    return False


def test_a_session_that_a_handler_stops_goes_on_until_it_has_answered(scene: Make) -> None:
    go = threading.Event()

    def action(stub: nri_sync.Stub) -> None:
        stub.stop()
        assert go.wait(LONG)

    it, outcomes = handled(scene, "run_pod_sandbox", action)
    runtime = it.up()
    runtime.call(5, EVENT)
    assert stays_open(runtime)
    assert it.stub.state is State.STOPPING
    go.set()
    assert not runtime.response(5).status.message
    assert runtime.at_end()
    assert outcomes == [None]


def test_a_session_that_two_handlers_stop_goes_on_until_both_have_answered(scene: Make) -> None:
    both, last = threading.Barrier(2), threading.Event()

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
    assert stays_open(runtime)
    last.set()
    assert {first, runtime.next()[1].stream_id} == {5, 7}
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
    entered = threading.Event()

    def action(stub: nri_sync.Stub) -> bool:
        entered.set()
        return stub.wait()

    it, outcomes = handled(scene, "run_pod_sandbox", action)
    runtime = it.up()
    runtime.call(5, EVENT)
    assert entered.wait(LONG)  # a stop that comes first would leave the request unread
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
        assert isinstance(error, CallFailed)
        assert error.code() is StatusCode.UNAVAILABLE


def test_a_loss_ends_update_containers(scene: Make) -> None:
    it = scene()
    runtime = it.up()
    call = Call(it.stub.update_containers, timeout=LONG)
    assert runtime.next()[0] == 2
    runtime.sock.close()
    assert isinstance(call.outcome(), CallFailed)
    assert isinstance(it.reasons.get(timeout=LONG), ConnectionLost)


def test_update_containers_of_an_old_session_does_not_reach_the_new(scene: Make) -> None:
    it = scene()
    it.up()
    attempt = it.stub._lifecycle.current
    assert attempt is not None
    assert attempt.session is not None
    gate = it.gate("start", "before", owner=attempt.session.client)
    call = Call(it.stub.update_containers, timeout=LONG)
    gate.wait()
    it.stub.stop()
    runtime = it.up()
    gate.open()
    assert isinstance(call.outcome(), CallFailed)
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
