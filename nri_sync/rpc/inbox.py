"""The messages of a stream that have arrived and that the consumer has not taken yet."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterable
from typing import Callable

from nri_sync.deadline import Deadline
from nri_sync.threads import Latch, on_main_thread
from nri_sync.wire.ttrpc import MESSAGE_MAX

__all__ = ["END", "Holdings", "Inbox", "cost"]

#: The result of :meth:`Inbox.get` after the last message.
END = None

# ttRPC has no flow control. When the consumer of a stream is so many bytes behind, the link reads nothing until
# the consumer has caught up. That slows the sender down, and all other calls of the connection.
_LIMIT = 16 * 1024 * 1024
# The bytes that the streams of a connection hold together at most.
_TOTAL = 64 * 1024 * 1024
# Seconds without a message taken after which a consumer loses its stream, so that the others go on.
_STALL = 10.0
# Bytes of memory that a message takes beside its content: the header of the bytes object, the rounding of the
# allocator, and a place in the queue. Measured 56 with messages of 2 bytes.
_OVERHEAD = 64
# The most that one message takes. Streams without a consumer leave this room, so a consumer that has taken all of
# its messages can always have the next one.
_SPARE = MESSAGE_MAX + _OVERHEAD


def cost(data: bytes) -> int:
    """Bytes of memory that a message takes while it waits."""
    return len(data) + _OVERHEAD


class Inbox:
    """The messages of one stream, from the thread that reads to the one that consumes them."""

    def __init__(self, limit: int = _LIMIT, stall: float = _STALL) -> None:
        self._limit = limit
        self._stall = stall
        # C-level and re-entrant: a signal in the consumer cannot leave it locked for the reader.
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._arrival = Latch()
        # Each is written by one side only, except the last two, which only ever become true.
        self._put_bytes = 0
        self._taken_bytes = 0
        self._room: Latch | None = None
        self._ended = False
        self._discarding = False

    def put(self, data: bytes) -> bool:
        """Add a message; reading thread only. Blocks while the consumer is too far behind.

        Returns False when it stays behind: the stream should be given up.
        """
        coming = cost(data)
        while not self._ended:
            taken = self._taken_bytes
            held = self._put_bytes - taken
            # One message always fits.
            if not held or held + coming <= self._limit:
                break
            self._room = room = Latch()
            # Attach, then look.
            if self._taken_bytes != taken or self._ended:
                continue
            room.wait(Deadline(self._stall))
            if self._taken_bytes == taken and not self._ended:
                return False
        self._room = None
        if not self._ended:
            self._put_bytes += coming
            self._add(data)
        return True

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

    def wake_on_room(self, room: Latch) -> None:
        """Have ``room`` set when a message is taken next, or the stream ends; reading thread only."""
        self._room = room

    def _make_room(self) -> None:
        room = self._room
        if room is not None:
            room.set()


class Holdings:
    """Bounds the bytes that the streams of one connection hold together. For the reading thread."""

    def __init__(
        self,
        inboxes: Callable[[], Iterable[Inbox]],
        limit: int = _TOTAL,
        stall: float = _STALL,
    ) -> None:
        """``inboxes()`` returns the inboxes of all streams."""
        self._inboxes = inboxes
        self._limit = limit
        self._stall = stall
        # At least the bytes that they hold: raised by each message, and counted anew at the limit.
        self._most = 0

    def put(self, inbox: Inbox, data: bytes, *, consumed: bool = True) -> bool:
        """Like :meth:`Inbox.put`; blocks as well while all the streams together hold too much.

        ``consumed``: the inbox has a consumer. Without one it does not block for the others, but returns False.
        """
        coming = cost(data)
        limit = self._limit if consumed else self._limit - _SPARE
        self._most += coming
        if self._most > limit and not self._make_room(coming, limit, wait=consumed):
            return False
        return inbox.put(data)

    def _make_room(self, coming: int, limit: int, *, wait: bool) -> bool:
        while True:
            room = Latch()
            inboxes = list(self._inboxes())
            # Attach, then look.
            for inbox in inboxes:
                inbox.wake_on_room(room)
            self._most = coming + sum(inbox.held for inbox in inboxes)
            if self._most <= limit or self._most == coming:
                return True
            if not (wait and room.wait(Deadline(self._stall))):
                return False
