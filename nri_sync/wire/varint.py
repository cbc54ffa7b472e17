"""The variable-length integers of protobuf: seven bits a byte, the lowest first. The last byte has no high bit.

Source: the "Encoding" page of protobuf's documentation.
"""

from __future__ import annotations

__all__ = ["decode_varint", "encode_varint"]


def encode_varint(value: int, length: int = 1) -> bytes:
    """The bytes of a non-negative number. They are padded to at least ``length`` bytes."""
    encoded = bytearray()
    while value > 0x7F or len(encoded) < length - 1:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def decode_varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """The number at ``position``, and the position after it.

    Raises:
        ValueError: the data ends inside the number, or the number is longer than protobuf allows.
    """
    try:
        value = data[position]
        position += 1
        if value < 0x80:
            return value, position
        value &= 0x7F
        # Ten bytes hold 64 bits.
        for shift in range(7, 70, 7):
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
    except IndexError:
        raise ValueError("the data ends inside a number") from None
    raise ValueError("a number has more than ten bytes")
