"""Signals on the main thread, at every bytecode of every method that blocks, and at random moments.

By default a sample; all of it with ``NRI_SYNC_SIGNALS=full`` in the environment, which takes minutes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from nri_sync import Backoff, run_forever
from nri_sync.plugin.state import State
from nri_sync.threads import Latch
from tests.plugin._scene import Call, Make
from tests.plugin.conftest import MakeStub, Serve
from tests.plugin.harness import LONG, Recorder, eventually, frame_of

__all__: list[str] = []

_FULL = os.environ.get("NRI_SYNC_SIGNALS") == "full"
_ROOT = Path(__file__).parents[2]
_CALLS = ("start", "stop", "wait", "run", "update_containers")
_EVENTS = ("raise", "stop", "stop+raise")


def run(*arguments: str) -> dict[str, int]:
    """Run the cases in a process of their own, which dies of the first that goes wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.plugin._signals", *arguments],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    figures: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    print(figures)
    return figures


@pytest.mark.timeout(1800 if _FULL else 120)
def test_interrupts_at_every_bytecode() -> None:
    figures = run("aimed", "--stride", "1" if _FULL else "12")
    for call in _CALLS:
        assert figures[f"{call}: bytecodes"] > 50
        for event in _EVENTS:
            cases = figures[f"{call}: {event}"]
            assert cases >= (100 if _FULL else 4), f"{event} in {call}: {cases} cases"
    # An interrupt that strikes as start() is about to return leaves a session to stop, no other does.
    assert figures["start: left up"] <= 12


@pytest.mark.timeout(3600 if _FULL else 120)
def test_two_interrupts_in_quick_succession() -> None:
    figures = run("twice", "--stride", "3" if _FULL else "60")
    assert sum(figures.get(f"{call}: stop twice", 0) for call in _CALLS) >= 5
    assert sum(figures.get(f"{call}: raise twice", 0) for call in _CALLS) >= 1


@pytest.mark.timeout(1800 if _FULL else 120)
def test_signals_at_random_moments_of_a_session() -> None:
    count = 10_000 if _FULL else 300
    figures = run("random", "--count", str(count))
    assert figures["signals"] >= count
    assert figures["rounds with two signals"] > count / 20


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
