"""The outcome of an update that was put into a queue: :class:`PendingUpdate`."""

from __future__ import annotations

from typing import Callable

from nri_sync.errors import WouldDeadlock
from nri_sync.kit.futures import SafeFuture

__all__ = ["PendingUpdate"]


class PendingUpdate(SafeFuture[None]):
    """The result of :meth:`UpdateQueue.put`: a ``concurrent.futures.Future`` whose result is None.

    ``result()`` returns when the runtime has applied the update, and raises UpdateFailed if it has not. All
    updates that the queue has merged into one share its future, so it cannot be cancelled.
    """

    def __init__(self, holds_up: Callable[[], bool]) -> None:
        """``holds_up()`` returns whether the update waits for the calling thread."""
        super().__init__()
        self._holds_up = holds_up
        self.set_running_or_notify_cancel()

    def result(self, timeout: float | None = None) -> None:
        """Block until the outcome is known.

        Raises:
            UpdateFailed: the runtime has not applied the update.
            TimeoutError: ``timeout`` (in seconds) passed; ``concurrent.futures.TimeoutError`` before Python 3.11.
            WouldDeadlock: the caller is in a handler. The runtime waits for the handler, and so does the update.
        """
        self._check()
        super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Like :meth:`result`, but return the failure; None if the runtime has applied the update."""
        self._check()
        return super().exception(timeout)

    def _check(self) -> None:
        if not self.done() and self._holds_up():
            raise WouldDeadlock(
                "the update waits for this handler, or this callback of the queue, to return; "
                "wait for it on another thread, or use add_done_callback()"
            )
