"""The loop that keeps a plugin connected: :func:`run_forever`.

While no process listens at the socket, the loop watches the socket, which costs neither side anything. Growing
pauses are for a present runtime that refuses the plugin or ends sessions. A pause ends early when the runtime
makes a new socket, as a runtime does when it starts.
"""

from __future__ import annotations

import functools
import threading
import time
from typing import Callable, NamedTuple

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
from nri_sync.plugin.handover import Handover
from nri_sync.plugin.source import REFUSED, Source
from nri_sync.plugin.stub import Stub
from nri_sync.threads import Latch

__all__ = ["SLICE", "Backoff", "keep_connected", "run_forever", "until_stopped"]

logger = get_logger("nri_sync.reconnect")

# The intervals at which the loop checks its stop event, in seconds: in a session, and between two attempts.
SLICE = 1.0
_NAP = 0.1
# The interval at which the loop looks for a started runtime, in seconds, between two attempts.
_LOOK = 0.1


class _Backoff(NamedTuple):
    first: float
    factor: float
    most: float
    jitter: float
    stable: float


class Backoff(_Backoff):
    """The pauses between attempts: ``first`` seconds, then ``factor`` times as long, up to ``most``. Immutable.

    Each pause is shortened at random by up to the share ``jitter``, so that the plugins of a node, or the nodes
    of a cluster, do not all reconnect at once. The pauses begin again with ``first`` after a restart of the
    runtime, and after a session that was synchronized and lasted ``stable`` seconds.
    """

    __slots__ = ()

    def __new__(
        cls,
        first: float = 0.2,
        factor: float = 2.0,
        most: float = 30.0,
        jitter: float = 0.5,
        stable: float = 5.0,
    ) -> Backoff:
        """Raises ValueError for values that contradict each other."""
        self = super().__new__(cls, first, factor, most, jitter, stable)
        self._check()
        return self

    def _check(self) -> None:
        if not (self.first > 0 and self.factor >= 1 and self.most >= self.first):
            raise ValueError(
                f"{self} does not make sense: 0 < first <= most and factor >= 1 are needed"
            )
        if not 0 <= self.jitter <= 1 or self.stable < 0:
            raise ValueError(
                f"{self} does not make sense: 0 <= jitter <= 1 and stable >= 0 are needed"
            )

    def delay(self, attempt: int) -> float:
        """The pause before attempt number ``attempt``, in seconds. Attempts count from 1."""
        try:
            longest = min(self.most, self.first * self.factor ** (attempt - 1))
        except OverflowError:
            longest = self.most
        import random  # only here: a plugin that stays connected does not need it

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
    on_stop: Callable[[Stub], object] | None = None,
) -> None:
    """Start ``stub``, and start it again after each lost session and each failed start.

    Blocks until ``stub.stop()`` or ``stub.close()``. Any thread may call these at any time: in a session, during a
    start, and while the loop waits for its next attempt. The loop makes one attempt at a time, and calls all
    callbacks on the calling thread.

    While no process listens at the socket, the loop checks the socket ten times a second, and counts no further
    failure. After another failure, and after a lost session, the loop makes a pause, which ends early when the
    runtime restarts.

    A stub with a :class:`nri_sync.Handover` among its interceptors first waits until other instances of the plugin
    on the node have ended. The next instance may serve when ``on_stop`` has returned.

    Args:
        backoff: the pauses between attempts. Default: ``Backoff()``.
        stop_event: an event that ends the loop, too; at once if it is set before the call. The loop checks it
            ten times a second between two attempts, and once a second in a session.
        fail_fast: raise an exception when the very first start fails, as a misconfigured program should.
        is_safe: called before each further attempt. While it returns False, the loop waits as after a failure.
        on_connected: called after each successful start.
        on_disconnected: called with the reason, a ConnectionLost or a StartError, after each loss and each
            failed start.
        on_stop: called once at the end of the loop, for any reason, when no session is up. It can write state
            for the next instance.

    Raises:
        ConnectionSpent: the stub cannot connect again: it had one given connection, or one that it inherited
            from the runtime that launched it.
        StartError: the first start failed, and ``fail_fast`` is set.
        AlreadyStarted: another thread has started the stub.
        StubClosed: ``stub.close()`` was called before.
        TurnTaken: another instance of the plugin has taken over, because this one seemed to hang.
    """
    if stub.is_closed:
        raise StubClosed(f"plugin {stub.name} is closed; make a new stub to start again")
    try:
        keep_connected(
            stub,
            until_stopped(stub),
            backoff=backoff,
            stop_event=stop_event,
            fail_fast=fail_fast,
            is_safe=is_safe,
            on_connected=on_connected,
            on_disconnected=on_disconnected,
        )
    finally:
        try:
            if on_stop is not None:
                on_stop(stub)
        finally:
            if stub.handover is not None:
                stub.handover.release()


