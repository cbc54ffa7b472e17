"""What has arrived on a stream and was not taken yet."""

from __future__ import annotations

import contextlib
import queue

from nri_sync.deadline import Deadline
from nri_sync.threads import Latch, on_main_thread

__all__ = ["END", "Inbox"]

#: What :meth:`Inbox.get` returns when there is nothing more to come.
END = None

# ttRPC has no flow control of its own. When the consumer of a stream is this far behind, nothing more is
# read from the connection until it has caught up: that slows the sender down, and every other call too.
_LIMIT = 16 * 1024 * 1024
# A consumer that takes nothing for so long gives up its stream, for the sake of the others.
_STALL = 10.0


class Inbox:
    """The messages of one stream, from the thread that reads to the one that consumes them."""

    def __init__(self, limit: int = _LIMIT, stall: float = _STALL) -> None:
        self._limit = limit
        self._stall = stall
        # C-level and re-entrant: a signal in the consumer cannot leave it locked for the reader.
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._arrival = Latch()
        # Each is written by one side only, but for the last two, which only ever become true.
        self._put_bytes = 0
        self._taken_bytes = 0
        self._room: Latch | None = None
        self._ended = False
        self._discarding = False

    def put(self, data: bytes) -> bool:
        """Add a message; reading thread only. Blocks while the consumer is too far behind.

        Returns False when it stays behind: the stream should be given up.
        """
        while not self._ended and self._put_bytes - self._taken_bytes > self._limit:
            taken = self._taken_bytes
            self._room = room = Latch()
            # Attach, then look.
            if self._taken_bytes != taken or self._ended:
                continue
            room.wait(Deadline(self._stall))
            if self._taken_bytes == taken and not self._ended:
                return False
        self._room = None
        if not self._ended:
            self._put_bytes += len(data) + 1
            self._add(data)
        return True

    def end(self) -> None:
        """Nothing more will come; what is there can still be taken. Any thread."""
        self._ended = True
        self._add(END)
        self._make_room()

    def discard(self) -> None:
        """The consumer wants no more. Any thread."""
        self._discarding = True
        self.end()

    @property
    def drained(self) -> bool:
        """Whether all that was put has been taken."""
        return self._discarding or self._put_bytes == self._taken_bytes

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
            self._taken_bytes += len(data) + 1
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
        # Add, then replace: whoever reads the new one looks into the queue afterwards.
        arrival, self._arrival = self._arrival, Latch()
        arrival.set()

    def _make_room(self) -> None:
        room = self._room
        if room is not None:
            room.set()
