"""Futures that stay intact when a signal interrupts the main thread."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TypeVar

from nri_sync.deadline import Deadline
from nri_sync.threads import Latch, on_main_thread, signal_safe

__all__ = ["SafeFuture"]

_T = TypeVar("_T")


class SafeFuture(Future[_T]):
    """A ``concurrent.futures.Future`` whose methods may be called in a signal handler, and be interrupted.

    Each future has a lock. An interrupt in a method of the base class can leave that lock held. The thread that
    sets the result would then block forever. So the main thread waits on a Latch, and another thread makes all
    other calls for it. That thread also runs the callbacks that are due at once.

    ``concurrent.futures.wait()`` and ``as_completed()`` take the locks of the futures themselves: interrupting
    those functions is not safe.
    """

    def __init__(self) -> None:
        super().__init__()
        settled = self._settled = Latch()
        # The callback holds no reference to the future, which would be a cycle.
        super().add_done_callback(lambda _: settled.set())

    def result(self, timeout: float | None = None) -> _T:
        """Block until the future is done. Returns the result, or raises the function's exception.

        Raises:
            TimeoutError: ``timeout`` (in seconds) passed; ``concurrent.futures.TimeoutError`` before Python 3.11.
            CancelledError: the future was cancelled.
        """
        if not on_main_thread():
            return super().result(timeout)
        self._settled.wait(Deadline(timeout))
        return _result(self, 0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Like :meth:`result`, but return the exception; None if there was none."""
        if not on_main_thread():
            return super().exception(timeout)
        self._settled.wait(Deadline(timeout))
        return _exception(self, 0)

    add_done_callback = signal_safe(Future.add_done_callback)
    cancel = signal_safe(Future.cancel)
    cancelled = signal_safe(Future.cancelled)
    done = signal_safe(Future.done)
    running = signal_safe(Future.running)
    set_exception = signal_safe(Future.set_exception)
    set_result = signal_safe(Future.set_result)
    set_running_or_notify_cancel = signal_safe(Future.set_running_or_notify_cancel)
    __repr__ = signal_safe(Future.__repr__)


_result = signal_safe(Future.result)
_exception = signal_safe(Future.exception)