def until_stopped(stub: Stub) -> Latch:
    """Return a latch that the next ``stop()`` or ``close()`` of the stub sets. Dropping it has no effect."""
    return stub._until_stopped()


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
    """As :func:`run_forever`, until ``stopped`` is set, a latch of :func:`until_stopped`.

    The caller releases the handover.
    """
    backoff = backoff or Backoff()
    waits = _Waits(stub, stopped, stop_event)
    may_try = _always if is_safe is None else functools.partial(is_safe, stub)
    attempt = 0
    first = True
    try:
        while waits.turn():
            refused = False
            if first or may_try():
                began = time.monotonic()
                waits.note_socket()
                try:
                    reason = _run_once(stub, stopped, waits, on_connected)
                except StubStopped:
                    return
                except StartError as error:
                    if (first and fail_fast) or isinstance(error, ConnectionSpent):
                        raise
                    reason = error
                if reason is None:
                    return
                lasted = time.monotonic() - began
                if _was_synchronized(reason) and lasted >= backoff.stable:
                    attempt = 0
                first = False
                refused = isinstance(reason.__cause__, REFUSED)
                if on_disconnected is not None:
                    on_disconnected(stub, reason)
            found = refused and waits.runtime(may_try)
            attempt = 0 if found else waits.pause(attempt + 1, backoff)
    finally:
        if waits.source is not None:
            waits.source.forget()


def _always() -> bool:
    return True


def _was_synchronized(reason: NRIError) -> bool:
    return isinstance(reason, ConnectionLost) and reason.phase == "serve"


def _run_once(
    stub: Stub,
    stopped: Latch,
    waits: _Waits,
    on_connected: Callable[[Stub], object] | None,
) -> NRIError | None:
    """Serve one session; returns the reason of its loss, or ``None`` after a stop."""
    is_up = False
    try:
        stub._start_unless(stopped)
        is_up = True
        if on_connected is not None:
            on_connected(stub)
        while not stub.wait(waits.slice):
            if waits.is_over(in_session=True):
                if waits.handover is not None:
                    waits.handover.close()
                stub.stop()
                return None
    except BaseException as error:
        # An interrupt may strike between the end of the start and the next line.
        if is_up or not isinstance(error, Exception):
            stub.stop()
        raise
    return stub.close_reason


class _Waits:
    """The waits of the loop. Each wait ends with the loop, and shows other instances that this one is alive."""

    def __init__(self, stub: Stub, stopped: Latch, stop_event: threading.Event | None) -> None:
        self._stub = stub
        self._stopped = stopped
        self._stop_event = stop_event
        self.handover: Handover | None = stub.handover
        self.source: Source | None = stub._spec.source
        self._socket: object = None
        #: Seconds between two checks in a session.
        self.slice = None if stop_event is None and self.handover is None else SLICE

    def is_over(self, in_session: bool = False) -> bool:
        if self.handover is not None:
            self.handover.keep()
        # In a session, the stop of the stub ends the wait itself.
        return (not in_session and self._stopped.is_set()) or (
            self._stop_event is not None and self._stop_event.is_set()
        )

    def turn(self) -> bool:
        """Wait until no other instance serves. False: the loop is over."""
        return not self.is_over() and (self.handover is None or self.handover.wait(self.is_over))

    def note_socket(self) -> None:
        """Remember the runtime that is about to be connected to."""
        self._socket = None if self.source is None else self.source.file

    def runtime(self, may_try: Callable[[], bool]) -> bool:
        """Wait until a process listens at the socket. False: the loop is over, or may not try."""
        if not self.is_over():
            text = "%s: next attempt in %.1f s, and so on until a process listens"
            logger.info(text, self._stub.name, _LOOK)
        while not self.is_over() and may_try():
            if self.source is None or self.source.watch():
                return True
            _pause(self._stopped, self._stop_event, _LOOK)
        return False

    def pause(self, attempt: int, backoff: Backoff) -> int:
        """Wait for the delay of ``attempt``; returns it, or 0 at once when there is another socket."""
        delay = backoff.delay(attempt)
        if not self.is_over():
            logger.info("%s: next attempt in %.1f s", self._stub.name, delay)
        if self.source is None:
            _pause(self._stopped, self._stop_event, delay)
            return attempt
        until = Deadline(delay)
        while not (until.expired or self.is_over()):
            found = self.source.file
            if found is not None and found != self._socket:
                return 0  # the runtime was restarted
            _pause(self._stopped, self._stop_event, min(_LOOK, until.remaining() or 0.0))
        return attempt


def _pause(stopped: Latch, stop_event: threading.Event | None, delay: float) -> None:
    until = Deadline(delay)
    while not until.expired:
        nap = until if stop_event is None else Deadline(min(_NAP, until.remaining() or 0.0))
        if stopped.wait(nap) or (stop_event is not None and stop_event.is_set()):
            return
