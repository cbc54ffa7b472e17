"""Waiting and starting threads, with interrupts and wake-ups at every bytecode.

Where a test says "at every bytecode", a trace function counts the bytecodes of the code under test, and one
run after the other something happens before the first of them, the second, and so on: an exception is
raised, as by a signal handler that raises, or the latch is set, as by another thread. All tracing is done on
the main thread: Python 3.12 may crash when several threads are traced.
"""

from __future__ import annotations

import _thread
import ast
import contextvars
import faulthandler
import gc
import math
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Callable

import pytest

from nri_sync import deadline, threads
from nri_sync.deadline import Deadline
from nri_sync.errors import NoThread
from nri_sync.threads import (
    Latch,
    call_off_main,
    off_main,
    on_main_thread,
    signal_safe,
    spawn,
    spawn_anywhere,
)
from tests.forked import WARNS, in_child

#: Seconds that no wait in these tests should reach: a test that reaches it has failed.
LONG = 20.0


class Interrupt(BaseException):
    """The exception of a signal handler."""


class Stepper:
    """Runs a function; before the ``at``-th bytecode of the code under test, ``event`` happens.

    ``happened`` is True if the function had that many bytecodes.
    """

    FILES = frozenset({threads.__file__, deadline.__file__, threading.__file__})

    def __init__(self, at: int, event: Callable[[], None]) -> None:
        self.happened = False
        self._left = at
        self._event = event

    def run(self, function: Callable[..., Any], *arguments: object) -> Any:
        previous = sys.gettrace()
        # Python 3.12 sends no such events to a trace function that was set before the first frame requested them.
        sys._getframe().f_trace_opcodes = True
        sys.settrace(self._trace)
        try:
            return function(*arguments)
        finally:
            sys.settrace(previous)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename not in self.FILES or self.happened:
            return None
        if event == "call":
            # This order matters: Python 3.13 enables the events of a frame that has a trace function.
            frame.f_trace = self._trace
            frame.f_trace_lines = False
            frame.f_trace_opcodes = True
        elif event == "opcode":
            self._left -= 1
            if self._left < 0:
                self.happened = True
                sys.settrace(None)
                self._event()
        return self._trace


def raise_interrupt() -> None:
    raise Interrupt


class WatchedLock:
    """A lock that reports a thread that is about to block on it, and does not block for ever."""

    def __init__(self, watch: Watch) -> None:
        self._lock = _thread.allocate_lock()
        self._watch = watch

    def acquire(self, timeout: float = -1) -> bool:
        if self._lock.acquire(blocking=False):
            return True
        self._watch.blocks += 1
        self._watch.before_blocking()
        if self._lock.acquire(timeout=min(timeout, LONG)):
            return True
        assert timeout < LONG, "nobody has woken this thread"
        return False

    def release(self) -> None:
        self._lock.release()


class Watch:
    """Replaces the module ``_thread`` in the module under test, and reports the calls."""

    get_ident = staticmethod(_thread.get_ident)

    def __init__(self) -> None:
        self.blocks = 0
        self.before_blocking: Callable[[], object] = lambda: None
        self.threads_started = 0

    def allocate_lock(self) -> WatchedLock:
        return WatchedLock(self)

    def start_new_thread(self, function: Callable[..., object], arguments: tuple[Any, ...]) -> int:
        self.threads_started += 1
        return _thread.start_new_thread(function, arguments)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    monkeypatch.setattr(threads, "_thread", watch)
    return watch


@pytest.fixture
def not_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """The main thread waits as another thread: its regular polling would hide a lost wake-up."""
    monkeypatch.setattr(threads, "on_main_thread", lambda: False)


