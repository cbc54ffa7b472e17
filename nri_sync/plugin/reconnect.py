"""The loop that keeps a plugin connected, for applications that want one. Written on the public API alone."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import Callable

from nri_sync.errors import ConnectionLost, ConnectionSpent, NRIError, StartError, StubStopped
from nri_sync.logger import get_logger
from nri_sync.plugin.stub import Stub
from nri_sync.threads import on_main_thread

__all__ = ["Backoff", "run_forever"]

logger = get_logger("nri_sync.reconnect")

# How often a running loop looks at its stop event, and a main thread that waits for the next attempt.
_SLICE = 1.0
_NAP = 0.1


@dataclass(frozen=True)
class Backoff:
    """How long to wait before the next attempt: ``first`` seconds, then ``factor`` times as long, up to ``most``.

    Each wait is shortened at random by up to the share ``jitter``, so that the plugins of a node, or the nodes
    of a cluster, do not all come back at once. A session that lasted ``stable`` seconds starts it anew.
    """

    first: float = 0.2
    factor: float = 2.0
    most: float = 30.0
    jitter: float = 0.5
    stable: float = 60.0

    def __post_init__(self) -> None:
        if not (self.first > 0 and self.factor >= 1 and self.most >= self.first):
            raise ValueError(
                f"{self} does not make sense: 0 < first <= most and factor >= 1 are needed"
            )
        if not 0 <= self.jitter <= 1 or self.stable < 0:
            raise ValueError(
                f"{self} does not make sense: 0 <= jitter <= 1 and stable >= 0 are needed"
            )

    def delay(self, attempt: int) -> float:
        """Seconds to wait before attempt number ``attempt``, from 1."""
        try:
            longest = min(self.most, self.first * self.factor ** (attempt - 1))
        except OverflowError:
            longest = self.most
        return longest * (1 - self.jitter * random.random())


def run_forever(
    stub: Stub,
    *,
    backoff: Backoff | None = None,
    stop_event: threading.Event | None = None,
    fail_fast: bool = False,
    is_safe: Callable[[Stub], bool] | None = None,
    on_connected: Callable[[Stub], object] | None = None,
    on_disconnected: Callable[[Stub, NRIError], object] | None = None,
) -> None:
    """Run ``stub``, and start it again whenever its session is lost or a start fails.

    Blocks until the stub is stopped: by ``stop()`` while it runs, or by setting ``stop_event``, which also ends
    a wait between two attempts (stop the stub as well to end a running session at once: the event is looked
    at once a second). There is never more than one attempt at a time. All callbacks run on the calling thread.

    Args:
        backoff: how long to wait between attempts; default ``Backoff()``.
        stop_event: set it to end the loop.
        fail_fast: raise when the very first start fails, as programs that are misconfigured should.
        is_safe: asked before each further attempt; while it returns False, waits as after a failure.
        on_connected: called after each successful start.
        on_disconnected: called with the reason, a ConnectionLost or a StartError, after each loss and each
            failed start.

    Raises:
        ConnectionSpent: there is nothing to connect to again, as the stub was given, or inherited from the
            runtime that launched it, one connection only.
        StartError: the first start failed, and ``fail_fast`` is set.
        AlreadyStarted: somebody else has started the stub.
    """
    backoff = backoff or Backoff()
    stop_event = stop_event or threading.Event()
    attempt = 0
    first = True
    while not stop_event.is_set():
        if first or is_safe is None or is_safe(stub):
            began = time.monotonic()
            try:
                reason = _run_once(stub, stop_event, on_connected)
            except StubStopped:
                return
            except StartError as error:
                if (first and fail_fast) or isinstance(error, ConnectionSpent):
                    raise
                reason = error
            if reason is None:
                return
            if isinstance(reason, ConnectionLost) and time.monotonic() - began >= backoff.stable:
                attempt = 0
            first = False
            if on_disconnected is not None:
                on_disconnected(stub, reason)
        attempt += 1
        delay = backoff.delay(attempt)
        logger.info("%s: next attempt in %.1f s", stub.name, delay)
        _pause(stop_event, delay)


def _run_once(
    stub: Stub, stop_event: threading.Event, on_connected: Callable[[Stub], object] | None
) -> NRIError | None:
    """One session; returns why it was lost, or ``None`` after a stop."""
    stub.start()
    try:
        if on_connected is not None:
            on_connected(stub)
        while not stub.wait(_SLICE):
            if stop_event.is_set():
                stub.stop()
                return None
    except BaseException:
        stub.stop()
        raise
    return stub.close_reason


def _pause(stop_event: threading.Event, delay: float) -> None:
    until = time.monotonic() + delay
    while not stop_event.is_set():
        remaining = until - time.monotonic()
        if remaining <= 0:
            return
        if on_main_thread():
            # An interrupt inside Event.wait() could leave the event's lock held.
            time.sleep(min(remaining, _NAP))
        else:
            stop_event.wait(remaining)
