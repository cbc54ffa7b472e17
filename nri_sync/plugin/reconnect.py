"""The loop that keeps a plugin connected, for applications that want one."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import Callable

from nri_sync.deadline import Deadline
from nri_sync.errors import (
    ConnectionLost,
    ConnectionSpent,
    NRIError,
    StartError,
    StubClosed,
    StubStopped,
)
from nri_sync.logger import get_logger
from nri_sync.plugin.stub import Stub
from nri_sync.threads import Latch

__all__ = ["Backoff", "keep_connected", "run_forever"]

logger = get_logger("nri_sync.reconnect")

# How often the loop looks at its stop event, in seconds: in a session, and between two attempts.
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

    Blocks until ``stub.stop()`` or ``stub.close()``, which may be called at any time: in a session, during a
    start, and while the loop waits for its next attempt. There is never more than one attempt at a time. All
    callbacks run on the calling thread.

    Args:
        backoff: how long to wait between attempts; default ``Backoff()``.
        stop_event: ends the loop as well, when it is set; at once if that was before the call. The loop looks at
            it ten times a second between two attempts, and once a second in a session.
        fail_fast: raise when the very first start fails, as programs that are misconfigured should.
        is_safe: asked before each further attempt; while it returns False, waits as after a failure.
        on_connected: called after each successful start.
        on_disconnected: called with the reason, a ConnectionLost or a StartError, after each loss and each
            failed start.

    Raises:
        ConnectionSpent: there is nothing to connect to again, as the stub was given, or inherited from the
            runtime that launched it, one connection only.
        StartError: the first start failed, and ``fail_fast`` is set.
        AlreadyStarted: another thread has started the stub.
        StubClosed: ``stub.close()`` was called before.
    """
    if stub.is_closed:
        raise StubClosed(f"plugin {stub.name} is closed; make a new stub to start again")
    keep_connected(
        stub,
        stub.until_stopped(),
        backoff=backoff,
        stop_event=stop_event,
        fail_fast=fail_fast,
        is_safe=is_safe,
        on_connected=on_connected,
        on_disconnected=on_disconnected,
    )


def keep_connected(
    stub: Stub,
    stopped: Latch,
    *,
    backoff: Backoff | None = None,
    stop_event: threading.Event | None = None,
    fail_fast: bool = False,
    is_safe: Callable[[Stub], bool] | None = None,
    on_connected: Callable[[Stub], object] | None = None,
    on_disconnected: Callable[[Stub, NRIError], object] | None = None,
) -> None:
    """:func:`run_forever` until ``stopped`` is set, a latch of :meth:`Stub.until_stopped`."""
    backoff = backoff or Backoff()
    attempt = 0
    first = True

    def is_over() -> bool:
        return stopped.is_set() or (stop_event is not None and stop_event.is_set())

    while not is_over():
        if first or is_safe is None or is_safe(stub):
            began = time.monotonic()
            try:
                reason = _run_once(stub, stopped, stop_event, on_connected)
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
        if not is_over():
            logger.info("%s: next attempt in %.1f s", stub.name, delay)
        _pause(stopped, stop_event, delay)


def _run_once(
    stub: Stub,
    stopped: Latch,
    stop_event: threading.Event | None,
    on_connected: Callable[[Stub], object] | None,
) -> NRIError | None:
    """One session; returns why it was lost, or ``None`` after a stop."""
    is_up = False
    try:
        stub.start_unless(stopped)
        is_up = True
        if on_connected is not None:
            on_connected(stub)
        while not stub.wait(None if stop_event is None else _SLICE):
            if stop_event is not None and stop_event.is_set():
                stub.stop()
                return None
    except BaseException as error:
        # An interrupt may strike between the end of the start and the next line.
        if is_up or not isinstance(error, Exception):
            stub.stop()
        raise
    return stub.close_reason


def _pause(stopped: Latch, stop_event: threading.Event | None, delay: float) -> None:
    until = Deadline(delay)
    while not until.expired:
        nap = until if stop_event is None else Deadline(min(_NAP, until.remaining() or 0.0))
        if stopped.wait(nap) or (stop_event is not None and stop_event.is_set()):
            return
