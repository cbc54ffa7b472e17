"""The state of a node, which comes in parts of up to 4 MiB, and the bound on its memory.

A pod or container of two bytes on the wire is an object of some 400 bytes in memory, or 800 with its messages:
4 MiB of them are two million objects. So each part is measured before it is parsed, and each object counts on top
of its bytes. A part is parsed piece by piece, so that the C library allocates no large block for it: the library
would keep the memory of a freed block.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from nri_sync.api import nri_pb2
from nri_sync.wire.ttrpc import Data
from nri_sync.wire.varint import decode_varint

__all__ = ["MOST", "Measured", "NodeState", "Parts", "measure", "parse"]

#: The most that is held, in bytes as :meth:`Parts.count` counts them: 50,000 containers of 3 kB fit.
MOST = 256 * 1024 * 1024
# Each pod or container counts for so many bytes more.
_OBJECT = 1024

# The tags of SynchronizeRequest's fields `pods` and `containers`, in the usual one byte; their numbers, that of
# `more`. The entries of the former two are objects.
_POD_TAG, _CONTAINER_TAG = 0x0A, 0x12
_OBJECTS = frozenset((1, 2))
_MORE = 3
# The size of a piece, which is longer by a part of a pod or container.
_PIECE = 64 * 1024


class Measured(NamedTuple):
    """The content of a part."""

    objects: int
    more: bool
    #: Where the first piece ends, the second, and so on: each is a message. The last one is the rest.
    cuts: Sequence[int] = ()


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

    def count(self, data: Data) -> Measured | None:
        """Count a part; returns its measure, or ``None`` if it must not be parsed."""
        measured = measure(data)
        with self._lock:
            self.is_complete = not measured.more
            self._size += len(data) + _OBJECT * measured.objects
            return measured if self._size <= MOST else None

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


def measure(data: Data) -> Measured:
    """Look into a SynchronizeRequest on the wire without parsing its pods and containers.

    Of bytes that are no such message, the part before the mistake is measured: to parse them fails as well.
    Source of the format: the "Encoding" page of protobuf's documentation.
    """
    objects, more, position, end = 0, False, 0, len(data)
    most = MOST // _OBJECT  # more are too much, however many
    cuts: list[int] = []
    cut_at: float = _PIECE
    try:
        while position < end and objects <= most:
            if position >= cut_at:
                cuts.append(position)
                cut_at = position + _PIECE
            tag = data[position]
            if tag in (_POD_TAG, _CONTAINER_TAG):
                # Nearly all fields, and their lengths: there are thousands.
                low = data[position + 1]
                if low < 0x80:
                    position += 2 + low
                else:
                    high = data[position + 2]
                    if high < 0x80:
                        position += 3 + (low & 0x7F | high << 7)
                    else:
                        length, position = decode_varint(data, position + 1)
                        position += length
                objects += 1
                continue
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
            elif kind in (3, 4):
                # A group begins or ends, which no known field is. Its content counts like that of the message.
                cut_at = inf
            else:
                break
    except (IndexError, ValueError):
        pass  # truncated, or no number
    return Measured(objects, more, tuple(cuts))


def parse(data: Data, cuts: Sequence[int]) -> nri_pb2.SynchronizeRequest:
    """Parse a SynchronizeRequest piece by piece. Raises the exceptions of ``MergeFromString()``."""
    request = nri_pb2.SynchronizeRequest()
    begin = 0
    for end in (*cuts, len(data)):
        request.MergeFromString(bytes(data[begin:end]))
        begin = end
    return request
