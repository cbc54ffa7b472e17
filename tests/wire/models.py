"""The wire formats told again, as plainly as can be, for the decoders to be compared with.

Everything here works on a whole byte string at once: no state between calls, nothing skipped or cut.
"""

from __future__ import annotations

from nri_sync.wire.mux import FRAME_PAYLOAD_MAX
from nri_sync.wire.ttrpc import MESSAGE_MAX, Message

__all__ = ["chunked", "cut", "joined", "parse_frames", "parse_messages"]


def parse_frames(trunk: bytes) -> tuple[list[tuple[int, bytes]], str]:
    """The frames of ``trunk`` with their ids, and how it ends: ``""``, ``"cut off"`` or ``"too long"``."""
    frames: list[tuple[int, bytes]] = []
    while trunk:
        if len(trunk) < 8:
            return frames, "cut off"
        connection_id = int.from_bytes(trunk[:4], "big")
        length = int.from_bytes(trunk[4:8], "big")
        if length > FRAME_PAYLOAD_MAX:
            return frames, "too long"
        frames.append((connection_id, trunk[8 : 8 + length]))
        if len(trunk) < 8 + length:
            return frames, "cut off"
        trunk = trunk[8 + length :]
    return frames, ""


def parse_messages(stream: bytes, limit: int = MESSAGE_MAX) -> tuple[list[Message], str]:
    """The complete messages of ``stream``, and how it ends: ``""`` or ``"cut off"``."""
    messages: list[Message] = []
    while stream:
        length = int.from_bytes(stream[:4], "big")
        if len(stream) < 10 or len(stream) < 10 + length:
            return messages, "cut off"
        stream_id = int.from_bytes(stream[4:8], "big")
        data = stream[10 : 10 + length] if length <= limit else None
        messages.append(Message(stream[8], stream_id, stream[9], length, data))
        stream = stream[10 + length :]
    return messages, ""


def joined(pieces: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Pieces of logical connections without the cuts in them: neighbours of one id made one, none empty."""
    result: list[tuple[int, bytes]] = []
    for connection_id, piece in pieces:
        if not piece:
            continue
        if result and result[-1][0] == connection_id:
            piece = result.pop()[1] + piece
        result.append((connection_id, piece))
    return result


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """``data`` in chunks of these sizes, over and over; in one when there are none, or all are zero."""
    if not any(sizes):
        return [data]
    chunks = []
    while data:
        for size in sizes:
            chunks.append(data[:size])
            data = data[size:]
    return chunks


def chunked(data: bytes) -> list[bytes]:
    """A fuzzer's input, cut as its first bytes say: how many sizes (0 to 3), the sizes, and then the data."""
    count = data[0] % 4 if data else 0
    return cut(data[1 + count :], list(data[1 : 1 + count]))
