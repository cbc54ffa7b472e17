"""Counts and times the requests that a plugin serves.

:mod:`nri_sync.kit.health.prometheus` makes metrics of them.
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

import grpc

from nri_sync import Interceptor, fork
from nri_sync.errors import Reject
from nri_sync.kit.health.answers import Answers, AnswerWindow
from nri_sync.kit.intercept import subject
from nri_sync.plugin.interceptors import Proceed
from nri_sync.threads import signal_safe
from nri_sync.ttrpc import ServicerContext

if TYPE_CHECKING:
    from prometheus_client import Metric

__all__ = ["BUCKETS", "Figures", "RequestMetrics", "Running", "Slow"]

#: Upper bounds of the histogram of durations, in seconds. Runtimes wait for two seconds as a rule.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)

# How far back "recently" reaches, in seconds: between one of these and two.
_WINDOW = 300.0


# They show in the state of the session, and would thin out the answers to events.
_OF_SESSIONS = frozenset({"Configure", "Synchronize", "Shutdown"})


class Figures(NamedTuple):
    """The requests of one method so far."""

    #: How many ended in each way: ``ok``, ``error``, ``rejected``, ``late``.
    outcomes: dict[str, int]
    #: How many took at most this many seconds, by the upper bound of each bucket; the last bound is infinite.
    durations: dict[float, int]
    #: The sum of the durations.
    seconds: float


class Running(NamedTuple):
    """A request whose handler is running, for so many seconds."""

    event: str
    #: ``namespace/pod:container``
    subject: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.event}{' of ' if self.subject else ''}{self.subject}"


class Slow(NamedTuple):
    """A request that took long."""

    event: str
    #: ``namespace/pod:container``
    subject: str
    seconds: float
    #: When the handler returned, in seconds since the epoch.
    at: float


class _Figures:
    def __init__(self, buckets: int) -> None:
        self.outcomes: Counter[str] = Counter()
        # One more than there are bounds, for durations above all of them.
        self.buckets = [0] * (buckets + 1)
        self.seconds = 0.0


class RequestMetrics(Interceptor):
    """An interceptor that counts and times requests, and knows which ones are running.

    To be passed to ``Stub(interceptors=[...])``; one for each stub. All methods may be called from any thread;
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
            window: how far back :meth:`answers` looks, in seconds.
        """
        if list(buckets) != sorted(set(buckets)) or not all(map(math.isfinite, buckets)):
            raise ValueError(f"buckets must be finite and ascending, not {tuple(buckets)!r}")
        self._buckets = tuple(map(float, buckets))
        self._keys = itertools.count()
        # Event, request, and since when.
        self._running: dict[int, tuple[str, Any, float]] = {}
        self._on_done = on_done
        # Guards the fields below.
        self._lock = threading.Lock()
        self._figures: dict[str, _Figures] = {}
        self._answers = AnswerWindow(window)
        # The slowest by event, of this window and the one before it.
        self._slow: dict[str, Slow] = {}
        self._slow_before: dict[str, Slow] = {}
        self._window_began = time.monotonic()
        fork.in_child(self._after_fork_in_child)

    def serve(self, event: str, request: Any, context: ServicerContext, proceed: Proceed) -> Any:
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
            self._running.pop(key, None)
            # Of a context of grpcio's, which knows nothing of it, only exceptions count.
            if getattr(context, "aborted", False):
                outcome = "rejected"
            if not context.is_active():
                outcome = "late"
            now = time.monotonic()
            self._count(event, request, outcome, now - began, now)
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
        """The requests whose handlers are running; the one that has been for the longest time comes first."""
        now = time.monotonic()
        # A copy is made in one step, while handlers come and go.
        return [
            Running(event, subject(request), now - since)
            for event, request, since in self._running.copy().values()
        ]

    def longest(self) -> float:
        """For how many seconds the handler has been running that has been for the longest time; 0 if none is."""
        oldest = min((since for _, _, since in self._running.copy().values()), default=None)
        return 0.0 if oldest is None else time.monotonic() - oldest

    @signal_safe
    def answers(self) -> Answers:
        """The answers to the events of the recent window, and how many of them were late or failed."""
        with self._lock:
            return self._answers.answers(time.monotonic())

    @signal_safe
    def slowest(self) -> list[Slow]:
        """The slowest request of each event in the last five to ten minutes, the slowest first."""
        with self._lock:
            self._forget_locked(time.monotonic())
            found = dict(self._slow_before)
            for event, slow in self._slow.items():
                if event not in found or slow.seconds > found[event].seconds:
                    found[event] = slow
        return sorted(found.values(), key=lambda slow: -slow.seconds)

    @signal_safe
    def figures(self) -> dict[str, Figures]:
        """The counts and durations by method, of all requests that have ended."""
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
        """The metrics, for a registry of ``prometheus_client``: ``registry.register(requests)``.

        Raises ModuleNotFoundError without the extra ``metrics``.
        """
        # Only callers of this method need the package.
        from nri_sync.kit.health import prometheus

        return prometheus.of_requests(self)

    def _after_fork_in_child(self) -> None:
        # The handlers that were running are the parent's, and so is a lock that was held.
        self._running = {}
        self._lock = threading.Lock()


def _outcome(event: str, reply: Any, context: Any) -> str:
    code = context.code()
    if code is not None and code is not grpc.StatusCode.OK:
        return "error"
    if event == "ValidateContainerAdjustment" and reply.reject:
        return "rejected"
    return "ok"
