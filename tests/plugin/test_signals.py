"""Signals on the main thread, at the bytecodes of every method that blocks, and at random moments.

tests/samples.py describes how many.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import pytest

from nri_sync import Backoff, run_forever
from nri_sync.api import nri_pb2
from nri_sync.plugin.state import State
from nri_sync.threads import Latch
from tests.plugin._scene import Call, Make
from tests.plugin.conftest import Connect, MakeStub, Serve
from tests.plugin.harness import LONG, PluginWith, Recorder, Slow, eventually, frame_of
from tests.samples import FULL, figures, sizes

__all__: list[str] = []

_CALLS = ("start", "stop", "wait", "run", "update_containers")
_EVENTS = ("raise", "stop", "stop+raise")
# Those that handle an exception, and so can be interrupted again.
_HANDLE_EXCEPTIONS = ("start", "run", "update_containers")


def run(*arguments: str) -> dict[str, int]:
    return figures("tests.plugin._signals", *arguments)


@pytest.mark.timeout(1800 if FULL else 120)
@pytest.mark.parametrize("call", _CALLS)
@sizes("--cases=20", "--cases=60", "")
def test_an_interrupt_at_each_bytecode(call: str, size: str) -> None:
    found = run("aimed", f"--calls={call}", *size.split())
    assert found[f"{call}: bytecodes"] > 50
    for event in _EVENTS:
        cases = found[f"{call}: {event}"]
        assert cases >= (100 if FULL else 10), f"{event} in {call}: {cases} cases"
    # An interrupt that strikes as start() is about to return leaves a session to stop, no other does.
    assert found.get("start: left up", 0) <= 12


@pytest.mark.timeout(3600 if FULL else 120)
@pytest.mark.parametrize("call", _CALLS)
@sizes("--cases=6", "--cases=12", "--cases=200")
def test_two_interrupts_in_quick_succession(call: str, size: str) -> None:
    found = run("twice", f"--calls={call}", *size.split())
    assert found[f"{call}: stop twice"] >= 3
    if call in _HANDLE_EXCEPTIONS:
        assert found[f"{call}: raise twice"] >= 1


@pytest.mark.timeout(1800 if FULL else 120)
@sizes("100", "300", "10000")
def test_signals_at_random_moments_of_a_session(size: str) -> None:
    found = run("random", f"--count={size}")
    assert found["signals"] >= int(size)
    assert found["rounds with two signals"] > int(size) / 20


def test_an_interrupted_call_to_the_runtime_is_cancelled(scene: Make) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise Interrupted

    it = scene()
    runtime = it.up()
    main = threading.main_thread().ident
    assert main is not None

    def kill() -> None:
        assert runtime.next()[0] == 2  # it has been sent, and is not going to be answered
        eventually(lambda: getattr(frame_of(main), "f_code", None) is Latch.wait.__code__)
        signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        killing = Call(kill)
        with pytest.raises(Interrupted):
            it.stub.update_containers(timeout=100 * LONG)
        killing.result()
    finally:
        signal.signal(signal.SIGUSR1, before)
    eventually(
        lambda: not any(thread.name == "10-test-call" for thread in threading.enumerate()),
        "the end of the thread that made the call",
    )
    assert it.stub.started


def test_stop_in_a_signal_handler_does_not_wait_for_the_end(connect: Connect, slow: Slow) -> None:
    stub, peer = connect(PluginWith(run_pod_sandbox=slow))
    main = threading.main_thread().ident
    assert main is not None
    call = Call(peer.call, "RunPodSandbox", nri_pb2.RunPodSandboxRequest(), LONG)
    assert slow.entered.wait(LONG)
    left_in: list[State] = []

    def handle(signum: int, frame: FrameType | None) -> None:
        stub.stop(grace=100 * LONG)
        left_in.append(stub.state)

    def kill() -> None:
        eventually(lambda: getattr(frame_of(main), "f_code", None) is Latch.wait.__code__)
        signal.pthread_kill(main, signal.SIGUSR1)
        try:
            eventually(lambda: left_in, "the return of stop()")
        finally:
            slow.go_on.set()

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        killing = Call(kill)
        assert stub.wait(100 * LONG)
        killing.result()
    finally:
        signal.signal(signal.SIGUSR1, before)
    call.result()
    # The end waited for the request.
    assert left_in == [State.STOPPING]
    assert stub.state is State.IDLE


@pytest.mark.parametrize("at", ["pause", "start", "session"])
@pytest.mark.parametrize("end", ["stop", "close"])
def test_a_signal_handler_ends_run_forever(
    serve: Serve, make_stub: MakeStub, at: str, end: str
) -> None:
    """On the main thread, at any point of the loop."""
    runtime = None if at == "pause" else serve(configure=at == "session")
    stub = make_stub(Recorder())
    main = threading.main_thread().ident
    assert main is not None

    def functions() -> set[str]:
        """Those that the main thread is in."""
        found = set()
        frame = frame_of(main)
        while frame is not None:
            found.add(frame.f_code.co_name)
            frame = frame.f_back
        return found

    def kill() -> None:
        if runtime is not None:
            runtime.peer()
        waits_in = {"pause": "_pause", "start": "_start_unless", "session": "_run_once"}[at]
        eventually(lambda: stub.started is (at == "session"))
        eventually(lambda: {waits_in, Latch.wait.__name__} <= functions(), at)
        signal.pthread_kill(main, signal.SIGUSR1)

    ended = getattr(stub, end)
    before = signal.signal(signal.SIGUSR1, lambda *_: ended())
    try:
        killing = Call(kill)
        run_forever(stub, backoff=Backoff(first=100 * LONG, most=100 * LONG, jitter=0.0))
        killing.result()
    finally:
        signal.signal(signal.SIGUSR1, before)
    eventually(lambda: stub.state is State.IDLE)


@pytest.mark.parametrize("end", ["stop", "close"])
def test_on_the_main_thread_ending_blocks_until_the_session_is_over(
    serve: Serve, make_stub: MakeStub, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """``close()`` calls ``stop()``: it must not take itself for a call that a signal handler interrupts."""
    serve()
    stub = make_stub(Recorder())
    stub.start(LONG)
    ended: list[bool] = []
    wait = Latch.wait

    def noted(latch: Latch, *arguments: Any) -> bool:
        reached = wait(latch, *arguments)
        if latch in latches:
            ended.append(reached)
        return reached

    latches = [conn.ended for conn in stub._conns]
    monkeypatch.setattr(Latch, "wait", noted)
    getattr(stub, end)()
    assert ended == [True]
    assert stub.state is State.IDLE
