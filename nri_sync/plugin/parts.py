"""The state of a node, which comes in parts of up to 4 MiB, and the bound on its memory.

A pod or container of two bytes on the wire is an object of some 400 bytes in memory, or 800 with its messages:
4 MiB of them are two million objects. So each part is measured before it is parsed, and each object counts on top
of its bytes.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from nri_sync.api import nri_pb2
from nri_sync.wire.varint import decode_varint

__all__ = ["MOST", "Measured", "NodeState", "Parts", "measure"]

#: The most that is held, in bytes as :meth:`Parts.count` counts them: 50,000 containers of 3 kB fit.
MOST = 256 * 1024 * 1024
# Each pod or container counts for so many bytes more.
_OBJECT = 1024

# The numbers of SynchronizeRequest's fields `pods` and `containers`, whose entries are objects, and `more`.
_OBJECTS = frozenset((1, 2))
_MORE = 3


class Measured(NamedTuple):
    """The content of a part."""

    objects: int
    more: bool


class NodeState(NamedTuple):
    """The state of a node, complete or too much."""

    pods: list[nri_pb2.PodSandbox]
    containers: list[nri_pb2.Container]
    #: In bytes, as :meth:`Parts.count` counts them.
    size: int
    #: Whether it exceeds the bound. The part that did so is missing.
    too_much: bool


class Parts:
    """Collects the parts of one state, then of the next. Thread-safe."""

    def __init__(self) -> None:
        #: When the runtime gives up on the state, on the monotonic clock; ``None``: no part has come.
        self.due: float | None = None
        #: Whether the part that is being parsed is the last one.
        self.is_complete = False
        # Guards the fields below, and the changes of those above.
        self._lock = threading.Lock()
        with self._lock:
            self._begin_locked()

    def count(self, data: bytes) -> bool:
        """Count a part; returns whether it may be parsed."""
        objects, more = measure(data)
        with self._lock:
            self.is_complete = not more
            self._size += len(data) + _OBJECT * objects
            return self._size <= MOST

    def add(
        self, part: nri_pb2.SynchronizeRequest, due: float | None, otherwise: float
    ) -> NodeState | None:
        """Add a part that has been counted; returns the state, ``None`` while more parts have to come.

        ``due`` is when the runtime gives up on the state, on the monotonic clock, if the runtime says so with its
        request. ``otherwise``, of the first part, holds for a runtime that does not.
        """
        with self._lock:
            self.is_complete = False  # nothing is known of the part that comes next
            too_much = self._size > MOST
            if not too_much:
                self._pods.extend(part.pods)
                self._containers.extend(part.containers)
                if part.more:
                    self.due = due or self.due or otherwise
                    return None
            state = NodeState(self._pods, self._containers, self._size, too_much)
            self._begin_locked()
            return state

    def _begin_locked(self) -> None:
        assert self._lock.locked()
        self.due = None
        self._size = 0
        self._pods: list[nri_pb2.PodSandbox] = []
        self._containers: list[nri_pb2.Container] = []


def measure(data: bytes) -> Measured:
    """Look into a SynchronizeRequest on the wire without parsing its pods and containers.

    Of bytes that are no such message, the part before the mistake is measured: to parse them fails as well.
    Source of the format: the "Encoding" page of protobuf's documentation.
    """
    objects, more, position = 0, False, 0
    most = MOST // _OBJECT  # more are too much, however many
    try:
        while position < len(data) and objects <= most:
            tag, position = decode_varint(data, position)
            number, kind = tag >> 3, tag & 7
            if kind == 2:
                length, position = decode_varint(data, position)
                position += length
                objects += number in _OBJECTS
            elif kind == 0:
                value, position = decode_varint(data, position)
                if number == _MORE:
                    more = bool(value)
            elif kind in (1, 5):
                position += 8 if kind == 1 else 4
            elif kind > 5:
                break
            # Else a group begins or ends, which no known field is: its content counts like that of the message.
    except ValueError:
        pass  # truncated, or no number
    return Measured(objects, more)
