"""The mux: byte literals, fed whole and one byte at a time, and random bytes from hypothesis."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nri_sync.errors import RemoteProtocolError
from nri_sync.wire.mux import (
    FIRST_FRAME_MAX,
    FRAME_PAYLOAD_MAX,
    PLUGIN_SERVICE,
    RUNTIME_SERVICE,
    FrameDecoder,
    decode_whole,
    frame_message,
)
from nri_sync.wire.ttrpc import HEADER_LENGTH, MESSAGE_MAX, Message, MessageDecoder, encode_header
from tests.fuzz.fuzz_mux import decode, one_input
from tests.wire.models import cut, joined, parse_frames

TEN = b"0123456789"


def take(decoder: FrameDecoder, data: bytes) -> list[tuple[int, bytes]]:
    return [(connection_id, bytes(piece)) for connection_id, piece in decoder.receive(data)]


@pytest.mark.parametrize(
    ("trunk", "expected"),
    [
        (b"", []),
        (b"\x00\x00\x00\x01\x00\x00\x00\x03abc", [(1, b"abc")]),
        (b"\x00\x00\x00\x02\x00\x00\x00\x01x", [(2, b"x")]),
        (b"\xff\xfe\xfd\xfc\x00\x00\x00\x02hi", [(0xFFFEFDFC, b"hi")]),
        pytest.param(b"\x00\x00\x00\x00\x00\x00\x00\x01x", [(0, b"x")], id="the reserved id 0"),
        pytest.param(b"\x00\x00\x00\x01\x00\x00\x00\x00", [], id="an empty frame"),
        pytest.param(
            b"\x00\x00\x00\x01\x00\x00\x00\x00" * 150 + b"\x00\x00\x00\x01\x00\x00\x00\x01x",
            [(1, b"x")],
            id="many empty frames",
        ),
        pytest.param(
            b"\x00\x00\x00\x01\x00\x00\x00\x02ab"
            b"\x00\x00\x00\x02\x00\x00\x00\x02cd"
            b"\x00\x00\x00\x01\x00\x00\x00\x00"
            b"\x00\x00\x00\x01\x00\x00\x00\x02ef",
            [(1, b"ab"), (2, b"cd"), (1, b"ef")],
            id="two connections in turn",
        ),
    ],
)
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9])
def test_frames_are_taken_apart(trunk: bytes, expected: list[tuple[int, bytes]], size: int) -> None:
    pieces, end = decode(cut(trunk, [size]))
    assert joined(pieces) == expected
    assert end == ""


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_pieces_are_views_of_the_received_bytes(kind: Any) -> None:
    data = kind(b"\x00\x00\x00\x01\x00\x00\x00\x03abc\x00\x00\x00\x02\x00\x00\x00\x02de")
    owner = data.obj if isinstance(data, memoryview) else data
    pieces = list(FrameDecoder().receive(data))
    assert [(connection_id, bytes(piece)) for connection_id, piece in pieces] == [
        (1, b"abc"),
        (2, b"de"),
    ]
    assert all(piece.obj is owner for _, piece in pieces)


def test_a_payload_is_handed_on_as_it_arrives() -> None:
    decoder = FrameDecoder()
    assert take(decoder, b"\x00\x00\x00\x01\x00\x00\x00\x05ab") == [(1, b"ab")]
    assert take(decoder, b"") == []
    assert take(decoder, b"cde\x00\x00") == [(1, b"cde")]
    assert take(decoder, b"\x00\x02\x00\x00\x00\x01x") == [(2, b"x")]
    assert not decoder.inside


@pytest.mark.parametrize("arrived", range(1, 13))
def test_the_trunk_must_not_end_inside_a_frame(arrived: int) -> None:
    frame = b"\x00\x00\x00\x01\x00\x00\x00\x05abcde"
    decoder = FrameDecoder()
    take(decoder, frame[:arrived])
    assert decoder.inside
    take(decoder, frame[arrived:])
    assert not decoder.inside


def test_the_longest_frame_is_a_whole_message() -> None:
    assert FRAME_PAYLOAD_MAX == MESSAGE_MAX + HEADER_LENGTH == 4194314


def test_the_longest_frame_is_accepted() -> None:
    payload = bytes(FRAME_PAYLOAD_MAX)
    decoder = FrameDecoder()
    received = take(decoder, b"\x00\x00\x00\x01\x00\x40\x00\x0a" + payload + b"\x00\x00")
    assert received == [(1, payload)]


@pytest.mark.parametrize(
    "length", [b"\x00\x40\x00\x0b", b"\xff\xff\xff\xff"], ids=["one more", "4 GiB"]
)
@pytest.mark.parametrize("connection_id", [0, PLUGIN_SERVICE, RUNTIME_SERVICE, 77])
def test_a_longer_frame_is_refused_after_the_earlier_bytes(
    connection_id: int, length: bytes
) -> None:
    trunk = (
        b"\x00\x00\x00\x01\x00\x00\x00\x03abc"
        + connection_id.to_bytes(4, "big")
        + length
        + b"\x00\x00\x00\x01\x00\x00\x00\x01x"
    )
    for size in (0, 1):
        pieces, end = decode(cut(trunk, [size]))
        assert (joined(pieces), end) == ([(1, b"abc")], "too long")


def test_a_refusal_names_the_connection_and_both_lengths() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        list(FrameDecoder().receive(b"\x00\x00\x00\x07\x00\x40\x00\x0b"))
    for number in ("connection 7", "4194315", "4194314"):
        assert number in str(caught.value)


def test_a_claim_allocates_nothing() -> None:
    decoder = FrameDecoder()
    tracemalloc.start()
    try:
        take(decoder, b"\x00\x00\x00\x01\x00\x40\x00\x0a")
        for byte in bytes(2000):
            for _ in decoder.receive(bytes((byte,))):
                pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Other threads of the test's process may allocate memory meanwhile. The claim is of 4 MiB.
    assert peak < 64 * 1024


class TestDecodeWhole:
    def test_one_message_in_one_frame(self) -> None:
        (trunk,) = frame_message(7, encode_header(1, 5, 2, 3), b"abc")
        assert decode_whole(memoryview(trunk)) == (7, Message(1, 5, 2, 3, b"abc"))

    def test_an_empty_message(self) -> None:
        (trunk,) = frame_message(7, encode_header(3, 5, 2, 0), b"")
        assert decode_whole(memoryview(trunk)) == (7, Message(3, 5, 2, 0, b""))

    @pytest.mark.parametrize("framed", [12, 13, 14])
    @pytest.mark.parametrize("length", [2, 3, 4])
    def test_nothing_else(self, framed: int, length: int) -> None:
        trunk = struct.pack(">IIIIBB", 7, framed, length, 5, 1, 0) + b"abc"
        found = decode_whole(memoryview(trunk))
        assert (found is not None) is (framed == 13 and length == 3)

    def test_nor_the_start_of_a_header(self) -> None:
        (trunk,) = frame_message(7, encode_header(3, 5, 2, 0), b"")
        assert not any(decode_whole(memoryview(trunk[:size])) for size in range(len(trunk)))

    def test_nor_a_message_that_is_too_long(self) -> None:
        size = MESSAGE_MAX + 1
        headers = struct.pack(">IIIIBB", 7, size + HEADER_LENGTH, size, 5, 1, 0)
        assert decode_whole(memoryview(headers + bytes(size))) is None


class TestFrameMessage:
    def test_a_short_message_is_one_frame(self) -> None:
        assert frame_message(1, TEN, b"data") == [
            b"\x00\x00\x00\x01\x00\x00\x00\x0e" + TEN + b"data"
        ]

    def test_a_message_may_be_empty(self) -> None:
        assert frame_message(2, TEN, b"") == [b"\x00\x00\x00\x02\x00\x00\x00\x0a" + TEN]

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    @pytest.mark.parametrize(
        ("size", "frames"),
        [
            (4095, [4095]),
            (4096, [4096]),
            (4097, [4096, 1]),
            (9021, [4096, 4925]),
            (MESSAGE_MAX + 10, [4096, MESSAGE_MAX + 10 - 4096]),
            (FRAME_PAYLOAD_MAX + 4096, [4096, FRAME_PAYLOAD_MAX]),
        ],
    )
    def test_shapes(self, size: int, frames: list[int], kind: Any) -> None:
        payload = kind(bytes(range(256)) * (size // 256 + 1))[: size - 10]
        trunk = b"".join(frame_message(1, TEN, payload))
        parsed, end = parse_frames(trunk)
        assert end == ""
        assert [len(frame) for _, frame in parsed] == frames
        assert {connection_id for connection_id, _ in parsed} == {1}
        assert b"".join(frame for _, frame in parsed) == TEN + bytes(payload)

    def test_first_frame(self) -> None:
        assert FIRST_FRAME_MAX == 4096

    def test_a_long_payload_is_not_copied(self) -> None:
        payload = bytes(1_000_000)
        first, rest = frame_message(1, TEN, payload)
        assert len(first) == 8 + 4096 + 8
        assert isinstance(rest, memoryview)
        assert rest.obj is payload

    def test_every_encoded_message_can_be_framed(self) -> None:
        payload = bytes(MESSAGE_MAX)
        trunk = b"".join(frame_message(1, encode_header(2, 1, 0, MESSAGE_MAX), payload))
        messages = MessageDecoder()
        received = [
            message
            for _, piece in FrameDecoder().receive(trunk)
            for message in messages.receive(piece)
        ]
        assert received == [Message(2, 1, 0, MESSAGE_MAX, payload)]


FRAMES = st.lists(
    st.tuples(st.integers(0, 0xFFFFFFFF), st.one_of(st.binary(max_size=40), st.just(bytes(5000))))
)
SIZES = st.lists(st.integers(0, 30), max_size=5)


@given(FRAMES, SIZES, st.integers(0, 12))
def test_the_cuts_of_a_trunk_do_not_matter(
    frames: list[tuple[int, bytes]], sizes: list[int], missing: int
) -> None:
    trunk = b"".join(
        connection_id.to_bytes(4, "big") + len(payload).to_bytes(4, "big") + payload
        for connection_id, payload in frames
    )
    trunk = trunk[: len(trunk) - missing]
    parsed, end = parse_frames(trunk)
    pieces, actual_end = decode(cut(trunk, sizes))
    assert (joined(pieces), actual_end) == (joined(parsed), end)


@given(st.binary(max_size=200))
@example(b"\x01\x01" + b"\xff" * 8)
def test_any_bytes_are_pieces_or_a_protocol_error(data: bytes) -> None:
    one_input(data)


@given(
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 20_000),
    st.lists(st.integers(0, 5000), max_size=4),
)
def test_framed_messages_come_out_again(connection_id: int, size: int, sizes: list[int]) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    trunk = b"".join(frame_message(connection_id, TEN, payload[:size]))
    pieces, end = decode(cut(trunk, sizes))
    assert (joined(pieces), end) == ([(connection_id, TEN + payload[:size])], "")
