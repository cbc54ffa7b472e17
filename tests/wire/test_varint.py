"""The variable-length integers of protobuf."""

from __future__ import annotations

import pytest
from google.protobuf.wrappers_pb2 import UInt64Value
from hypothesis import given
from hypothesis import strategies as st

from nri_sync.wire.varint import decode_varint, encode_varint

__all__: list[str] = []

NUMBERS = [
    0,
    1,
    127,
    128,
    255,
    16383,
    16384,
    (1 << 21) - 1,
    1 << 21,
    1 << 28,
    1 << 63,
    (1 << 64) - 1,
]


@pytest.mark.parametrize("number", NUMBERS)
def test_as_protobuf_writes_it(number: int) -> None:
    message = UInt64Value(value=number).SerializeToString()
    # protobuf does not write a field with the value 0.
    assert encode_varint(number) == (message[1:] or b"\0")


@given(st.integers(0, (1 << 64) - 1), st.integers(1, 10), st.binary(max_size=3))
def test_a_number_is_decoded_to_itself(number: int, length: int, before: bytes) -> None:
    encoded = encode_varint(number, length)
    assert len(encoded) >= length
    assert decode_varint(before + encoded + b"\xff", len(before)) == (number, len(before + encoded))


@pytest.mark.parametrize("length", range(1, 10))
def test_an_encoding_with_padding_bytes(length: int) -> None:
    assert len(encode_varint(1, length)) == length
    assert UInt64Value.FromString(b"\x08" + encode_varint(1, length)).value == 1


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 9])
def test_cut_off(data: bytes) -> None:
    with pytest.raises(ValueError, match="ends inside"):
        decode_varint(data, 0)


@pytest.mark.parametrize("length", [10, 11, 1000])
def test_too_long(length: int) -> None:
    with pytest.raises(ValueError, match="more than ten bytes"):
        decode_varint(b"\xff" * length, 0)
