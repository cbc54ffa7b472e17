"""One time budget, carried through the several steps of a blocking call."""

from __future__ import annotations

import threading
import time

__all__ = ["Deadline"]


class Deadline:
    """A point in time at which a call gives up, or never.

    Made once, where the caller's ``timeout`` comes in, and handed down instead of it, so that the steps
    of a call share one budget. Immutable, hence usable from any thread.
    """

    __slots__ = ("at",)

    def __init__(self, timeout: float | None) -> None:
        """``timeout`` is in seconds from now; ``None`` is no limit, zero or less is already over.

        More than a lock can wait for (some 292 years) is no limit either.
        """
        if timeout is not None and timeout > threading.TIMEOUT_MAX:
            timeout = None
        self.at: float | None = None if timeout is None else time.monotonic() + timeout

    @classmethod
    def until(cls, at: float | None) -> Deadline:
        """The deadline at a time of the monotonic clock; ``None`` is no limit."""
        return cls(None if at is None else at - time.monotonic())

    def remaining(self) -> float | None:
        """Seconds left, at least 0.0; ``None`` when there is no limit."""
        if self.at is None:
            return None
        return max(0.0, self.at - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether no time is left."""
        return self.at is not None and time.monotonic() >= self.at
