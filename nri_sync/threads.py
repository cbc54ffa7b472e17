"""Waiting and starting threads in ways that a signal cannot break.

Python runs signal handlers, and raises KeyboardInterrupt, in the main thread only, between any two
bytecodes. An interrupt inside ``with condition:`` or ``Event.wait()`` can leave a lock held for good, and
one inside ``Thread.start()`` a thread that never runs. Code that the main thread may be in therefore uses
the pieces below, in which every step that matters is a single C call; all else runs on other threads.
"""

from __future__ import annotations

import _thread
import contextvars
import threading
import weakref
from typing import Any, Callable, TypeVar

from nri_sync.deadline import Deadline

__all__ = ["Latch", "call_off_main", "off_main", "on_main_thread", "spawn"]

_T = TypeVar("_T")

# A signal that arrives just before the main thread blocks on a lock does not wake it: its handler runs
# when the wait returns. Waking now and then bounds that delay; other threads get no signals.
_MAIN_THREAD_SLICE = 1.0


def on_main_thread() -> bool:
    """Whether this is the thread that signal handlers interrupt."""
    return threading.main_thread().ident == _thread.get_ident()


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
        """Set the flag and wake all who wait for it. Never blocks.

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


def spawn(name: str, target: Callable[..., object], *args: object) -> None:
    """Run ``target(*args)`` on a new daemon thread called ``name``; returns at once.

    Daemon, so that a process that forgets to stop its stub still exits. From the main thread the start
    is one C call: the thread is started by a helper thread, since ``Thread.start()`` itself waits on
    locks that an interrupt would leave held.

    Raises:
        RuntimeError, MemoryError: the system has no more threads, or the interpreter is shutting down.
    """
    if on_main_thread():
        _thread.start_new_thread(_start_or_run, (name, target, args))
    else:
        _start(name, target, args)


def _start_or_run(name: str, target: Callable[..., object], args: Any) -> None:
    """The helper thread's work. If it was the last that there was, it stands in, under no name."""
    try:
        _start(name, target, args)
        return
    except (RuntimeError, MemoryError):
        pass  # nobody could be told any more
    target(*args)


def _start(name: str, target: Callable[..., object], args: Any) -> None:
    threading.Thread(target=target, name=name, args=args, daemon=True).start()


def off_main(name: str, target: Callable[[], object]) -> None:
    """Run ``target()`` here; or, called on the main thread, on a thread of its own without waiting.

    Without a thread to be had, it runs here after all: an interrupt might do harm, but not to run it will.
    """
    if on_main_thread():
        try:
            spawn(name, target)
            return
        except (RuntimeError, MemoryError):
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
    if not on_main_thread():
        return function()
    outcome: list[tuple[_T | None, BaseException | None]] = []
    unwanted: list[None] = []
    done = Latch()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            outcome.append((context.run(function), None))
        except BaseException as error:
            outcome.append((None, error))
        finally:
            done.set()
        # Whoever does not want it marks, then undoes what there is; this thread makes it, then looks.
        if unwanted and undo is not None:
            undo()

    try:
        try:
            spawn(name, run)
        except (RuntimeError, MemoryError):
            run()
        done.wait()
        result, error = outcome[0]
        if error is None:
            return result  # type: ignore[return-value]
    except BaseException:
        unwanted.append(None)
        if undo is not None:
            off_main(name, undo)
        raise
    try:
        raise error
    finally:
        # Its traceback leads back to here.
        outcome.clear()
        del error
