"""The mux: several logical connections on one byte stream, that of the connection.

A frame is an eight-byte header and its payload. There is no handshake, and no message opens or closes a logical
connection. An empty frame means "no bytes", and never the end of a logical connection::

    +----------------------+----------------------+------------------
    | connection id (32)   | payload length (32)  | payload ...
    +----------------------+----------------------+------------------

Integers are big-endian. Frame boundaries have no meaning: a ttRPC message may be cut at any byte.
:class:`FrameDecoder` passes on each part of a frame as it arrives, so it never buffers a payload.

This module uses no I/O, threads or clock: bytes in, pieces out. Source of the format: the ``net/multiplex``
package of the reference implementation.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Union

from nri_sync.errors import RemoteProtocolError
from nri_sync.wire.ttrpc import HEADER_LENGTH, MESSAGE_MAX, Message

__all__ = [
    "FIRST_FRAME_MAX",
    "FRAME_PAYLOAD_MAX",
    "PLUGIN_SERVICE",
    "RUNTIME_SERVICE",
    "FrameDecoder",
    "decode_whole",
    "frame_message",
]

Buffer = Union[bytes, bytearray, memoryview]

#: The logical connection on which the runtime calls the plugin.
PLUGIN_SERVICE = 1
#: The logical connection on which the plugin calls the runtime.
RUNTIME_SERVICE = 2

#: The largest payload of a frame: a ttRPC message of 4 MiB with its header. A frame that claims more is
#: refused, as the reference does since v0.12.5.
FRAME_PAYLOAD_MAX = MESSAGE_MAX + HEADER_LENGTH

#: A Go peer reads the start of each message through a 4,096-byte buffer. Its connection fails for good if a frame
#: that starts a message does not fit the buffer. The rest of the message may come as one frame of any size. It
#: should, because the peer queues at most 256 unread frames.
FIRST_FRAME_MAX = 4096

_HEADER = Struct(">II")
# The header of a frame, and of the message that begins with it.
_HEADERS = Struct(">IIIIBB")
_new = tuple.__new__  # as in nri_sync.wire.ttrpc


def frame_message(connection_id: int, header: bytes, payload: Buffer) -> list[Buffer]:
    """Frame one message (its header and payload) in the one form that every known peer accepts.

    A message of at most 4,096 bytes is one frame. A longer message is cut once, after 4,096 bytes. A frame never
    contains parts of two messages, because a Go peer would lose the second one. Write the returned buffers in
    order, without other bytes of the same connection between them. ``header`` and ``payload`` together must not
    exceed :data:`FRAME_PAYLOAD_MAX` + 4,096 bytes, which the limit of ttRPC guarantees.
    """
    size = len(header) + len(payload)
    if size <= FIRST_FRAME_MAX:
        return [b"".join((_HEADER.pack(connection_id, size), header, payload))]
    cut = FIRST_FRAME_MAX - len(header)
    view = memoryview(payload)
    first = b"".join(
        (
            _HEADER.pack(connection_id, FIRST_FRAME_MAX),
            header,
            view[:cut],
            _HEADER.pack(connection_id, size - FIRST_FRAME_MAX),
        )
    )
    return [first, view[cut:]]


def decode_whole(data: memoryview) -> tuple[int, Message] | None:
    """Decode ``data`` if it is exactly one frame with exactly one message; otherwise return ``None``.

    Returns the id of the logical connection and the message. This is a fast path: most reads return such a frame.
    Call it only between frames, and between the messages of all logical connections.
    """
    size = len(data)
    if size >= _HEADERS.size:
        connection_id, framed, length, stream_id, type, flags = _HEADERS.unpack_from(data)
        if framed == size - 8 and length == framed - HEADER_LENGTH and length <= MESSAGE_MAX:
            fields = type, stream_id, flags, length, data[18:].tobytes()
            return connection_id, _new(Message, fields)
    return None


class FrameDecoder:
    """Splits the bytes of a connection into the byte streams of its logical connections.

    Call :meth:`receive` with each chunk as it arrives, and iterate over the result to its end before the next
    call. At the end of the connection, check :attr:`inside`. The decoder buffers at most the eight bytes of an
    incomplete header. Not thread-safe.
    """

    __slots__ = ("_connection_id", "_left", "_partial")

    def __init__(self) -> None:
        self._partial = bytearray()
        self._connection_id = 0
        self._left = 0

    def receive(self, data: Buffer) -> Iterator[tuple[int, memoryview]]:
        """Yield ``(connection id, piece of its byte stream)`` in order of arrival.

        The pieces are views of ``data``: process them before you reuse its buffer.

        Raises:
            RemoteProtocolError: a frame claims more than :data:`FRAME_PAYLOAD_MAX` bytes. All bytes before this
                frame have been yielded. The connection cannot be used any longer.
        """
        view = memoryview(data)
        position, end = 0, len(view)
        while position < end:
            if not self._left:
                if not self._partial and end - position >= 8:
                    connection_id, length = _HEADER.unpack_from(view, position)
                    position += 8
                else:
                    missing = 8 - len(self._partial)
                    self._partial += view[position : position + missing]
                    position += missing
                    if len(self._partial) < 8:
                        return
                    connection_id, length = _HEADER.unpack(self._partial)
                    self._partial.clear()
                if length > FRAME_PAYLOAD_MAX:
                    raise RemoteProtocolError(
                        f"mux frame for connection {connection_id} claims {length} bytes, "
                        f"more than the {FRAME_PAYLOAD_MAX} that a frame may hold"
                    )
                self._connection_id = connection_id
                self._left = length
            else:
                piece = view[position : position + self._left]
                position += len(piece)
                self._left -= len(piece)
                yield self._connection_id, piece

    @property
    def inside(self) -> bool:
        """Whether a frame is incomplete. If the connection ends now, the rest of the frame is missing."""
        return bool(self._partial or self._left)