@pytest.fixture
def interrupt() -> Iterator[Callable[[], object]]:
    """A function that sends the main thread a signal whose handler raises :class:`Interrupt`."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Interrupt

    main = threading.main_thread().ident
    assert main is not None
    previous = signal.signal(signal.SIGUSR1, handle)
    yield partial(signal.pthread_kill, main, signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, previous)


def run_in_threads(count: int, function: Callable[..., object]) -> list[threading.Thread]:
    started = [threading.Thread(target=function, daemon=True) for _ in range(count)]
    for thread in started:
        thread.start()
    return started


def join_all(started: list[threading.Thread]) -> None:
    for thread in started:
        thread.join(LONG)
        assert not thread.is_alive()


def check_usable(latch: Latch, watch: Watch) -> None:
    """Another thread can wait for the latch, and is woken."""
    watch.before_blocking = latch.set
    results: list[bool] = []
    join_all(run_in_threads(1, lambda: results.append(latch.wait())))
    assert results == [True]
    assert latch.is_set()
    assert latch.waiters == 0


class TestLatch:
    def test_is_not_set_at_first(self) -> None:
        latch = Latch()
        assert not latch.is_set()
        assert not latch.wait(Deadline(0))

    def test_stays_set(self) -> None:
        latch = Latch()
        latch.set()
        latch.set()
        assert latch.is_set()
        assert latch.wait()
        assert latch.wait(Deadline(0))

    @pytest.mark.parametrize("timeout", [0.05, -1])
    def test_gives_up_at_the_deadline(self, timeout: float) -> None:
        latch = Latch()
        started = time.monotonic()
        assert not latch.wait(Deadline(timeout))
        assert timeout <= time.monotonic() - started < LONG
        assert latch.waiters == 0

    def test_gives_up_at_the_deadline_on_other_threads(self) -> None:
        latch = Latch()
        results: list[bool] = []
        join_all(run_in_threads(5, lambda: results.append(latch.wait(Deadline(0.05)))))
        assert results == [False] * 5
        assert latch.waiters == 0

    @pytest.mark.parametrize("timeout", [None, math.inf, 1e9])
    def test_waits_as_long_as_it_takes(self, watch: Watch, timeout: float | None) -> None:
        latch = Latch()
        watch.before_blocking = latch.set
        assert latch.wait(Deadline(timeout))
        assert watch.blocks == 1

    @pytest.mark.parametrize("setters", [1, 8])
    def test_wakes_all_waiters(self, setters: int) -> None:
        for _ in range(20):
            latch = Latch()
            barrier = threading.Barrier(16 + setters)
            results: list[bool] = []
            wait = partial(after, barrier, lambda latch, results: results.append(latch.wait()))
            set_it = partial(after, barrier, lambda latch: latch.set())
            join_all(
                run_in_threads(16, partial(wait, latch, results))
                + run_in_threads(setters, partial(set_it, latch))
            )
            assert results == [True] * 16
            assert latch.waiters == 0

    def test_no_wake_up_is_lost_when_it_is_set_at_any_bytecode_of_wait(
        self, watch: Watch, not_main: None
    ) -> None:
        at, happened = 0, True
        while happened:
            latch = Latch()
            watch.before_blocking = latch.set
            stepper = Stepper(at, latch.set)
            assert stepper.run(latch.wait)
            assert latch.waiters == 0
            at, happened = at + 1, stepper.happened
        assert at > 20

    @pytest.mark.parametrize("timeout", [None, 0])
    def test_an_interrupt_at_any_bytecode_of_wait_leaves_nothing_behind(
        self, watch: Watch, timeout: float | None
    ) -> None:
        at, happened = 0, True
        while happened:
            latch = Latch()
            watch.before_blocking = latch.set
            stepper = Stepper(at, raise_interrupt)
            try:
                assert stepper.run(latch.wait, Deadline(timeout)) is (timeout is None)
            except Interrupt:
                assert stepper.happened
            assert latch.waiters == 0, f"interrupted at bytecode {at}"
            check_usable(latch, watch)
            at, happened = at + 1, stepper.happened
        assert at > 20

    def test_a_waiter_that_was_interrupted_is_passed_over(self) -> None:
        latch = Latch()
        # A waiter that has gone, but whose weak reference still exists, as set() on another thread may see it.
        waiter = Target()
        latch._waiters.add(weakref.ref(waiter))
        del waiter
        latch.set()
        assert latch.waiters == 0

    def test_a_signal_handler_may_set_it_at_any_bytecode_of_set(self, watch: Watch) -> None:
        at, happened = 0, True
        while happened:
            latch = Latch()
            blocking = threading.Semaphore(0)
            watch.before_blocking = blocking.release
            waiters = run_in_threads(2, latch.wait)
            for _ in waiters:
                assert blocking.acquire(timeout=LONG)
            stepper = Stepper(at, latch.set)
            stepper.run(latch.set)
            join_all(waiters)
            assert latch.is_set()
            assert latch.waiters == 0
            at, happened = at + 1, stepper.happened
        assert at > 10

    def test_a_signal_ends_a_wait_when_its_handler_raises(
        self, watch: Watch, interrupt: Callable[[], object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The signal may come just before the thread blocks.
        monkeypatch.setattr(threads, "MAIN_THREAD_SLICE", 0.05)
        latch = Latch()
        blocking = threading.Event()
        watch.before_blocking = blocking.set
        interrupter = run_in_threads(1, lambda: (blocking.wait(LONG), interrupt()))
        with pytest.raises(Interrupt):
            latch.wait(Deadline(LONG))
        join_all(interrupter)
        assert latch.waiters == 0
        check_usable(latch, watch)

    def test_the_main_thread_looks_again_now_and_then(
        self, watch: Watch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # As after a signal just before the thread blocked: its handler runs when the thread wakes.
        monkeypatch.setattr(threads, "MAIN_THREAD_SLICE", 0.01)
        latch = Latch()

        def set_without_waking() -> None:
            latch._is_set = watch.blocks > 3

        watch.before_blocking = set_without_waking
        assert latch.wait()
        assert watch.blocks == 4

    def test_other_threads_sleep_until_they_are_woken(
        self, watch: Watch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(threads, "MAIN_THREAD_SLICE", 0.0)
        latch = Latch()
        check_usable(latch, watch)
        assert watch.blocks == 1


def after(barrier: threading.Barrier, function: Callable[..., object], *arguments: object) -> None:
    barrier.wait(LONG)
    function(*arguments)


class Target:
    """A function for a thread: it counts its runs, and stores the thread and the arguments of the last one."""

    def __init__(self) -> None:
        self.runs = 0
        self.arguments: tuple[object, ...] = ()
        self.thread: threading.Thread | None = None
        self._ran = threading.Event()

    def __call__(self, *arguments: object) -> None:
        self.runs += 1
        self.arguments = arguments
        self.thread = threading.current_thread()
        self._ran.set()

    def ran(self) -> bool:
        """Wait until it has run."""
        return self._ran.wait(LONG)

    def wait(self) -> threading.Thread:
        """Wait until it has run and its thread, if it is another one, has ended."""
        assert self.ran()
        assert self.thread is not None
        if self.thread is not threading.current_thread():
            self.thread.join(LONG)
            assert not self.thread.is_alive()
        return self.thread


def on_other_thread(function: Callable[[], object]) -> threading.Thread:
    [thread] = run_in_threads(1, function)
    join_all([thread])
    return thread


@pytest.fixture(autouse=True)
def threads_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "MOST_IDLE", 0)
    wait_for_idle(0)  # an idle thread of the test before would count, and could take a target over


def test_the_main_thread_is_distinguished() -> None:
    results = [on_main_thread()]
    on_other_thread(lambda: results.append(on_main_thread()))
    assert results == [True, False]


@pytest.mark.parametrize("caller", ["main", "other"])
def test_spawn_runs_the_target_on_a_named_daemon_thread(caller: str) -> None:
    target = Target()
    before = set(threading.enumerate())
    if caller == "main":
        spawn("10-test-reader", target, 1, "two")
    else:
        on_other_thread(lambda: spawn("10-test-reader", target, 1, "two"))
    thread = target.wait()
    assert thread.name == "10-test-reader"
    assert thread.daemon
    assert thread is not threading.main_thread()
    assert target.arguments == (1, "two")
    assert target.runs == 1
    # threading does not know the starting thread, so it leaves no dummy thread behind.
    assert set(threading.enumerate()) == before


def test_spawn_does_not_wait_until_the_thread_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the starting thread would release the processor and the GIL, and take both again, without need."""
    go_on = threading.Event()
    bootstrap = threading.Thread._bootstrap  # type: ignore[attr-defined]

    def late(self: threading.Thread) -> None:
        if self.name == "late":
            go_on.wait(LONG)
        bootstrap(self)

    monkeypatch.setattr(threading.Thread, "_bootstrap", late)
    target = Target()
    try:
        on_other_thread(lambda: spawn("late", target))  # which is joined
        assert "late" in {thread.name for thread in threading.enumerate()}
        assert target.runs == 0
    finally:
        go_on.set()
    thread = target.wait()
    thread.join(LONG)
    assert not thread.is_alive()


