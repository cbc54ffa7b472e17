"""Counts and times the requests that a plugin serves.

:mod:`nri_sync.kit.health.prometheus` turns the numbers into metrics.
"""

from __future__ import annotations

import bisect
import itertools
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from nri_sync import Interceptor, RequestContext, fork
from nri_sync.errors import Reject
from nri_sync.kit.health.answers import Answers, AnswerWindow
from nri_sync.kit.intercept import subject
from nri_sync.plugin.interceptors import Proceed
from nri_sync.threads import signal_safe

if TYPE_CHECKING:
    from prometheus_client import Metric

__all__ = ["BUCKETS", "Figures", "RequestMetrics", "Running", "Slow"]

#: Upper bounds of the histogram of durations, in seconds. Runtimes usually wait for two seconds.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)

# slowest() covers at least this number of seconds, and at most twice as many.
_WINDOW = 300.0


# Not counted as answers: the state of the session shows them, and they would dilute the answers to events.
_OF_SESSIONS = frozenset({"Configure", "Synchronize", "Shutdown"})


class Figures(NamedTuple):
    """The numbers of one method's requests so far."""

    #: The number of requests by outcome: ``ok``, ``error``, ``rejected``, ``late``.
    outcomes: dict[str, int]
    #: The number of requests up to each bucket's upper bound, in seconds; the last bound is infinite.
    durations: dict[float, int]
    #: The sum of the durations.
    seconds: float


class Running(NamedTuple):
    """A request whose handler is running, and its age in seconds."""

    event: str
    #: ``namespace/pod:container``
    subject: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.event}{' of ' if self.subject else ''}{self.subject}"


class Slow(NamedTuple):
    """One of the slowest requests."""

    event: str
    #: ``namespace/pod:container``
    subject: str
    seconds: float
    #: The time at which the handler returned, in seconds since the epoch.
    at: float


class _Figures:
    def __init__(self, buckets: int) -> None:
        self.outcomes: Counter[str] = Counter()
        # One more than there are bounds, for durations above all bounds.
        self.buckets = [0] * (buckets + 1)
        self.seconds = 0.0


class RequestMetrics(Interceptor):
    """An interceptor that counts and times requests, and lists the running ones.

    Pass it to ``Stub(interceptors=[...])``; each stub needs its own. All methods may be called from any thread;
    :meth:`running` takes no lock.
    """

    def __init__(
        self,
        *,
        buckets: Sequence[float] = BUCKETS,
        on_done: Callable[[str, float], object] | None = None,
        window: float = 300.0,
    ) -> None:
        """
        Args:
            buckets: the upper bounds of the histogram of durations, in seconds, in ascending order.
            on_done: called with event and seconds after each request, on its thread. It must not block or raise.
            window: the seconds that :meth:`answers` covers.
        """
        if list(buckets) != sorted(set(buckets)) or not all(map(math.isfinite, buckets)):
            raise ValueError(f"buckets must be finite and ascending, not {tuple(buckets)!r}")
        self._buckets = tuple(map(float, buckets))
        self._keys = itertools.count()
        # The running requests: event, request, and start time.
        self._running: dict[int, tuple[str, Any, float]] = {}
        self._on_done = on_done
        # Guards the attributes below.
        self._lock = threading.Lock()
        self._figures: dict[str, _Figures] = {}
        self._answers = AnswerWindow(window)
        # The slowest requests by event, of this window and the one before it.
        self._slow: dict[str, Slow] = {}
        self._slow_before: dict[str, Slow] = {}
        self._window_began = time.monotonic()
        fork.in_child(self._after_fork_in_child)

    def serve(self, event: str, request: Any, context: RequestContext, proceed: Proceed) -> Any:
        key = next(self._keys)
        began = time.monotonic()
        self._running[key] = (event, request, began)
        outcome = "error"
        try:
            reply = proceed(request, context)
            outcome = _outcome(event, reply, context)
            return reply
        except Reject:
            outcome = "rejected"
            raise
        finally:
            # A context of grpcio has no ``aborted``; then only exceptions count.
            if getattr(context, "aborted", False):
                outcome = "rejected"
            if not context.is_active():
                outcome = "late"
            now = time.monotonic()
            try:
                self._count(event, request, outcome, now - began, now)
            finally:
                # After the count: each request either runs, or is in the figures.
                self._running.pop(key, None)
            if self._on_done is not None:
                self._on_done(event, now - began)

    def _count(self, event: str, request: Any, outcome: str, seconds: float, now: float) -> None:
        with self._lock:
            figures = self._figures.get(event)
            if figures is None:
                figures = self._figures[event] = _Figures(len(self._buckets))
            figures.outcomes[outcome] += 1
            if event not in _OF_SESSIONS:
                self._answers.add(outcome, now)
            figures.buckets[bisect.bisect_left(self._buckets, seconds)] += 1
            figures.seconds += seconds
            if now - self._window_began >= _WINDOW:
                self._forget_locked(now)
            slowest = self._slow.get(event)
            if slowest is None or seconds > slowest.seconds:
                self._slow[event] = Slow(event, subject(request), seconds, time.time())

    def _forget_locked(self, now: float) -> None:
        assert self._lock.locked()
        age = now - self._window_began
        if age >= _WINDOW:
            self._slow_before = self._slow if age < 2 * _WINDOW else {}
            self._slow = {}
            self._window_began = now

    def running(self) -> list[Running]:
        """Return the requests whose handlers are running, the oldest first."""
        now = time.monotonic()
        # copy() is atomic, while handlers come and go.
        return [
            Running(event, subject(request), now - since)
            for event, request, since in self._running.copy().values()
        ]

    def longest(self) -> float:
        """Return the age in seconds of the longest-running handler, or 0."""
        oldest = min((since for _, _, since in self._running.copy().values()), default=None)
        return 0.0 if oldest is None else time.monotonic() - oldest

    @signal_safe
    def answers(self) -> Answers:
        """Return the numbers of all, late and failed answers to events in the recent window."""
        with self._lock:
            return self._answers.answers(time.monotonic())

    @signal_safe
    def slowest(self) -> list[Slow]:
        """Return the slowest request of each event in the last five to ten minutes, the slowest first."""
        with self._lock:
            self._forget_locked(time.monotonic())
            found = dict(self._slow_before)
            for event, slow in self._slow.items():
                if event not in found or slow.seconds > found[event].seconds:
                    found[event] = slow
        return sorted(found.values(), key=lambda slow: -slow.seconds)

    @signal_safe
    def figures(self) -> dict[str, Figures]:
        """Return the counts and durations of all ended requests by method."""
        bounds = (*self._buckets, math.inf)
        with self._lock:
            return {
                event: Figures(
                    dict(figures.outcomes),
                    dict(zip(bounds, itertools.accumulate(figures.buckets))),
                    figures.seconds,
                )
                for event, figures in sorted(self._figures.items())
            }

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, for a registry of ``prometheus_client``: ``registry.register(requests)``.

        Raises ModuleNotFoundError without the extra ``metrics``.
        """
        # Imported here, because only callers of this method need the package.
        from nri_sync.kit.health import prometheus

        return prometheus.of_requests(self)

    def _after_fork_in_child(self) -> None:
        # The running handlers, and perhaps a held lock, belong to the parent.
        self._running = {}
        self._lock = threading.Lock()


def _outcome(event: str, reply: Any, context: Any) -> str:
    code = context.code()
    if code is not None and code.name != "OK":
        return "error"
    if event == "ValidateContainerAdjustment" and reply.reject:
        return "rejected"
    return "ok"
