"""Waiting and starting threads in ways that a signal cannot break.

Python runs signal handlers, and raises KeyboardInterrupt, in the main thread only, between any two
bytecodes. An interrupt inside ``with condition:`` or ``Event.wait()`` can leave a lock held for good, and
one inside ``Thread.start()`` a thread that never runs. Code that the main thread may be in therefore uses
the pieces below, in which every step that matters is a single C call; all else runs on other threads.
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
    "Latch",
    "call_off_main",
    "off_main",
    "on_main_thread",
    "signal_safe",
    "spawn",
    "spawn_anywhere",
]

_T = TypeVar("_T")
_Function = TypeVar("_Function", bound=Callable[..., Any])

# A signal that arrives just before the main thread blocks on a lock does not wake it: its handler runs
# when the wait returns. Waking now and then bounds that delay; other threads get no signals.
_MAIN_THREAD_SLICE = 1.0

# How long an interrupted call of a signal_safe function waits for the function to end, in seconds.
_INTERRUPTED_WAIT = 1.0

# How long the end of the interpreter waits for the threads that are about to begin, in seconds.
_LAST_WAIT = 5.0

# The main thread; in a forked child that is the thread that forked.
_main_ident = threading.main_thread().ident

# The latches of the threads that have been started and have not begun, by weak references: a start that an
# interrupt prevents leaves none behind.
_beginning: set[weakref.ref[Latch]] = set()

# Set when the interpreter ends: no thread is started from then on.
_ending = False


def _after_fork_in_child() -> None:
    global _main_ident
    _main_ident = threading.main_thread().ident
    _beginning.clear()  # these threads are the parent's


in_child(_after_fork_in_child)


def on_main_thread() -> bool:
    """Whether this is the thread that signal handlers interrupt."""
    return _thread.get_ident() == _main_ident


class Latch:
    """A one-way flag that threads can wait for: ``threading.Event`` without ``clear()`` or a held lock.

    All methods may be called from any thread, any number of times; all but ``set()`` also where a signal
    may interrupt them.
    """

    __slots__ = ("__weakref__", "_is_set", "_waiters")

    def __init__(self) -> None:
        self._is_set = False
        self._waiters: set[weakref.ref[Any]] = set()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        """Set the flag and wake all threads that wait for it. Never blocks.

        Not for code that a signal may interrupt: a waiter might not be woken.
        """
        self._is_set = True
        while self._waiters:
            try:
                waiter = self._waiters.pop()()
            except KeyError:  # another thread sets it, too, or the last one that waited is gone
                return
            if waiter is not None:
                waiter.release()

    def wait(self, deadline: Deadline | None = None) -> bool:
        """Block until the flag is set (True) or the deadline has passed (False)."""
        if self._is_set:
            return True
        waiter = _thread.allocate_lock()
        waiter.acquire()
        # Attach, then look: set() either sees this waiter or has set the flag already. It is attached by a
        # weak reference, which goes with it however this call ends: no clean-up that could be interrupted.
        self._waiters.add(weakref.ref(waiter, self._waiters.discard))
        longest = _MAIN_THREAD_SLICE if on_main_thread() else threading.TIMEOUT_MAX
        while not self.is_set():
            remaining = None if deadline is None else deadline.remaining()
            if remaining == 0.0:
                return self.is_set()
            waiter.acquire(timeout=longest if remaining is None else min(remaining, longest))
        return True


def spawn(name: str, target: Callable[..., object], *args: object) -> Latch:
    """Run ``target(*args)`` on a new daemon thread called ``name``; returns at once.

    The one way in which nri_sync starts a thread. Daemon, so that a process that forgets to stop its stub still
    exits. The latch that is returned is set when the target has returned or raised. From the main thread the start
    is one C call: the thread is started by a helper thread, since ``Thread.start()`` itself waits on locks that an
    interrupt would leave held.

    Raises:
        NoThread: the system has no more threads, or the interpreter is shutting down. The target has not run.
    """
    reset_if_forked()
    ended = Latch()
    try:
        _expect(ended)
        if on_main_thread():
            _thread.start_new_thread(_start_or_run, (name, target, args, ended))
        else:
            _start(name, target, args, ended)
    except (RuntimeError, MemoryError) as error:
        raise NoThread(f"no thread for {name}: {str(error) or 'out of memory'}") from error
    return ended


def spawn_anywhere(name: str, target: Callable[..., object], *args: object) -> None:
    """Like :func:`spawn`, for code that may run in the middle of any other: a finalizer, or a signal handler.

    Takes no lock. Without a thread to be had, as while the interpreter shuts down, the target does not run.
    """
    ended = Latch()
    with contextlib.suppress(RuntimeError, MemoryError):
        _expect(ended)
        _thread.start_new_thread(_start_or_run, (name, target, args, ended))


def _expect(ended: Latch) -> None:
    """Note that a thread is about to begin.

    An interpreter that ends frees the states of all threads. A thread that begins after that uses its freed state,
    and the process crashes. This function notes the thread, then reads the flag; the end of the interpreter sets
    the flag, then reads the notes. So either this call raises, or the interpreter waits for the thread.

    The interpreter stops each daemon thread as it ends. The thread that calls this function rests until then. An
    error would only be logged, and its cause is the end of the process.
    """
    note = weakref.ref(ended, _beginning.discard)
    _beginning.add(note)
    if _ending:
        _beginning.discard(note)
        if not on_main_thread():
            time.sleep(_LAST_WAIT)  # bounded: an exit handler may wait for this thread
        raise RuntimeError("can't start new thread at interpreter shutdown")


def _at_exit() -> None:
    global _ending
    _ending = True
    end = time.monotonic() + _LAST_WAIT
    while _beginning and time.monotonic() < end:
        time.sleep(0.001)


atexit.register(_at_exit)


def _start_or_run(
    name: str, target: Callable[..., object], args: tuple[object, ...], ended: Latch
) -> None:
    """The helper thread's work. If it was the last that there was, it stands in, under no name."""
    try:
        _start(name, target, args, ended)
        return
    except (RuntimeError, MemoryError):
        pass  # spawn() has returned, and can raise no more
    _run(target, args, ended)


