"""Interrupts a stub on the main thread, and checks that nothing is left. Run it in a new process.

``aimed``: a trace function counts the bytecodes of the package that the main thread executes, and before the
n-th of them something happens that a signal handler could do, for each n until the call gets to its end.
``twice``: the same, and it happens again while the call handles the first event.
``random``: real signals at random moments, beside a session that serves events.

Prints the figures as JSON. A hang ends the process with the stacks of all threads.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import functools
import json
import logging
import os
import queue
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, Callable

import nri_sync
from nri_sync import threads
from nri_sync.api import nri_pb2
from nri_sync.errors import CallFailed, ConnectionLost, NotConnected, NRIError, StubStopped
from nri_sync.plugin.connection import Connection
from nri_sync.plugin.state import State
from nri_sync.threads import Latch
from tests.plugin._scene import Model, held_locks
from tests.plugin.harness import LONG, Runtime, descriptors, eventually, frame_of, tasks

__all__: list[str] = []

_PACKAGE = os.path.dirname(nri_sync.__file__) + os.sep


class Stepper:
    """Traces a call on the main thread; before its ``at``-th bytecode in the package ``event`` happens.

    With ``again`` (a number of bytecodes, counted from where tracing can be taken up) it happens twice.
    """

    #: The bytecodes of files whose paths begin with one of these count.
    within: tuple[str, ...] = (_PACKAGE,)

    def __init__(self, at: int, event: Callable[[], None], again: int | None = None) -> None:
        self.happened = 0
        #: How many bytecodes have been executed.
        self.counted = 0
        self._left = at
        self._event = event
        self._again = again

    def run(self, function: Callable[..., Any]) -> Any:
        # Python 3.12 sends no such events to a trace function that was set before any frame asked for them.
        sys._getframe().f_trace_opcodes = True
        if self._again is not None:
            # An exception that is raised in a trace function ends the tracing; this one takes it up again.
            sys.setprofile(self._resume)
        sys.settrace(self._trace)
        try:
            return function()
        finally:
            sys.settrace(None)
            sys.setprofile(None)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(self.within) or self._left < 0:
            return None
        if event == "call":
            self._arm(frame)
        elif event == "opcode":
            self.counted += 1
            self._left -= 1
            if self._left < 0:
                self.happened += 1
                sys.settrace(None)
                self._event()
        return self._trace

    def _arm(self, frame: FrameType) -> None:
        # In this order: Python 3.13 turns on the events of a frame that has a trace function.
        frame.f_trace = self._trace
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True

    def _resume(self, frame: FrameType, event: str, argument: object) -> None:
        if self.happened == 1 and self._again is not None:
            self._left, self._again = self._again, None
            sys.setprofile(None)
            above: FrameType | None = frame
            while above is not None:
                if above.f_code.co_filename.startswith(self.within):
                    self._arm(above)
                above = above.f_back
            sys.settrace(self._trace)


class Plugin:
    def synchronize(self, pods: Any, containers: Any) -> None: ...
    def run_pod_sandbox(self, pod: Any) -> None: ...


class Bench:
    """A stub and its runtime, used for one case after the other. Each case starts the stub again."""

    def __init__(self, path: Path) -> None:
        self.figures: collections.Counter[str] = collections.Counter()
        self.closes = 0
        self.runtime = Runtime(path, update_containers=lambda updates, evict: [])
        self.stub = nri_sync.Stub(
            Plugin(), name="test", idx="10", socket_path=str(path), on_close=self._on_close
        )
        self.model = Model(self.stub)
        self.stub.start()
        self.stub.stop()
        # The main one, the runtime's and the watchdog.
        eventually(lambda: tasks() == 3, "the end of the first session")
        self.clean = tasks(), descriptors()

    def _on_close(self, stub: nri_sync.Stub) -> None:
        self.closes += 1

    def lose(self) -> None:
        """End the session, as the runtime."""
        for peer in self.runtime.accepted[-3:]:
            peer.close()

    def check(self, case: str) -> None:
        """After a stop() nothing is left, at whichever bytecode the call was interrupted."""
        self.stub.stop()
        assert self.stub.state is State.IDLE, case
        give_up = time.monotonic() + LONG
        while not (tasks() <= self.clean[0] and descriptors() <= self.clean[1]):
            if time.monotonic() > give_up:
                names = [thread.name for thread in threading.enumerate()]
                raise AssertionError(f"{case}: left over: {names}, {descriptors() - self.clean[1]}")
            time.sleep(0.0002)
        assert not self.stub._conns, case
        assert self.model.wrong == [], case
        assert self.closes == self.model.losses, case
        held = held_locks(self.stub, self.model.attempts)
        assert not held, f"{case}: {held} held"
        faulthandler.dump_traceback_later(2 * LONG, exit=True)


class Case:
    """One call, and the events inside it."""

    def __init__(self, bench: Bench, call: str, event: str) -> None:
        self.bench, self.stub, self.call = bench, bench.stub, call
        self._event = event
        #: Whether stop() was called at a moment when it could find something to stop.
        self.stopped = False
        self.main = threading.main_thread().ident
        #: How many bytecodes the call has executed, up to the event.
        self.bytecodes = 0

    def event(self) -> None:
        if "stop" in self._event:
            self.stopped = self.stopped or bool(self.stub._conns)
            self.stub.stop()
        if "raise" in self._event:
            raise KeyboardInterrupt

    def run(self, at: int, again: int | None = None) -> bool:
        """Return whether the call was interrupted (with ``again``: interrupted twice)."""
        name = f"{self._event} at {at}, {again} in {self.call}"
        function: Callable[[], Any] = getattr(self.stub, self.call)
        if self.call not in ("start", "run"):
            self.stub.start()
        ender = None
        if self.call in ("run", "wait"):
            ender = threading.Thread(target=self._end, args=(at % 2 == 0,))
            ender.start()
        stepper = Stepper(at, self.event, again)
        error: BaseException | None = None
        value = None
        try:
            value = stepper.run(function)
        except BaseException as raised:
            error = raised
        self.ended = True
        self.bytecodes = stepper.counted
        if ender is not None:
            ender.join()
        self._judge(name, stepper.happened, value, error)
        del error
        self.bench.check(name)
        self.bench.figures[f"{self.call}: {self._event}"] += bool(stepper.happened)
        return stepper.happened > (again is not None)

    ended = False

    def _end(self, stop: bool) -> None:
        """End the session that the main thread waits for."""
        while not self.ended:
            frame = frame_of(self.main)
            if self.stub.started and frame is not None and frame.f_code is Latch.wait.__code__:
                if stop:
                    self.stub.stop()
                else:
                    self.bench.lose()
                return
            time.sleep(0.0005)

    def _is_left_up(self, error: BaseException) -> bool:
        """Whether the interrupted start() goes on, which it may only as it is about to return."""
        # The state is read first: an attempt is over before the state changes from STOPPING.
        left_up = any(
            self.stub.state is not State.STOPPING and not conn.attempt.is_over
            for conn in self.stub._conns.copy()
        )
        codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
        assert not (left_up and Connection.start.__code__ in codes), "the start goes on"
        eventually(lambda: left_up or self.stub.state is State.IDLE, "the end of the session")
        return left_up

    def _judge(self, name: str, happened: int, value: Any, error: BaseException | None) -> None:
        what = f"{name}: {value!r}, {error!r}"
        if happened and "raise" in self._event:
            assert isinstance(error, KeyboardInterrupt), what
            if self.call == "run" and happened == 1:
                assert not self.stub.started, what
                self.stub.start()  # waits for the end of the interrupted attempt
                self.stub.stop()
            elif self.call == "start" and happened == 1:
                self.bench.figures[f"{self.call}: left up"] += self._is_left_up(error)
        elif self.call == "start":
            assert error is None or (self.stopped and isinstance(error, StubStopped)), what
            # A stopped attempt does not go on.
            assert not (self.stopped and self.stub.started), what
        elif self.call == "update_containers":
            # A runtime may refuse it, as long as it has not seen that the plugin is configured.
            expected = (CallFailed, NotConnected) if self.stopped else (CallFailed,)
            assert error is None or isinstance(error, expected), what
        elif self.call == "run":
            assert error is None or isinstance(error, ConnectionLost), what
        elif self.call == "wait":
            assert value is True, what
        else:
            assert error is None, what


def length_of(bench: Bench, call: str) -> int:
    """The number of bytecodes of a call that nothing interrupts."""
    case = Case(bench, call, "none")
    assert not case.run(sys.maxsize)
    bench.figures[f"{call}: bytecodes"] = case.bytecodes
    return case.bytecodes


def sample(length: int, cases: int | None, run: Callable[[int], bool]) -> None:
    """Call ``run(at)`` for about ``cases`` bytecodes out of ``length`` (None: all), until it returns False."""
    stride = 1 if cases is None else max(1, length // cases)
    at = random.randrange(stride)
    while run(at):
        at += random.randint(1, 2 * stride - 1)


def aimed(bench: Bench, call: str, event: str, cases: int | None) -> None:
    sample(length_of(bench, call), cases, lambda at: Case(bench, call, event).run(at))


def twice(bench: Bench, call: str, event: str, cases: int | None) -> None:
    """Two interrupts, the second one while the first one is handled: the square of ``cases``, at most."""
    length = length_of(bench, call)

    def run(at: int) -> bool:
        def run_again(again: int) -> bool:
            happened = Case(bench, call, event).run(at, again)
            bench.figures[f"{call}: {event} twice"] += happened
            return happened

        happened = Case(bench, call, event).run(at)
        if happened:
            sample(length, cases, run_again)
        return happened

    sample(length, cases, run)


class Interrupted(BaseException):
    """The exception of the signal handler."""


class Signals:
    """Real signals at random moments, up to two in quick succession, which raise or call stop()."""

    def __init__(self, stub: nri_sync.Stub) -> None:
        self.stub = stub
        self.count = 0
        self.stop = False
        self._left = 0
        signal.signal(signal.SIGALRM, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if not self._left:
            return  # one that was under way when the timer was stopped
        self.count += 1
        self._left -= 1
        if not self._left:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if self.stop:
            self.stub.stop()
        else:
            raise Interrupted

    def during(self, function: Callable[[], None]) -> None:
        """Call it, with signals from a moment on, and none that is still to come afterwards."""
        self._left = 2
        interval = random.choice((0.0, 1e-4, 1e-3))
        # Each of the two may come while the other one is handled.
        try:
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 6e-3), interval)
                    function()
                except Interrupted:
                    pass
                self._left = 0
            except Interrupted:
                pass
            self._left = 0
        except Interrupted:
            pass
        signal.setitimer(signal.ITIMER_REAL, 0)


class Relay:
    """Sends events to each plugin that comes, as fast as it can."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._over = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over:
            try:
                peer = self._runtime.peers.get_nowait()
                while not self._over:
                    peer.call("RunPodSandbox", nri_pb2.RunPodSandboxRequest(), 1.0)
            except queue.Empty:
                time.sleep(
                    0.001
                )  # a wait with a timeout could be struck by one of the signals, and not end
            except (CallFailed, ConnectionLost):
                pass

    def close(self) -> None:
        self._over = True
        self._thread.join()