class TestIdle:
    """A thread whose target has returned runs the next target."""

    @pytest.fixture(autouse=True)
    def threads_stay(self, monkeypatch: pytest.MonkeyPatch, threads_end_at_once: None) -> None:
        monkeypatch.setattr(threads, "MOST_IDLE", 1)
        monkeypatch.setattr(threads, "IDLE_WAIT", LONG)

    @pytest.fixture
    def idle(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Thread]:
        """A thread that waits, and that ends with the test."""
        before = set(threading.enumerate())
        spawn("first", lambda: None).wait(Deadline(LONG))
        [thread] = wait_for_idle(1, before)
        yield thread
        if thread.name == threads.IDLE_NAME:
            monkeypatch.setattr(threads, "MOST_IDLE", 0)
            on_other_thread(lambda: spawn("last", lambda: None))
        thread.join(LONG)
        assert not thread.is_alive()

    def test_it_runs_the_next_target(self, idle: threading.Thread) -> None:
        found = []
        on_other_thread(
            lambda: spawn(
                "second", lambda: found.append((threading.current_thread(), idle.name))
            ).wait(Deadline(LONG))
        )
        assert found == [(idle, "second")]
        wait_for_idle(1)

    def test_the_name_is_there_at_once(self, idle: threading.Thread) -> None:
        names = []
        go_on = threading.Event()

        def start() -> None:
            ended = spawn("second", go_on.wait, LONG)
            names.append(idle.name)
            go_on.set()
            ended.wait(Deadline(LONG))

        on_other_thread(start)
        assert names == ["second"]
        wait_for_idle(1)

    def test_the_main_thread_starts_a_new_one(self, idle: threading.Thread) -> None:
        """An interrupt could lose the idle thread."""
        target = Target()
        spawn("second", target)
        assert target.wait() is not idle

    def test_it_keeps_nothing_of_a_target(self, idle: threading.Thread) -> None:
        class Something:
            pass

        things = [Something()]
        gone = weakref.ref(things[0])
        on_other_thread(lambda: spawn("second", id, things.pop()).wait(Deadline(LONG)))
        wait_for_idle(1)
        assert gone() is None

    def test_each_target_has_a_context_of_its_own(self, idle: threading.Thread) -> None:
        variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
        seen = []

        def target() -> None:
            seen.append(variable.get())
            variable.set(1)

        for _ in range(2):
            on_other_thread(lambda: spawn("x", target).wait(Deadline(LONG)))
            wait_for_idle(1)
        assert seen == [0, 0]

    def test_an_exception_ends_it(
        self, idle: threading.Thread, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reported: list[tuple[object, str]] = []
        monkeypatch.setattr(
            threading,
            "excepthook",
            lambda args: reported.append((args.thread, args.thread.name)),
        )
        on_other_thread(lambda: spawn("failing", partial(int, "no number")))
        idle.join(LONG)
        assert reported == [(idle, "failing")]

    def test_no_more_than_a_few_wait(self, idle: threading.Thread) -> None:
        target = Target()
        spawn("second", target)
        target.wait()  # joins its thread
        assert idle.is_alive()

    def test_it_ends_after_a_while(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(threads, "IDLE_WAIT", 0.001)
        target = Target()
        spawn("first", target)
        target.wait()

    def test_a_target_that_comes_at_the_last_moment_runs(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The wait of the thread is over when another thread takes the idle thread from the list."""
        monkeypatch.setattr(threads, "IDLE_WAIT", 0.0)
        taken, waits = threading.Event(), threading.Event()

        class Late(list[Any]):
            def remove(self, item: Any) -> None:
                waits.set()
                assert taken.wait(LONG)
                super().remove(item)

            def pop(self, *index: Any) -> Any:
                item = super().pop(*index)
                taken.set()
                return item

        monkeypatch.setattr(threads, "_idle", Late())
        first, second = Target(), Target()
        spawn("first", first)
        assert waits.wait(LONG)
        on_other_thread(lambda: spawn("second", second))
        assert second.ran()
        assert second.wait() is first.thread

    def test_no_target_is_lost(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Threads that start targets, while idle threads give up at the same time."""
        monkeypatch.setattr(threads, "IDLE_WAIT", 0.0002)
        monkeypatch.setattr(threads, "MOST_IDLE", 3)
        latches: list[Latch] = []

        def start() -> None:
            for number in range(200):
                latches.append(spawn("x", lambda: None))
                if number % 3:
                    latches[-1].wait(Deadline(LONG))

        join_all(run_in_threads(3, start))
        assert len(latches) == 600
        for latch in latches:
            assert latch.wait(Deadline(LONG))

    def test_after_the_end_of_the_interpreter_has_begun_no_target_runs(
        self, idle: threading.Thread, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(threads, "_ending", True)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        errors: list[NoThread] = []

        def start() -> None:
            with pytest.raises(NoThread, match="at interpreter shutdown") as caught:
                spawn("late", lambda: None)
            errors.append(caught.value)

        on_other_thread(start)
        assert len(errors) == 1
        monkeypatch.setattr(threads, "_ending", False)

    @WARNS
    def test_a_forked_child_starts_its_own(self, idle: threading.Thread) -> None:
        def child() -> None:
            target = Target()
            on_other_thread(lambda: spawn("second", target))
            assert target.ran()
            assert target.thread is not idle

        in_child(child)


def wait_for_idle(count: int, before: Collection[threading.Thread] = ()) -> list[threading.Thread]:
    """The idle threads that were not there before. Waits until there are as many, ready for a target."""
    deadline = Deadline(LONG)
    while not deadline.expired:
        named = [
            t for t in threading.enumerate() if t.name == threads.IDLE_NAME and t not in before
        ]
        # A thread takes the name, and only then gets into the list.
        ready = {idle._thread for idle in list(threads._idle)}
        if len(named) == count and ready.issuperset(named):
            return named
        time.sleep(0.001)
    raise AssertionError(f"not {count} idle threads")


@pytest.mark.parametrize("caller", ["main", "other"])
def test_an_exception_of_a_spawned_target_goes_to_the_excepthook(
    caller: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[tuple[str, object]] = []
    target = Target()

    def hook(arguments: threading.ExceptHookArgs) -> None:
        assert arguments.thread is not None
        reported.append((arguments.thread.name, arguments.exc_value))

    def fail() -> None:
        target()
        raise error

    error = ValueError("from the target")
    monkeypatch.setattr(threading, "excepthook", hook)
    if caller == "main":
        spawn("failing", fail)
    else:
        on_other_thread(lambda: spawn("failing", fail))
    target.wait()
    assert reported == [("failing", error)]


@pytest.fixture
def watchdog() -> Iterator[None]:
    """Ends the process if a test hangs, without Python's locks, because a bug may leave them held."""
    with open(os.dup(2), "w", encoding="utf-8") as file:
        faulthandler.dump_traceback_later(LONG, exit=True, file=file)
        yield
        faulthandler.cancel_dump_traceback_later()


@pytest.mark.usefixtures("watchdog")
@pytest.mark.parametrize("start", [spawn, off_main])
def test_an_interrupt_at_any_bytecode_starts_the_thread_or_does_not(
    start: Callable[[str, Callable[[], object]], None], watch: Watch
) -> None:
    outcomes = set()
    at, happened = 0, True
    while happened:
        target = Target()
        before = set(threading.enumerate())
        watch.threads_started = 0
        stepper = Stepper(at, raise_interrupt)
        try:
            stepper.run(start, "interrupted", target)
        except Interrupt:
            assert stepper.happened
        if watch.threads_started:
            assert target.wait().name == "interrupted"
        assert target.runs == watch.threads_started
        assert set(threading.enumerate()) == before, f"interrupted at bytecode {at}"
        outcomes.add((stepper.happened, target.runs))
        at, happened = at + 1, stepper.happened
    assert outcomes == {(True, 0), (True, 1), (False, 1)}


def no_more_threads(*_: object) -> None:
    raise RuntimeError("can't start new thread")


def test_spawn_says_so_when_there_are_no_more_threads(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target()
    monkeypatch.setattr(watch, "start_new_thread", no_more_threads)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        spawn("unused", target)
    assert target.runs == 0


@pytest.mark.parametrize("caller", ["main", "other"])
def test_the_latch_is_set_when_the_target_has_ended(caller: str) -> None:
    go = threading.Event()
    latches: list[Latch] = []

    def run() -> None:
        assert go.wait(LONG)

    def start() -> None:
        latches.append(spawn("latched", run))

    if caller == "main":
        start()
    else:
        on_other_thread(start)
    [ended] = latches
    assert not ended.is_set()
    go.set()
    assert ended.wait(Deadline(LONG))


@pytest.mark.parametrize("caller", ["main", "other"])
@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_there_is_one_error_for_no_thread(
    caller: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise error

    def start() -> None:
        with pytest.raises(NoThread, match="no thread for unused: ") as caught:
            spawn("unused", Target())
        causes.append(caught.value.__cause__)

    causes: list[object] = []
    if caller == "main":
        monkeypatch.setattr(_thread, "start_new_thread", refuse)
        start()
    else:
        monkeypatch.setattr(threads, "start_thread", refuse)
        on_other_thread(start)
    assert causes == [error]


@pytest.mark.parametrize("caller", ["main", "other"])
def test_a_finalizer_can_start_a_thread_while_locks_of_threading_are_held(caller: str) -> None:
    ran = threading.Event()

    def start() -> None:
        # In the first releases of Python 3.9 this lock is not re-entrant.
        with threading._active_limbo_lock:  # type: ignore[attr-defined]
            spawn_anywhere("finalizer", ran.set)

    if caller == "main":
        start()
    else:
        thread = threading.Thread(target=start)
        thread.start()
        thread.join(10)
    assert ran.wait(10)


def test_a_finalizer_that_gets_no_thread_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("_thread.start_new_thread", refuse)
    spawn_anywhere("finalizer", pytest.fail)


def test_threads_are_started_in_one_way() -> None:
    package = Path(threads.__file__).parent
    found = [
        f"{path.relative_to(package)}: {ast.unparse(node)}"
        for path in package.rglob("*.py")
        if path.name != "threads.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and (
            ast.unparse(node.func).rpartition(".")[2]
            in {"Thread", "start_new_thread", "ThreadPoolExecutor", "ThreadPool"}
            or ast.unparse(node.func) == "threading.Timer"
        )
    ]
    assert found == []


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="threads have handles")
def test_the_main_thread_starts_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "start_thread", no_more_threads)
    target = Target()
    spawn("one", target)
    thread = target.wait()
    assert thread.name == "one"
    thread.join(LONG)
    assert not thread.is_alive()


def test_the_target_of_the_main_thread_runs_without_an_object_for_its_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran = threading.Event()
    runs: list[tuple[int, str]] = []

    def target(text: str) -> None:
        runs.append((_thread.get_ident(), text))
        ran.set()

    monkeypatch.setattr(threads, "_make_thread", no_more_threads)
    spawn("unused", target, "argument")
    assert ran.wait(LONG)
    [(ident, text)] = runs
    assert ident != threading.main_thread().ident
    assert text == "argument"


def test_off_main_stays_on_the_main_thread_when_there_is_no_other(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target()
    monkeypatch.setattr(watch, "start_new_thread", no_more_threads)
    off_main("unused", target)
    assert target.runs == 1
    assert target.thread is threading.main_thread()


def test_off_main_runs_the_target_here_on_other_threads() -> None:
    target = Target()
    caller = on_other_thread(lambda: off_main("unused", target))
    assert target.wait() is caller
    assert target.runs == 1


def test_off_main_passes_on_an_exception_of_the_target() -> None:
    caught = []

    def call() -> None:
        with pytest.raises(Interrupt) as error:
            off_main("unused", raise_interrupt)
        caught.append(error.type)

    on_other_thread(call)
    assert caught == [Interrupt]


def test_off_main_leaves_the_main_thread_at_once() -> None:
    target = Target()
    go = threading.Event()

    def run() -> None:
        assert go.wait(LONG)
        target()

    off_main("10-test-teardown", run)
    assert target.runs == 0
    go.set()
    thread = target.wait()
    assert thread.name == "10-test-teardown"
    assert thread.daemon
    assert target.runs == 1


class TestCallOffMain:
    def test_another_thread_makes_the_call(self) -> None:
        thread = call_off_main("10-test-call", threading.current_thread)
        assert thread is not threading.main_thread()
        assert thread.name == "10-test-call"

    def test_other_threads_make_it_themselves(self) -> None:
        def call() -> None:
            callers.append(call_off_main("unused", threading.current_thread))

        callers: list[threading.Thread] = []
        assert on_other_thread(call) is callers[0]

    def test_its_exception_is_raised_here(self) -> None:
        with pytest.raises(Interrupt):
            call_off_main("10-test-call", raise_interrupt)

    def test_the_context_goes_with_it(self) -> None:
        variable = contextvars.ContextVar[str]("variable")
        variable.set("here")
        assert call_off_main("10-test-call", variable.get) == "here"

    def test_without_a_thread_it_is_made_here(
        self, watch: Watch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watch, "start_new_thread", no_more_threads)
        assert call_off_main("unused", threading.current_thread) is threading.main_thread()

    def test_an_interrupt_leaves_the_call_alone(self, interrupt: Callable[[], object]) -> None:
        go, over, undone = threading.Event(), threading.Event(), threading.Event()
        order = []

        def call() -> None:
            interrupt()
            assert go.wait(LONG)
            order.append("made")
            over.set()

        def undo() -> None:
            order.append("undone")
            if over.is_set():
                undone.set()

        with pytest.raises(Interrupt):
            call_off_main("10-test-call", call, undo)
        go.set()
        assert undone.wait(LONG)
        # undo() may also run during the call, to shorten it.
        assert order.count("made") == 1
        assert order[-1] == "undone"

    def test_an_interrupt_at_every_bytecode_leaves_nothing(self) -> None:
        left = at = 0
        happened = True
        before = len(os.listdir("/proc/self/task"))
        while happened:
            order: list[str] = []
            stepper = Stepper(at, raise_interrupt)
            made, undone = partial(order.append, "made"), partial(order.append, "undone")
            try:
                stepper.run(call_off_main, "interrupted", made, undone)
            except Interrupt:
                assert stepper.happened
                eventually_no_more_than(before)
                left += "made" in order and not undone_soon(order)
            else:
                assert order == ["made"]
            eventually_no_more_than(before)
            at, happened = at + 1, stepper.happened
        assert at > 50
        # The last bytecode returns: an interrupt there is the same as one in the caller.
        assert left <= 3


def undone_soon(order: list[str]) -> bool:
    """Whether undo comes last. The thread of the call may have ended earlier than the thread of undo."""
    give_up = time.monotonic() + 0.5
    while order[-1] != "undone" and time.monotonic() < give_up:
        time.sleep(0.001)
    return order[-1] == "undone"


def eventually_no_more_than(tasks: int) -> None:
    """Wait for the end of all other threads, including threads that are being started."""
    give_up = time.monotonic() + LONG
    while len(os.listdir("/proc/self/task")) > tasks:
        assert time.monotonic() < give_up
        time.sleep(0.0005)


class TestSignalSafe:
    def test_the_main_thread_has_another_one_call(self) -> None:
        @signal_safe
        def function(*args: object, **kwargs: object) -> Any:
            """Its text."""
            return threading.current_thread(), args, kwargs

        thread, args, kwargs = function(1, x=2)
        assert thread is not threading.main_thread()
        assert (args, kwargs) == ((1,), {"x": 2})
        assert (function.__name__, function.__doc__) == ("function", "Its text.")

    def test_other_threads_call_it_themselves(self) -> None:
        function = signal_safe(threading.current_thread)
        callers: list[threading.Thread] = []
        assert on_other_thread(lambda: callers.append(function())) is callers[0]

    def test_its_exception_is_raised_here(self) -> None:
        with pytest.raises(Interrupt):
            signal_safe(raise_interrupt)()

    def test_a_signal_handler_may_call_it_meanwhile(self) -> None:
        """Another thread takes the lock of the call, so the main thread does not hold it."""
        lock = threading.Lock()
        calls: list[int] = []

        @signal_safe
        def function() -> None:
            with lock:
                calls.append(1)

        at, happened = 0, True
        while happened:
            stepper = Stepper(at, function)
            stepper.run(function)
            at, happened = at + 1, stepper.happened
        assert at > 50
        assert len(calls) == 2 * at - 1

    def test_an_interrupted_call_is_made_as_a_whole_or_not_at_all(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After the interrupt has been raised, no call runs any longer."""
        monkeypatch.setattr(threads, "INTERRUPTED_WAIT", LONG)
        lock = threading.Lock()
        begun: list[int] = []
        ended: list[int] = []

        @signal_safe
        def function() -> None:
            with lock:
                begun.append(1)
                time.sleep(0.0005)
                ended.append(1)

        at, happened = 0, True
        while happened:
            begun.clear()
            ended.clear()
            stepper = Stepper(at, raise_interrupt)
            try:
                stepper.run(function)
            except Interrupt:
                assert len(begun) == len(ended)
            else:
                assert ended
            assert not lock.locked()
            at, happened = at + 1, stepper.happened
        assert at > 50

    def test_an_interrupted_call_that_has_not_begun_is_withdrawn(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target = Target()
        late: list[Callable[[], object]] = []

        def start_late(name: str, run: Callable[[], object]) -> None:
            late.append(run)
            raise Interrupt

        monkeypatch.setattr(threads, "spawn", start_late)
        with pytest.raises(Interrupt):
            signal_safe(target)()
        on_other_thread(late[0])
        assert target.runs == 0

    def test_an_interrupt_does_not_wait_for_ever(
        self, interrupt: Callable[[], object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(threads, "INTERRUPTED_WAIT", 0.01)
        go, over = threading.Event(), threading.Event()

        @signal_safe
        def function() -> None:
            interrupt()
            assert go.wait(LONG)
            over.set()

        with pytest.raises(Interrupt):
            function()
        assert not over.is_set()
        go.set()
        assert over.wait(LONG)

    @WARNS
    def test_a_forked_child_knows_its_main_thread(self) -> None:
        """The thread that has forked."""
        seen: list[int] = []

        def fork() -> None:
            child = os.fork()
            if not child:
                os._exit(0 if signal_safe(_thread.get_ident)() != _thread.get_ident() else 1)
            seen.append(os.waitpid(child, 0)[1])

        on_other_thread(fork)
        assert seen == [0]

    @pytest.mark.parametrize("fails", ["while it is waited for", "after that"])
    def test_an_interrupted_call_leaves_no_garbage(
        self, interrupt: Callable[[], object], monkeypatch: pytest.MonkeyPatch, fails: str
    ) -> None:
        """An interrupt during a garbage collection of the main thread would be lost."""

        class Failure(Exception):
            pass

        go = threading.Event()
        made: list[weakref.ref[Failure]] = []

        @signal_safe
        def function() -> None:
            interrupt()
            assert go.wait(LONG if fails == "after that" else 0.01) == (fails == "after that")
            failure = Failure()
            made.append(weakref.ref(failure))
            try:
                raise failure
            finally:
                del failure

        monkeypatch.setattr(threads, "INTERRUPTED_WAIT", 0.01 if fails == "after that" else LONG)
        gc.collect()
        gc.disable()
        try:
            with pytest.raises(Interrupt):
                function()
            go.set()
            give_up = time.monotonic() + LONG
            while not (made and made[0]() is None):
                assert time.monotonic() < give_up
                time.sleep(0.001)
        finally:
            gc.enable()


@pytest.mark.parametrize("caller", ["the main thread", "another thread"])
def test_the_interpreter_ends_after_its_threads_have_begun(caller: str) -> None:
    """The main thread keeps the GIL up to its exit, so that only a wait there lets the new thread begin."""
    program = f"""
import atexit, sys, threading
begun = []
atexit.register(lambda: print(begun))
from nri_sync.threads import spawn
sys.setswitchinterval(1000)
start = lambda: spawn("late", begun.append, 1)
if {caller == "the main thread"}:
    start()
else:
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1]\n", "")


def test_no_thread_is_started_when_the_interpreter_has_begun_to_end() -> None:
    program = """
import atexit, threading
def start():
    try:
        spawn("late", print, "begun")
    except NoThread as error:
        print(error)
def check():
    start()
    spawn_anywhere("late", print, "begun")
    print(call_off_main("late", threading.current_thread) is threading.main_thread())
atexit.register(check)
from nri_sync.threads import call_off_main, spawn, spawn_anywhere
from nri_sync.errors import NoThread
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    text = "no thread for late: can't start new thread at interpreter shutdown\nTrue\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, text, "")


@pytest.mark.parametrize("when", ["atexit", "finalizer"])
def test_as_the_interpreter_ends(when: str) -> None:
    program = f"""
import atexit, threading
from nri_sync.threads import signal_safe

@signal_safe
def function(lock=threading.Lock()):
    with lock:
        return "called"

class Finalizer:
    def __del__(self, function=function, print=print):
        print(function())

if {when!r} == "atexit":
    atexit.register(lambda: print(function()))
else:
    _kept = Finalizer()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=LONG, check=True
    )
    assert done.stdout.split() == ["called"]


def test_a_thread_does_not_inherit_the_context_of_its_starter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As free-threaded builds of Python 3.14 have it. The context of a request would outlive the request."""

    class Inheriting(threading.Thread):
        def start(self) -> None:
            self.inherited = contextvars.copy_context()
            super().start()

        def run(self) -> None:
            self.inherited.run(super().run)

    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    seen: list[str] = []
    monkeypatch.setattr(threading, "Thread", Inheriting)

    def start() -> None:
        variable.set("a request")
        assert threads.spawn("x", lambda: seen.append(variable.get())).wait(Deadline(LONG))

    starter = threading.Thread(
        target=start, daemon=True
    )  # the main thread has a helper to start threads
    starter.start()
    starter.join(LONG)
    assert seen == ["none"]
