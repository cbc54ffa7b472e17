"""Simple implementations of the wire formats, which the tests compare with the decoders.

Each function takes a whole byte string: it has no state between calls, and skips and cuts nothing.
"""

from __future__ import annotations

from nri_sync.wire.mux import FRAME_PAYLOAD_MAX
from nri_sync.wire.ttrpc import MESSAGE_MAX, Message

__all__ = ["chunked", "cut", "joined", "parse_frames", "parse_messages"]


def parse_frames(trunk: bytes) -> tuple[list[tuple[int, bytes]], str]:
    """The frames of ``trunk`` with their ids, and its end: ``""``, ``"cut off"`` or ``"too long"``."""
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
    """The complete messages of ``stream``, and the state at its end: ``""`` or ``"cut off"``."""
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
    """Pieces of logical connections: adjacent pieces of one id are joined, and empty ones dropped."""
    result: list[tuple[int, bytes]] = []
    for connection_id, piece in pieces:
        if not piece:
            continue
        if result and result[-1][0] == connection_id:
            piece = result.pop()[1] + piece
        result.append((connection_id, piece))
    return result


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """``data`` in chunks of these sizes, repeated; in one chunk without sizes, or if all sizes are zero."""
    if not any(sizes):
        return [data]
    chunks = []
    while data:
        for size in sizes:
            chunks.append(data[:size])
            data = data[size:]
    return chunks


def chunked(data: bytes) -> list[bytes]:
    """The input of a fuzzer, cut by its first bytes: the number of sizes (0 to 3), the sizes, then the data."""
    count = data[0] % 4 if data else 0
    return cut(data[1 + count :], list(data[1 : 1 + count]))
