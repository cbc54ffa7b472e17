"""Fuzz target: arbitrary bytes, in arbitrary chunks, through the ttRPC message decoder."""

from __future__ import annotations

from nri_sync.wire.ttrpc import Message, MessageDecoder, encode_header
from tests.wire.models import chunked, parse_messages

__all__ = ["LIMIT", "decode", "one_input"]

#: Small, so that a fuzzer's short inputs are below it and above it.
LIMIT = 32


def decode(chunks: list[bytes], limit: int = LIMIT) -> tuple[list[Message], str]:
    """The decoder's result for a stream, in the terms of the model."""
    decoder = MessageDecoder(limit)
    messages = [message for chunk in chunks for message in decoder.receive(chunk)]
    # Check the types, too: older releases of protobuf parse only bytes.
    assert {type(message.data) for message in messages} <= {bytes, type(None)}
    return messages, "cut off" if decoder.inside else ""


def one_input(data: bytes) -> None:
    chunks = chunked(data)
    messages, end = decode(chunks)
    assert (messages, end) == parse_messages(b"".join(chunks), LIMIT)
    for message in messages:
        if message.data is not None:
            again = encode_header(message.type, message.stream_id, message.flags, message.length)
            assert decode([again + message.data]) == ([message], "")
