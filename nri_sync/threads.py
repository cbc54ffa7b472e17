"""Waits for threads and starts threads in ways that a signal cannot break.

Python runs signal handlers, and raises KeyboardInterrupt, in the main thread only, between any two bytecodes. An
interrupt inside ``with condition:`` or ``Event.wait()`` can leave a lock held for good. An interrupt inside
``Thread.start()`` can leave a thread that never runs. So code on the main thread uses the functions of this
module, in which every critical step is a single C call. All other work runs on other threads.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import contextvars
import functools
import sys
import threading
import time
import weakref
from typing import Any, Callable, TypeVar, cast

from nri_sync.deadline import Deadline
from nri_sync.errors import NoThread
from nri_sync.fork import in_child, reset_if_forked

__all__ = [
    "IDLE_NAME",
    "IDLE_WAIT",
    "INTERRUPTED_WAIT",
    "MAIN_THREAD_SLICE",
    "MOST_IDLE",
    "Latch",
    "call_off_main",
    "off_main",
    "on_main_thread",
    "signal_safe",
    "spawn",
    "spawn_anywhere",
    "start_thread",
]

_T = TypeVar("_T")
_Function = TypeVar("_Function", bound=Callable[..., Any])

# A signal that arrives just before the main thread blocks on a lock does not wake it: the handler runs when the
# wait returns. So the main thread wakes once in this time, in seconds. Other threads get no signals.
MAIN_THREAD_SLICE = 1.0

# Seconds that an interrupted call of a signal_safe function waits for the end of the function.
INTERRUPTED_WAIT = 1.0

# Seconds that the end of the interpreter waits for the threads that are about to begin.
_LAST_WAIT = 5.0

# The end of the error of a thread that starts too late, as Python 3.12 and newer write it, too.
_AT_SHUTDOWN = "at interpreter shutdown"

# The main thread; in a forked child that is the thread that forked.
_main_ident = threading.main_thread().ident

# Weak references to the latches of the threads that have been started and have not begun. A start that an
# interrupt prevents leaves no latch behind.
_beginning: set[weakref.ref[Latch]] = set()

# A thread whose target has returned waits for another target: the start of a thread takes about 0.1 ms. So a
# plugin that comes back after a loss gets the threads of the session before.
#: The name of such a thread.
IDLE_NAME = "nri-idle"
#: How long it waits, in seconds.
IDLE_WAIT = 0.05
#: How many threads wait.
MOST_IDLE = 4

# Whether a thread that one C call has started can become a thread of ``threading``: see _begin().
_CAN_JOIN_THREADING = sys.version_info < (3, 13)

# Set when the interpreter ends. After that, no thread is started.
_ending = False


def _after_fork_in_child() -> None:
    global _main_ident
    _main_ident = threading.main_thread().ident
    # These threads belong to the parent.
    _beginning.clear()
    _idle.clear()


in_child(_after_fork_in_child)


def on_main_thread() -> bool:
    """Whether this is the thread that signal handlers interrupt."""
    return _thread.get_ident() == _main_ident


class Latch:
    """A one-way flag that threads can wait for: ``threading.Event`` without ``clear()`` or a held lock.

    All methods may be called from any thread, any number of times. A signal may interrupt all of them except
    ``set()``.
    """

    __slots__ = ("__weakref__", "_is_set", "_waiters")

    def __init__(self) -> None:
        self._is_set = False
        self._waiters: set[weakref.ref[Any]] = set()

    def is_set(self) -> bool:
        return self._is_set

    @property
    def waiters(self) -> int:
        """The number of threads that wait."""
        return len(self._waiters)

    def set(self) -> None:
        """Set the flag and wake all waiting threads. Never blocks.

        Do not call it in code that a signal may interrupt: a waiting thread might not wake.
        """
        self._is_set = True
        while self._waiters:
            try:
                waiter = self._waiters.pop()()
            except KeyError:  # another thread also calls set(), or the last waiter has gone
                return
            if waiter is not None:
                waiter.release()

    def wait(self, deadline: Deadline | None = None) -> bool:
        """Block until the flag is set (True) or the deadline has passed (False)."""
        if self._is_set:
            return True
        waiter = _thread.allocate_lock()
        waiter.acquire()
        # First add the waiter, then read the flag: set() either sees this waiter, or has set the flag already. The
        # set holds a weak reference, which disappears with the waiter at any end of this call. So no clean-up is
        # necessary that a signal could interrupt.
        self._waiters.add(weakref.ref(waiter, self._waiters.discard))
        longest = MAIN_THREAD_SLICE if on_main_thread() else threading.TIMEOUT_MAX
        while not self.is_set():
            remaining = None if deadline is None else deadline.remaining()
            if remaining == 0.0:
                return self.is_set()
            waiter.acquire(timeout=longest if remaining is None else min(remaining, longest))
        return True


class _Start:
    """A target for a thread. Keeps no reference to the target once it has run."""

    __slots__ = ("_args", "_target", "ended", "name")

    def __init__(self, name: str, target: Callable[..., object], args: tuple[object, ...]) -> None:
        self.name = name
        self._target: Callable[..., object] | None = target
        self._args = args
        #: Set after the target has returned or raised.
        self.ended = Latch()

    def run(self) -> None:
        """Run the target on this thread. Called once."""
        target, args = self._target, self._args
        self._target, self._args = None, ()
        assert target is not None
        _beginning.discard(weakref.ref(self.ended))
        try:
            # A build of Python may have threads inherit the context of their starter, which is that of a request
            # when a handler starts them.
            contextvars.Context().run(target, *args)
        finally:
            self.ended.set()


class _IdleThread:
    """A thread whose target has returned, while it waits for another one."""

    __slots__ = ("_handed_over", "_start", "_thread")

    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread
        self._start: _Start | None = None
        self._handed_over = _thread.allocate_lock()
        self._handed_over.acquire()

    def wait(self) -> _Start | None:
        """Block for a moment, until there is another target; None: the thread ends."""
        _idle.append(self)
        if not self._handed_over.acquire(timeout=IDLE_WAIT):
            try:
                _idle.remove(self)
            except ValueError:
                # Another thread has removed this one from the list, and is about to hand a target over.
                self._handed_over.acquire()
        return self._start

    def hand_over(self, start: _Start) -> None:
        """Called once, by the thread that has removed this one from the list."""
        # As with a new thread, the name is there when spawn() returns.
        self._thread.name = start.name
        self._start = start
        self._handed_over.release()


# list.pop() and list.remove() are atomic: either a spawn() gets a thread, or the thread ends.
_idle: list[_IdleThread] = []


def spawn(name: str, target: Callable[..., object], *args: object) -> Latch:
    """Run ``target(*args)`` on another daemon thread, which is called ``name``; returns at once.

    nri_sync starts all its threads with this function. They are daemon threads, so that a process exits even if it
    does not stop its stub. The returned latch is set after the target has returned or raised. The thread is a new
    one, or one whose target has returned a moment ago. On the main thread it is a new one, and the start is one C
    call: see :func:`_begin`. ``Thread.start()`` itself waits on locks that an interrupt would leave held.

    Raises:
        NoThread: the system can start no more threads, or the interpreter is shutting down. The target has not
            run.
    """
    reset_if_forked()
    start = _Start(name, target, args)
    try:
        if on_main_thread():
            _expect(start.ended)
            _thread.start_new_thread(_begin, (start,))
        elif _ending or not _hand_over(start):
            _expect(start.ended)
            start_thread(start)
    except (RuntimeError, MemoryError) as error:
        if str(error).endswith(_AT_SHUTDOWN) and not on_main_thread():
            # The interpreter stops each daemon thread as it ends. This thread rests until then: an error would
            # only be logged, and its cause is the end of the process. An exit handler may wait for this thread.
            time.sleep(_LAST_WAIT)
        raise NoThread(f"no thread for {name}: {str(error) or 'out of memory'}") from error
    return start.ended


def _hand_over(start: _Start) -> bool:
    """Have an idle thread run the target, if there is one. An interrupt could lose the thread and the target."""
    try:
        thread = _idle.pop()
    except IndexError:
        return False
    thread.hand_over(start)
    return True


def spawn_anywhere(name: str, target: Callable[..., object], *args: object) -> None:
    """Like :func:`spawn`, for a finalizer or a signal handler, which may interrupt any other code.

    Takes no lock. If no thread can be started, for example while the interpreter shuts down, the target does not
    run.
    """
    start = _Start(name, target, args)
    with contextlib.suppress(RuntimeError, MemoryError):
        _expect(start.ended)
        _thread.start_new_thread(_begin, (start,))


def _expect(ended: Latch) -> None:
    """Note that a thread is about to begin.

    An interpreter that ends frees the states of all threads. A thread that begins after that uses its freed state,
    and the process crashes. This function notes the thread, then reads the flag; the end of the interpreter sets
    the flag, then reads the notes. So either this call raises, or the interpreter waits for the thread.
    """
    note = weakref.ref(ended, _beginning.discard)
    _beginning.add(note)
    if _ending:
        _beginning.discard(note)
        raise RuntimeError(f"can't start new thread {_AT_SHUTDOWN}")


def _at_exit() -> None:
    global _ending
    _ending = True
    end = time.monotonic() + _LAST_WAIT
    while _beginning and time.monotonic() < end:
        time.sleep(0.001)


atexit.register(_at_exit)


def _begin(start: _Start) -> None:
    """The first function of a thread that one C call has started. Makes it a thread of ``threading``.

    Up to Python 3.12, this thread does the part of ``Thread.start()`` that comes before the start, and then the
    part of the new thread. From 3.13 on, an object joins its thread by a handle that only the C call of
    ``Thread.start()`` sets. So there this thread starts another one, at the cost of one more start.
    """
    try:
        if not _CAN_JOIN_THREADING:
            start_thread(start)
            return
        thread = _make_thread(start)
        threading._limbo[thread] = thread  # type: ignore[attr-defined]
    except (RuntimeError, MemoryError):
        start.run()  # spawn() has returned already, so it cannot raise
        return
    thread._bootstrap()  # type: ignore[attr-defined]


def start_thread(start: _Start) -> None:
    """Start a daemon thread. Does not wait until it runs. Raises RuntimeError if the system has no thread."""
    thread = _make_thread(start)
    # start() waits for this event. If a future Python does not use this attribute, start() waits as usual.
    thread._started = _NotAwaited()  # type: ignore[attr-defined]
    thread.start()


def _make_thread(start: _Start) -> threading.Thread:
    return threading.Thread(target=_run, name=start.name, args=(start,), daemon=True)


class _NotAwaited(threading.Event):
    """An event without a wait, so that ``Thread.start()`` returns before the new thread runs.

    The wait would cost two switches of threads, and more on a busy machine: the new thread needs a processor and
    the GIL, and then the starting thread needs both again.
    """

    def wait(self, timeout: float | None = None) -> bool:
        return True


def _run(start: _Start) -> None:
    """Run the target, then those that other threads hand over. An exception of a target ends the thread."""
    start.run()
    while len(_idle) < MOST_IDLE:
        thread = threading.current_thread()
        thread.name = IDLE_NAME
        following = _IdleThread(thread).wait()
        if following is None:
            return
        thread.name = following.name  # from Python 3.14 on this also sets the name in the system
        following.run()


def off_main(name: str, target: Callable[[], object]) -> None:
    """Run ``target()`` on this thread; if this is the main thread, run it on a new thread without waiting for it.

    If no thread can be started, the main thread runs the target itself. An interrupt could break it then, but it
    is worse not to run it.
    """
    if on_main_thread():
        try:
            spawn(name, target)
            return
        except NoThread:
            pass
    target()


def call_off_main(
    name: str, function: Callable[[], _T], undo: Callable[[], object] | None = None
) -> _T:
    """Call ``function()`` and return its result; if this is the main thread, call it on a new thread and wait.

    For functions that take locks. If the wait is interrupted, the function continues to its end. Then, or earlier,
    ``undo()`` is called once or twice, on threads that no signal interrupts. If no thread can be started, the main
    thread calls the function itself.
    """
    # A thread that is started while the interpreter ends never runs.
    if not on_main_thread() or _ending or sys.is_finalizing():
        return function()
    results: list[_T] = []
    # The traceback of an error refers to the frames of this call, so a frame that kept the error would make a
    # cycle. An interrupt during the collection of a cycle is lost, so this list is emptied.
    errors: list[BaseException] = []
    unwanted: list[None] = []
    done = Latch()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            results.append(context.run(function))
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()
        # The main thread marks the call as unwanted, then undoes it. This thread finishes the call, then reads the
        # mark.
        if unwanted:
            errors.clear()
            if undo is not None:
                undo()

    try:
        try:
            spawn(name, run)
        except NoThread:
            run()
        done.wait()
        if results:
            return results[0]
    except BaseException:
        unwanted.append(None)
        errors.clear()
        if undo is not None:
            off_main(name, undo)
        raise
    try:
        raise errors.pop()
    finally:
        errors.clear()


def signal_safe(function: _Function) -> _Function:
    """Decorator for a function that takes locks: a call on the main thread runs on another thread.

    The main thread waits for the result. So it holds none of the function's locks, and a signal handler may call
    the function, or another one that takes the same locks, at any moment. If the wait is interrupted
    (KeyboardInterrupt) before the call has begun, the call is withdrawn. If the call has begun, the function runs
    to its end, and the main thread waits up to a second for it before it raises. So a call happens completely or
    not at all, and before the calls that follow it.

    On other threads the decorator costs one comparison. The function must not wait for the thread of the caller,
    must not log, and must not call code of the application that does, because the main thread may hold the locks
    of that code. To wait, use a Latch outside of the function.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _thread.get_ident() != _main_ident:
            return function(*args, **kwargs)
        return _call_whole(functools.partial(function, *args, **kwargs))

    return cast(_Function, call)


def _call_whole(function: Callable[[], _T]) -> _T:
    unclaimed = {None: function}
    ended = Latch()

    def run() -> Any:
        # dict.pop() is atomic: either this thread makes the call, or the main thread withdraws it.
        claimed = unclaimed.pop(None, None)
        try:
            return claimed and claimed()
        finally:
            ended.set()

    try:
        return cast(_T, call_off_main("nri-call", run))
    except BaseException:
        if unclaimed.pop(None, None) is None:
            ended.wait(Deadline(INTERRUPTED_WAIT))
        raise
