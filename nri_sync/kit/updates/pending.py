"""The outcome of an update that was put into a queue: :class:`PendingUpdate`."""

from __future__ import annotations

from typing import Callable

from nri_sync.errors import WouldDeadlock
from nri_sync.kit.futures import SafeFuture

__all__ = ["PendingUpdate"]


class PendingUpdate(SafeFuture[None]):
    """What :meth:`UpdateQueue.put` returns: a ``concurrent.futures.Future`` without a result.

    ``result()`` returns None when the runtime has applied the update, and raises UpdateFailed when it has not.
    All that is merged into one update shares its future, hence it cannot be cancelled.
    """

    def __init__(self, holds_up: Callable[[], bool]) -> None:
        """``holds_up()`` tells whether the update waits for the thread that calls."""
        super().__init__()
        self._holds_up = holds_up
        self.set_running_or_notify_cancel()

    def result(self, timeout: float | None = None) -> None:
        """Block until it is decided.

        Raises:
            UpdateFailed: it was not applied.
            TimeoutError: ``timeout`` (in seconds) passed; ``concurrent.futures.TimeoutError`` before Python 3.11.
            WouldDeadlock: called in a handler that the runtime waits for. The update waits for it, too.
        """
        self._check()
        super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Like :meth:`result`, but returns the failure; None if it was applied."""
        self._check()
        return super().exception(timeout)

    def _check(self) -> None:
        if not self.done() and self._holds_up():
            raise WouldDeadlock(
                "waiting for an update in a handler, or in a callback of the queue, which the update waits for; "
                "wait on another thread, or use add_done_callback()"
            )