def _start(
    name: str, target: Callable[..., object], args: tuple[object, ...], ended: Latch
) -> None:
    thread = threading.Thread(target=_run, name=name, args=(target, args, ended), daemon=True)
    # start() waits for this event. Where threading has no such attribute any more, start() waits as ever.
    thread._started = _NotAwaited()  # type: ignore[attr-defined]
    thread.start()


class _NotAwaited(threading.Event):
    """Set by a thread that has begun; in ``Thread.start()``, its starter goes on at once.

    The wait costs two changes of threads, and on a busy machine more: the new thread has to be given a processor,
    and then the GIL, before the one that has started it gets both back.
    """

    def wait(self, timeout: float | None = None) -> bool:
        return True


def _run(target: Callable[..., object], args: tuple[object, ...], ended: Latch) -> None:
    _beginning.discard(weakref.ref(ended))
    try:
        target(*args)
    finally:
        ended.set()


def off_main(name: str, target: Callable[[], object]) -> None:
    """Run ``target()`` here; or, called on the main thread, on a thread of its own without waiting.

    Without a thread to be had, it runs here after all: an interrupt might do harm, but not to run it will.
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
    """The result of ``function()``, called here; or, on the main thread, by a thread that this one waits for.

    For functions that take locks. When the wait is interrupted, the function goes on to its end; then, or
    earlier, ``undo()`` is called, once or twice, on threads that no signal interrupts. Without a thread to
    be had, the function runs here after all.
    """
    # A thread that is started while the interpreter ends never runs.
    if not on_main_thread() or _ending or sys.is_finalizing():
        return function()
    results: list[_T] = []
    # The traceback of an error leads to the frames of this call: a frame that kept the error would make a cycle.
    # An interrupt that strikes as the main thread collects such a cycle gets lost, so this list is emptied.
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
        # The other thread marks the call as unwanted, then undoes it; this thread makes it, then looks.
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
    """Decorator for a function that takes locks: called on the main thread, another thread runs it.

    The caller waits for the result. Hence the main thread holds none of the function's locks: a signal handler
    may call the function, or another one that takes the same locks, at any moment. When the wait is interrupted
    (KeyboardInterrupt), the call is withdrawn if it has not begun; otherwise the function runs to its end, and
    the caller waits for that for up to a second before it raises. So a call is made as a whole or not at all,
    and before the calls that follow it.

    On other threads this costs one comparison. The function must not wait for the caller's thread, log, or call
    code of the application that does: the main thread may hold their locks. To wait, use a Latch outside of it.
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
        # dict.pop() is atomic: either this thread makes the call, or the other one withdraws it.
        claimed = unclaimed.pop(None, None)
        try:
            return claimed and claimed()
        finally:
            ended.set()

    try:
        return cast(_T, call_off_main("nri-call", run))
    except BaseException:
        if unclaimed.pop(None, None) is None:
            ended.wait(Deadline(_INTERRUPTED_WAIT))
        raise
