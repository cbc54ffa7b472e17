"""ttRPC messages: the bytes of one connection in, messages out.

A message is a ten-byte header and its data; integers are big-endian::

    +-------------------+-------------------+----------+-----------+-----------
    | data length (32)  | stream id (32)    | type (8) | flags (8) | data ...
    +-------------------+-------------------+----------+-----------+-----------

This module uses no I/O, threads or clock. It does not parse the data, which is a protobuf envelope. The order of
messages is checked by :mod:`nri_sync.wire.streams`. Source: PROTOCOL.md of containerd/ttrpc.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from io import BytesIO
from struct import Struct
from typing import NamedTuple, Union

from nri_sync.errors import LocalProtocolError

__all__ = [
    "DATA",
    "HEADER_LENGTH",
    "MESSAGE_MAX",
    "NO_DATA",
    "REMOTE_CLOSED",
    "REMOTE_OPEN",
    "REQUEST",
    "RESPONSE",
    "Data",
    "Message",
    "MessageDecoder",
    "encode_header",
]

Buffer = Union[bytes, bytearray, memoryview]
#: The data of a message. A view only where the decoder of the messages makes views.
Data = Union[bytes, memoryview]

# Message types.
REQUEST = 1
RESPONSE = 2
DATA = 3

# Flags. A request without flags is a unary call.
REMOTE_CLOSED = 0x1
REMOTE_OPEN = 0x2
NO_DATA = 0x4

HEADER_LENGTH = 10
#: The largest data of a message, in bytes. The data is the envelope, so the message in it is smaller.
MESSAGE_MAX = 4_194_304

_HEADER = Struct(">IIBB")
# Makes a named tuple without the generated __new__, which costs more than the tuple.
_new = tuple.__new__


class Message(NamedTuple):
    """One message of the peer.

    ``data`` is ``None`` if the data was longer than allowed and has been skipped. ``length`` is its length in both
    cases.
    """

    type: int
    stream_id: int
    flags: int
    length: int
    data: Data | None


def encode_header(type: int, stream_id: int, flags: int, length: int) -> bytes:
    """The header of a message with ``length`` bytes of data.

    Raises:
        LocalProtocolError: the data would exceed :data:`MESSAGE_MAX`.
    """
    if length > MESSAGE_MAX:
        raise LocalProtocolError(
            f"message of {length} bytes exceeds the {MESSAGE_MAX} that ttRPC allows"
        )
    return _HEADER.pack(length, stream_id, type, flags)


# The size of the first buffer of a message, and the factor by which a full one grows.
_FIRST_ROOM = 64 * 1024
_GROWTH = 8
# From this size on, the buffer of a view is an anonymous mapping, which goes back to the system at once. After a
# block of 4 MiB has been freed, glibc keeps up to 8 MiB of free memory for each thread (see M_TRIM_THRESHOLD in
# mallopt(3)).
_MAPPED = 256 * 1024
# Mappings of a multiple of this size can have huge pages.
_HUGE = 2 * 1024 * 1024


class MessageDecoder:
    """Splits the byte stream of one ttRPC connection into messages.

    Call :meth:`receive` with each chunk as it arrives, and iterate over the result to its end before the next
    call. At the end of the connection, check :attr:`inside`. Memory stays below 9/8 of ``message_max`` for any
    length that the peer claims: the data of a longer message is skipped as it arrives. A buffer takes 64 KiB at
    first, and later at most eight times the bytes that have arrived. Not thread-safe.
    """

    __slots__ = (
        "_buffer",
        "_flags",
        "_left",
        "_length",
        "_max",
        "_partial",
        "_room",
        "_stream_id",
        "_type",
        "_views",
    )

    def __init__(self, message_max: int = MESSAGE_MAX, *, views: bool = False) -> None:
        """With ``views``, the data of a message of more than 256 KiB may be a view of memory that it alone uses.

        When the view is released, the system has the memory back. Without ``views`` all data is bytes.
        """
        self._max = message_max
        self._views = views
        self._partial = bytearray()
        # The message whose data is arriving, and the number of its missing bytes.
        self._type = self._stream_id = self._flags = self._length = 0
        self._left = 0
        self._buffer: BytesIO | mmap.mmap | None = None
        # The size of the buffer.
        self._room = 0

    def receive(self, data: Buffer) -> Iterator[Message]:
        """Yield the messages that ``data`` completes, in order.

        Never raises, because every sequence of bytes is a sequence of messages. An oversized message is yielded
        without data, after its last byte has been skipped.
        """
        view = memoryview(data)
        if not self._left and not self._partial and len(view) >= HEADER_LENGTH:
            length, stream_id, type, flags = _HEADER.unpack_from(view)
            if length == len(view) - HEADER_LENGTH and length <= self._max:
                # The usual case is one whole message. This avoids the cost of a generator.
                fields = type, stream_id, flags, length, bytes(view[HEADER_LENGTH:])
                return iter((_new(Message, fields),))
        return self._receive(view)

    def _receive(self, view: memoryview) -> Iterator[Message]:
        position, end = 0, len(view)
        while position < end:
            if self._left:
                piece = view[position : position + self._left]
                position += len(piece)
                message = self._continue(piece)
            else:
                if not self._partial and end - position >= HEADER_LENGTH:
                    header = _HEADER.unpack_from(view, position)
                    position += HEADER_LENGTH
                else:
                    missing = HEADER_LENGTH - len(self._partial)
                    self._partial += view[position : position + missing]
                    position += missing
                    if len(self._partial) < HEADER_LENGTH:
                        return
                    header = _HEADER.unpack(self._partial)
                    self._partial.clear()
                length, stream_id, type, flags = header
                if length <= end - position and length <= self._max:
                    # The whole message has arrived: copy it once.
                    message = Message(
                        type, stream_id, flags, length, bytes(view[position : position + length])
                    )
                    position += length
                else:
                    self._begin(type, stream_id, flags, length)
                    message = None
            if message is not None:
                yield message

    def _begin(self, type: int, stream_id: int, flags: int, length: int) -> None:
        self._type, self._stream_id, self._flags, self._length = type, stream_id, flags, length
        self._left = length
        self._room = min(length, _FIRST_ROOM)
        self._buffer = BytesIO(bytes(self._room)) if length <= self._max else None

    def _continue(self, piece: memoryview) -> Message | None:
        self._left -= len(piece)
        if self._buffer is not None:
            if self._length - self._left > self._room:
                self._buffer = self._grown(self._buffer, len(piece))
            self._buffer.write(piece)
        if self._left:
            return None
        buffer, self._buffer = self._buffer, None
        data: Data | None
        if isinstance(buffer, BytesIO):
            data = buffer.getvalue()
        else:
            data = None if buffer is None else memoryview(buffer)[: self._length]
        return Message(self._type, self._stream_id, self._flags, self._length, data)

    def _grown(self, buffer: BytesIO | mmap.mmap, more: int) -> BytesIO | mmap.mmap:
        """A larger buffer with the same content, and room for at least ``more`` more bytes.

        The buffer does not have the claimed length from the start: the allocator would clear a recycled block and
        keep its pages, for each thread. The last buffer has the size of the message, so that its bytes are the
        message without a copy.
        """
        filled = buffer.tell()
        self._room = min(self._length, max(filled + more, _GROWTH * self._room))
        is_mapped = self._views and self._room >= _MAPPED
        larger = _mapping(self._room) if is_mapped else BytesIO(bytes(self._room))
        content = buffer.getbuffer() if isinstance(buffer, BytesIO) else memoryview(buffer)
        with content:
            larger.write(content[:filled])
        return larger

    @property
    def inside(self) -> bool:
        """Whether a message is incomplete. If the connection ends now, the rest of the message is missing."""
        return bool(self._partial or self._left)


def _mapping(size: int) -> mmap.mmap:
    """An anonymous mapping of at least ``size`` bytes."""
    if size > _HUGE // 2:
        size = -(-size // _HUGE) * _HUGE
    mapping = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Two huge pages take a tenth of the time of a thousand small ones. Not every kernel has them.
    with contextlib.suppress(OSError):
        mapping.madvise(mmap.MADV_HUGEPAGE)
    return mapping
