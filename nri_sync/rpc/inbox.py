"""The messages of a stream that have arrived and that the consumer has not taken yet."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Iterable
from typing import Callable

from nri_sync.deadline import Deadline
from nri_sync.threads import Latch, on_main_thread
from nri_sync.wire.ttrpc import MESSAGE_MAX, Data

__all__ = ["END", "Holdings", "Inbox", "cost"]

#: The result of :meth:`Inbox.get` after the last message.
END = None

# ttRPC has no flow control. When the consumer of a stream is so many bytes behind, the link reads nothing until
# the consumer has caught up. That slows the sender down, and all other calls of the connection.
_LIMIT = 16 * 1024 * 1024
# The bytes that the streams of a connection hold together at most.
_TOTAL = 64 * 1024 * 1024
# Seconds that the reading waits for the consumers while _STRIDE bytes of messages arrive. Go's ttrpc waits as long
# for one message. A runtime gives a request two seconds.
_STALL = 1.0
# At least the bytes that can be ahead of a request in the buffers of a unix socket (208 KiB) and a link (256 KiB).
# So a consumer that takes tiny messages now and then cannot hold up a request for long.
_STRIDE = 512 * 1024
# Seconds that the reading waits for a stream that is the only call of its connection.
_ALONE = 10.0
# Bytes of memory that a message takes beside its content: the header of the bytes object, the rounding of the
# allocator, and a place in the queue. Measured 56 with messages of 2 bytes.
_OVERHEAD = 64
# The most that one message takes. Streams without a consumer leave this room, so a consumer that has taken all of
# its messages can always have the next one.
_SPARE = MESSAGE_MAX + _OVERHEAD
# The most that one read of the link adds: the rest of the largest message, and 256 KiB of empty ones.
_READ = _SPARE + 2 * 1024 * 1024


def cost(data: bytes) -> int:
    """Bytes of memory that a message takes while it waits."""
    return len(data) + _OVERHEAD


class Inbox:
    """The messages of one stream, from the thread that reads to the one that consumes them."""

    def __init__(self, limit: int = _LIMIT) -> None:
        self._limit = limit
        # C-level and re-entrant: a signal in the consumer cannot leave it locked for the reader.
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._arrival = Latch()
        # Each is written by one side only, except the last two, which only ever become true.
        self._put_bytes = 0
        self._taken_bytes = 0
        self._room: Latch | None = None
        self._ended = False
        self._discarding = False

    def has_room(self, coming: int) -> bool:
        """Whether a message that takes ``coming`` bytes may be added. One message always fits."""
        held = self._put_bytes - self._taken_bytes
        return not held or held + coming <= self._limit

    def put(self, data: bytes) -> None:
        """Add a message, unless the stream has ended; reading thread only."""
        if not self._ended:
            self._put_bytes += cost(data)
            self._add(data)

    def end(self) -> None:
        """Add the end. The messages before it can still be taken. Any thread."""
        self._ended = True
        self._add(END)
        self._make_room()

    def discard(self) -> None:
        """Drop all messages, those to come as well, and add the end. Any thread."""
        self._discarding = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self.end()

    @property
    def ended(self) -> bool:
        """Whether no further message is added."""
        return self._ended

    @property
    def held(self) -> int:
        """Bytes of memory that the messages take which wait to be taken."""
        return 0 if self._discarding else self._put_bytes - self._taken_bytes

    @property
    def waits_for_room(self) -> bool:
        """Whether a thread waits until a message is taken."""
        return self._room is not None

    @property
    def drained(self) -> bool:
        """Whether all that was put has been taken."""
        return self.held == 0

    def get(self, deadline: Deadline | None = None) -> bytes | None:
        """The next message, or :data:`END`. Blocks until there is one.

        Raises:
            TimeoutError: the deadline passed.
        """
        if self._discarding:
            return END
        data = (
            self._queue.get()
            if deadline is None and not on_main_thread()
            else self._get_in_time(deadline)
        )
        if data is END:
            self._queue.put(END)
        else:
            self._taken_bytes += cost(data)
            self._make_room()
        return data

    def _get_in_time(self, deadline: Deadline | None) -> bytes | None:
        # Not by get(timeout=...): before Python 3.13 a signal that strikes as the time runs out makes it
        # wait for ever.
        while True:
            arrival = self._arrival
            with contextlib.suppress(queue.Empty):
                return self._queue.get_nowait()
            if not arrival.wait(deadline):
                raise TimeoutError("no message arrived in time")

    def _add(self, item: bytes | None) -> None:
        self._queue.put(item)
        # Add, then replace: a thread that reads the new latch looks into the queue afterwards.
        arrival, self._arrival = self._arrival, Latch()
        arrival.set()

    def wake_on_room(self, room: Latch | None) -> None:
        """Have ``room`` set when a message is taken, or the stream ends; reading thread only."""
        self._room = room

    def _make_room(self) -> None:
        room = self._room
        if room is not None:
            room.set()


class Holdings:
    """Bounds the bytes that the streams of one connection hold, and the time that they hold up its reading.

    For the reading thread.
    """

    def __init__(
        self,
        inboxes: Callable[[], Iterable[Inbox]],
        limit: int = _TOTAL,
        stall: float = _STALL,
        alone: Callable[[], bool] = lambda: False,
        longest: float = _ALONE,
    ) -> None:
        """``inboxes()`` returns the inboxes of all streams that have not ended.

        ``alone()`` returns whether the connection has one call only, so that the reading holds up no other call.
        Then it waits up to ``longest`` seconds, not ``stall``. Call :meth:`look_again` when another call begins.
        """
        self._inboxes = inboxes
        self._limit = limit
        self._stall = stall
        self._alone = alone
        self._longest = longest
        # Ends the wait of the reading, if it waits.
        self._room: Latch | None = None
        # Up to here, a stream and all streams together have room for what one read adds.
        self._calm = min(limit, _LIMIT) - _READ
        # At least the bytes that they hold: raised by each message, and counted anew at the limit.
        self._most = 0
        # Seconds that the reading has held up other calls, at most _stall. Each message that arrives makes up for
        # some of them.
        self._waited = 0.0

    def put(self, inbox: Inbox, data: bytes, *, consumed: bool = True) -> Inbox | None:
        """Add a message. Blocks while its stream, or all streams together, hold too much.

        ``consumed``: the inbox has a consumer. Without one it does not block for the others.

        Returns ``None``, or the inbox that has left no room for too long; then the message is not added. The
        caller ends the stream of that inbox, and calls again if the message is of another stream.
        """
        coming = cost(data)
        limit = self._limit if consumed else self._limit - _SPARE
        if self._most + coming > limit or not inbox.has_room(coming):
            full = self._wait_for_room(inbox, coming, limit, wait=consumed)
            if full is not None:
                return full
        self._most += coming
        if self._waited:
            self._waited = max(0.0, self._waited - coming * self._stall / _STRIDE)
        inbox.put(data)
        return None

    def deliver(
        self,
        inbox: Inbox,
        data: Data | None,
        give_up: Callable[[Inbox], None],
        *,
        consumed: bool = True,
    ) -> bool:
        """Add a message, if there is one, as :meth:`put`; False if its stream had to end.

        ``give_up(inbox)`` ends the stream that leaves no room, and discards the inbox.
        """
        if data is None:
            return True
        message = bytes(data)
        while (full := self.put(inbox, message, consumed=consumed)) is not None:
            give_up(full)
            if full is inbox:
                return False
        return True

    def look_again(self) -> None:
        """Another call has begun: a reading that waits may hold it up. Any thread."""
        room = self._room
        if room is not None:
            room.set()

    def may_block(self) -> bool:
        """Whether one read of the link may bring more than there is room for."""
        if self._most > self._calm:
            self._most = sum(inbox.held for inbox in self._inboxes())
        return self._most > self._calm

    def _wait_for_room(self, inbox: Inbox, coming: int, limit: int, *, wait: bool) -> Inbox | None:
        began = time.monotonic()
        deadline = Deadline(self._stall - self._waited)
        longest = Deadline(self._longest)
        inboxes: list[Inbox] = []
        try:
            while True:
                self._room = room = Latch()
                inboxes = list(self._inboxes())
                # Attach, then look.
                for each in (inbox, *inboxes):
                    each.wake_on_room(room)
                if inbox.ended:
                    return None
                self._most = sum(each.held for each in inboxes)
                full = 0 < self._most > limit - coming
                if not full and inbox.has_room(coming):
                    return None
                if full and not wait:
                    return inbox
                until = longest if self._alone() else deadline
                if until.expired:
                    # A consumer that takes its messages has had the time to take them all.
                    return max(inboxes, key=lambda each: each.held) if full else inbox
                room.wait(until)
        finally:
            self._room = None
            for each in (inbox, *inboxes):
                each.wake_on_room(None)
            if not self._alone():
                # A process that was stopped, or a call that was alone, may have waited for longer.
                waited = self._waited + time.monotonic() - began
                self._waited = min(waited, self._stall)
