"""Fuzz target: arbitrary bytes, in arbitrary chunks, through the mux decoder; and messages framed and decoded."""

from __future__ import annotations

from nri_sync.errors import RemoteProtocolError
from nri_sync.wire.mux import FrameDecoder, frame_message
from tests.wire.models import chunked, joined, parse_frames

__all__ = ["decode", "one_input"]


def decode(chunks: list[bytes]) -> tuple[list[tuple[int, bytes]], str]:
    """The decoder's result for a trunk, in the terms of the model."""
    decoder = FrameDecoder()
    pieces: list[tuple[int, bytes]] = []
    try:
        for chunk in chunks:
            for connection_id, piece in decoder.receive(chunk):
                assert len(piece), "an empty piece says nothing"
                pieces.append((connection_id, bytes(piece)))
    except RemoteProtocolError:
        return pieces, "too long"
    return pieces, "cut off" if decoder.inside else ""


def one_input(data: bytes) -> None:
    chunks = chunked(data)
    trunk = b"".join(chunks)
    pieces, end = decode(chunks)
    expected, expected_end = parse_frames(trunk)
    assert (joined(pieces), end) == (joined(expected), expected_end)

    header, payload = trunk[:10], trunk[10:]
    pieces, end = decode([bytes(buffer) for buffer in frame_message(7, header, payload)])
    assert (joined(pieces), end) == (joined([(7, trunk)]), "")
