"""One time budget for all steps of a blocking call."""

from __future__ import annotations

import threading
import time

__all__ = ["Deadline"]


class Deadline:
    """The time at which a call gives up, or no limit.

    Public functions make it once, from the caller's ``timeout``, and pass it down, so that the steps of a call
    share one budget. Immutable, and so usable from any thread.
    """

    __slots__ = ("at",)

    def __init__(self, timeout: float | None) -> None:
        """``timeout`` is in seconds from now; ``None`` is no limit, and zero or less has passed already.

        A timeout beyond the maximum of a lock (about 292 years) is no limit either.
        """
        if timeout is not None and timeout > threading.TIMEOUT_MAX:
            timeout = None
        self.at: float | None = None if timeout is None else time.monotonic() + timeout

    @classmethod
    def until(cls, at: float | None) -> Deadline:
        """The deadline at a time of the monotonic clock; ``None`` is no limit."""
        return cls(None if at is None else at - time.monotonic())

    def remaining(self) -> float | None:
        """The remaining seconds, at least 0.0; ``None`` without a limit."""
        if self.at is None:
            return None
        return max(0.0, self.at - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self.at is not None and time.monotonic() >= self.at