def at_random(bench: Bench, count: int) -> None:
    """Signals while a session serves events."""
    stub = bench.stub
    signals = Signals(stub)
    relay = Relay(bench.runtime)
    bench.clean = tasks(), descriptors()
    while signals.count < count:
        bench.figures["rounds"] += 1
        number = bench.figures["rounds"]
        signals.stop = number % 2 == 0
        before = signals.count
        over = threading.Event()
        stopper = threading.Thread(target=_stop_until, args=(stub, over))
        stopper.start()
        signals.during(functools.partial(_exercise, stub, run=number % 3 == 0))
        over.set()
        stopper.join()
        bench.figures["rounds with two signals"] += signals.count > before + 1
        bench.check(f"round {number}")
    bench.figures["signals"] = signals.count
    relay.close()


def _stop_until(stub: nri_sync.Stub, over: threading.Event) -> None:
    """Again and again: on a busy machine the first one may come before there is anything to stop."""
    while not over.wait(0.004):
        stub.stop()


def _exercise(stub: nri_sync.Stub, *, run: bool) -> None:
    try:
        if run:
            stub.run()
        else:
            stub.start()
            stub.update_containers(timeout=1.0)
            stub.wait(0.001)
            stub.stop()
    except (NRIError, CallFailed):
        pass  # the errors after a stop()


def prepare(seed: int) -> None:
    """For a process that runs one case after the other."""
    random.seed(seed)
    logging.disable()
    # Each case waits for the end of all its threads. This is still long enough for some to get another target.
    threads.IDLE_WAIT = 0.001


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=("aimed", "twice", "random"))
    parser.add_argument("--calls", default="start,stop,wait,run,update_containers")
    parser.add_argument("--events", default="raise,stop,stop+raise")
    parser.add_argument(
        "--cases", type=int, help="bytecodes of each call, at random; default: each one"
    )
    parser.add_argument("--count", type=int, default=10_000, help="of signals at random")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    prepare(arguments.seed)
    faulthandler.dump_traceback_later(2 * LONG, exit=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nri") as directory:
        bench = Bench(Path(directory) / "nri.sock")
        if arguments.mode == "random":
            at_random(bench, arguments.count)
        else:
            run = aimed if arguments.mode == "aimed" else twice
            for call in arguments.calls.split(","):
                for event in arguments.events.split(","):
                    run(bench, call, event, arguments.cases)
        bench.runtime.close()
    bench.figures["seconds"] = round(time.monotonic() - began)
    print(json.dumps(dict(bench.figures)))


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # threads that are left may hang
