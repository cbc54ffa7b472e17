"""Bounds on lines of the log that others can cause: a peer, an author of pods, or the output of a program.

An :class:`Allowance` allows many lines at once and few over time. The loggers of nri_sync share :data:`records`,
with an allowance for each kind of record. A record that is left out is counted, and the number is logged.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
import time
from collections.abc import Iterator

__all__ = ["AT_ONCE", "A_SECOND", "KINDS_MAX", "PATIENCE", "Allowance", "Records", "records"]

#: How many records of one kind are logged at once, and how many a second from then on.
AT_ONCE = 1000
A_SECOND = 1.0

#: How many kinds have separate allowances. All further kinds share one; nri_sync itself has fewer kinds.
KINDS_MAX = 2000
#: How long a record waits for the lock, in seconds. A fork may leave the lock held: then the record is logged
#: without a count.
PATIENCE = 0.5

_BEGUN = "over %d records at once like %r: from now on most of them are left out, and counted"
_LEFT_OUT = "%d more records like %r are left out: more than %g a second"


class Allowance:
    """Allows a number of lines at once, and some a second from then on. Counts the others. Not thread-safe."""

    __slots__ = ("_a_second", "_at_once", "_left", "_since", "left_out")

    def __init__(self, at_once: int, a_second: float) -> None:
        self._at_once = float(at_once)
        self._a_second = a_second
        self._left = self._at_once
        self._since = time.monotonic()
        #: The lines that were not allowed since :meth:`take_left_out`.
        self.left_out = 0

    def take(self) -> bool:
        """Whether a line is allowed. If it is not, it counts as left out."""
        if not self.is_due():
            self.left_out += 1
            return False
        self._left -= 1
        return True

    def is_due(self) -> bool:
        """Whether the next line will be allowed."""
        now = time.monotonic()
        self._left = min(self._at_once, self._left + (now - self._since) * self._a_second)
        self._since = now
        return self._left >= 1

    def is_full(self) -> bool:
        """Whether the whole allowance is there again, after a time with few lines."""
        return self.is_due() and self._left == self._at_once

    def take_left_out(self) -> int:
        """The number of lines left out since the last time."""
        count, self.left_out = self.left_out, 0
        return count


class _Kind(Allowance):
    """The records of one logger with the same text, before its arguments are filled in."""

    __slots__ = ("announced", "logger", "text")

    def __init__(self, logger: logging.Logger, text: str) -> None:
        super().__init__(AT_ONCE, A_SECOND)
        self.logger = logger
        self.text = text
        #: Whether the log says that records are left out.
        self.announced = False

    def log(self, text: str, *values: object) -> None:
        """Log a line about the records, past the allowance."""
        if self.logger.isEnabledFor(logging.WARNING):
            record = self.logger.makeRecord(
                self.logger.name, logging.WARNING, __file__, 0, text, values, None
            )
            # The logger itself may have a method that comes back here.
            type(self.logger).handle(self.logger, record)


class Records:
    """The allowances of all kinds of records. Thread-safe, also in a signal handler and in a forked child."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._unlimited = 0
        self._kinds: dict[tuple[str, str], _Kind] = {}
        # The kinds with records that are left out, and whose number is not logged yet.
        self._flooded: dict[_Kind, None] = {}

    def __len__(self) -> int:
        """The number of kinds."""
        return len(self._kinds)

    def reset(self) -> None:
        """Allow all kinds again, and forget the numbers. A forked child does so: see nri_sync.fork."""
        self._lock = threading.RLock()
        self._kinds = {}
        self._flooded = {}

    @contextlib.contextmanager
    def unlimited(self) -> Iterator[None]:
        """Nothing is left out in the block, on any thread: its records are read by a program."""
        with self._lock:
            self._unlimited += 1
        try:
            yield
        finally:
            with self._lock:
                self._unlimited -= 1

    def admit(self, logger: logging.Logger, text: object) -> bool:
        """Whether to log a record of this logger and text. Logs the numbers that are due before."""
        # Not as a context, because the wait is limited. The helpers below are called with the lock.
        if not self._lock.acquire(timeout=PATIENCE):
            return True
        try:
            if self._unlimited:
                return True
            kind = self._kind_of(logger, str(text))
            if kind.is_full():
                kind.announced = False
            allowed = kind.take()
            begins = not (allowed or kind.announced)
            if not allowed:
                kind.announced = True
                self._flooded[kind] = None
            due = self._due(kind) if allowed and self._flooded else []
        finally:
            self._lock.release()
        if begins:
            kind.log(_BEGUN, AT_ONCE, kind.text)
        for flooded, count in due:
            flooded.log(_LEFT_OUT, count, flooded.text, A_SECOND)
        return allowed

    def log_left_out(self) -> None:
        """Log all numbers that are not logged yet."""
        if not self._lock.acquire(timeout=PATIENCE):
            return
        try:
            due = [(kind, kind.take_left_out()) for kind in self._flooded]
            self._flooded.clear()
        finally:
            self._lock.release()
        for kind, count in due:
            kind.log(_LEFT_OUT, count, kind.text, A_SECOND)

    def _kind_of(self, logger: logging.Logger, text: str) -> _Kind:
        key = logger.name, text
        if key not in self._kinds and len(self._kinds) >= KINDS_MAX:
            key = "", ""
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind(logger, text)
        return kind

    def _due(self, admitted: _Kind) -> list[tuple[_Kind, int]]:
        """The numbers to log with a record: its own kind's, and those of kinds that could log a record, too."""
        due = []
        for kind in list(self._flooded):
            if kind is admitted or kind.is_due():
                count = kind.take_left_out()
                if kind is not admitted:
                    kind.take()
                del self._flooded[kind]
                due.append((kind, count))
        return due


#: The allowances of the loggers of nri_sync.
records = Records()
atexit.register(records.log_left_out)
