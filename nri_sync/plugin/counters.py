"""The counters of a stub."""

from __future__ import annotations

import threading
from collections import Counter
from typing import NamedTuple

from nri_sync import fork

__all__ = ["Counters", "Tally"]


class Counters(NamedTuple):
    """A snapshot of a stub's counters; all since the stub was made."""

    #: Sessions that got as far as being configured.
    sessions: int = 0
    #: Starts that failed.
    failed_starts: int = 0
    #: Sessions that ended other than by ``stop()``.
    losses: int = 0
    #: Requests for which a handler was called.
    requests: int = 0
    #: Handlers that raised something else than a refusal.
    errors: int = 0
    #: Requests that a handler has refused, with ``errors.Reject`` or ``abort()``; and container adjustments that
    #: a validator has rejected, by any exception.
    rejections: int = 0
    #: Requests that were answered for, because the handler took too long.
    late_replies: int = 0
    #: Handlers that were done after their request had been answered for; their results were dropped.
    late_results: int = 0
    #: Times that the timer thread, which gives late answers, ran 0.1 s after its time or later.
    timer_delays: int = 0
    #: Calls of ``update_containers``.
    updates: int = 0
    #: Fields of answers and updates that the runtime's NRI release does not know, and ignores.
    ignored_fields: int = 0
    #: Sessions with a runtime that cannot call the plugin's validator.
    unvalidated_sessions: int = 0

    @property
    def restarts(self) -> int:
        """Sessions after the first."""
        return max(0, self.sessions - 1)


class Tally:
    """Counts; safe from any thread that a signal cannot interrupt. A forked child keeps the numbers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values = dict.fromkeys(Counters._fields, 0)
        self._late: Counter[str] = Counter()
        #: Seconds by which the timer thread ran late of late. Replaced as a whole, by one thread at a time.
        self.timer_delay = 0.0
        fork.in_child(self._after_fork_in_child)

    def add(self, name: str) -> None:
        with self._lock:
            self._values[name] += 1

    def add_late(self, event: str) -> None:
        with self._lock:
            self._values["late_replies"] += 1
            self._late[event] += 1

    def snapshot(self) -> Counters:
        """The counters now; takes no lock, so it may be called from anywhere."""
        return Counters(**self._values)

    def late_by_event(self) -> dict[str, int]:
        """``late_replies`` by event; takes no lock, so it may be called from anywhere."""
        return dict(self._late)

    def _after_fork_in_child(self) -> None:
        # A thread of the parent may have held it.
        self._lock = threading.Lock()
