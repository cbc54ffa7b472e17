"""ttRPC messages: byte literals, fed whole and one byte at a time, and random bytes from hypothesis."""

from __future__ import annotations

import errno
import mmap
import tracemalloc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nri_sync.errors import LocalProtocolError
from nri_sync.wire import ttrpc
from nri_sync.wire.ttrpc import (
    DATA,
    HEADER_LENGTH,
    MESSAGE_MAX,
    REQUEST,
    RESPONSE,
    Message,
    MessageDecoder,
    encode_header,
)
from tests.fuzz.fuzz_ttrpc import LIMIT, decode, one_input
from tests.wire.models import cut, parse_messages

MIB = 1 << 20
# Other threads of the test's process may allocate memory meanwhile.
SLACK = 64 * 1024


def test_numbers_of_the_protocol() -> None:
    assert (REQUEST, RESPONSE, DATA) == (1, 2, 3)
    assert (ttrpc.REMOTE_CLOSED, ttrpc.REMOTE_OPEN, ttrpc.NO_DATA) == (1, 2, 4)
    assert (HEADER_LENGTH, MESSAGE_MAX) == (10, 4 * MIB)


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"", []),
        (b"\x00\x00\x00\x03\x00\x00\x00\x01\x01\x00abc", [Message(1, 1, 0, 3, b"abc")]),
        (b"\x00\x00\x00\x02\xff\xfe\xfd\xfc\x02\x00hi", [Message(2, 0xFFFEFDFC, 0, 2, b"hi")]),
        (b"\x00\x00\x00\x01\x00\x00\x00\x05\x03\x01x", [Message(3, 5, 1, 1, b"x")]),
        pytest.param(
            b"\x00\x00\x00\x00\x00\x00\x00\x01\x02\x00", [Message(2, 1, 0, 0, b"")], id="no data"
        ),
        pytest.param(
            b"\x00\x00\x00\x01\x00\x00\x00\x00\xff\xffx",
            [Message(255, 0, 255, 1, b"x")],
            id="a type that nobody knows",
        ),
        pytest.param(
            b"\x00\x00\x00\x02\x00\x00\x00\x01\x01\x02ab"
            b"\x00\x00\x00\x00\x00\x00\x00\x01\x03\x05"
            b"\x00\x00\x00\x03\x00\x00\x00\x03\x01\x00cde",
            [Message(1, 1, 2, 2, b"ab"), Message(3, 1, 5, 0, b""), Message(1, 3, 0, 3, b"cde")],
            id="several",
        ),
    ],
)
@pytest.mark.parametrize("size", [0, 1, 9, 10, 11])
def test_messages_are_taken_apart(stream: bytes, expected: list[Message], size: int) -> None:
    assert decode(cut(stream, [size])) == (expected, "")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [0, 1])
def test_messages_own_their_data(kind: Any, size: int) -> None:
    buffer = bytearray(b"\x00\x00\x00\x03\x00\x00\x00\x01\x01\x00abc")
    decoder = MessageDecoder()
    messages = [
        message for chunk in cut(bytes(buffer), [size]) for message in decoder.receive(kind(chunk))
    ]
    buffer[:] = bytes(len(buffer))
    assert messages == [Message(1, 1, 0, 3, b"abc")]


def test_a_buffer_may_be_used_again_for_the_next_chunk() -> None:
    decoder, buffer = MessageDecoder(), bytearray(4)
    messages: list[Message] = []
    for chunk in cut(b"\x00\x00\x00\x05\x00\x00\x00\x01\x01\x00abcde", [4]):
        buffer[: len(chunk)] = chunk
        messages += decoder.receive(memoryview(buffer)[: len(chunk)])
    assert messages == [Message(1, 1, 0, 5, b"abcde")]


@pytest.mark.parametrize("arrived", range(1, 13))
def test_the_stream_must_not_end_inside_a_message(arrived: int) -> None:
    stream = b"\x00\x00\x00\x03\x00\x00\x00\x01\x01\x00abc"
    decoder = MessageDecoder()
    assert list(decoder.receive(stream[:arrived])) == []
    assert decoder.inside
    assert list(decoder.receive(stream[arrived:])) == [Message(1, 1, 0, 3, b"abc")]
    assert not decoder.inside


def test_the_stream_must_not_end_inside_a_skipped_message() -> None:
    decoder = MessageDecoder(4)
    assert list(decoder.receive(b"\x00\x00\x00\x05\x00\x00\x00\x01\x01\x00abcd")) == []
    assert decoder.inside
    assert list(decoder.receive(b"e")) == [Message(1, 1, 0, 5, None)]
    assert not decoder.inside


class TestLimit:
    @pytest.mark.parametrize("size", [0, 1, 10, 11])
    def test_exactly_the_most_and_one_more(self, size: int) -> None:
        stream = (
            b"\x00\x00\x00\x04\x00\x00\x00\x01\x01\x00abcd"
            b"\x00\x00\x00\x05\x00\x00\x00\x03\x01\x02abcde"
            b"\x00\x00\x00\x01\x00\x00\x00\x05\x01\x00x"
        )
        decoder = MessageDecoder(4)
        assert [m for chunk in cut(stream, [size]) for m in decoder.receive(chunk)] == [
            Message(1, 1, 0, 4, b"abcd"),
            Message(1, 3, 2, 5, None),
            Message(1, 5, 0, 1, b"x"),
        ]

    @pytest.mark.parametrize("size", [0, 1 << 16])
    @pytest.mark.parametrize("extra", [0, 1])
    def test_is_4_mib_by_default(self, extra: int, size: int) -> None:
        data = bytes(MESSAGE_MAX + extra)
        stream = (MESSAGE_MAX + extra).to_bytes(4, "big") + b"\x00\x00\x00\x01\x01\x00" + data
        expected = Message(1, 1, 0, MESSAGE_MAX + extra, None if extra else data)
        assert decode(cut(stream, [size]), MESSAGE_MAX) == ([expected], "")

    def test_a_claim_of_4_gib_is_skipped_to_its_end(self) -> None:
        decoder, chunk = MessageDecoder(), bytes(16 * MIB)
        assert list(decoder.receive(b"\xff\xff\xff\xff\x00\x00\x00\x01\x01\x00")) == []
        for _ in range(255):
            assert list(decoder.receive(chunk)) == []
        assert list(decoder.receive(chunk[1:])) == [Message(1, 1, 0, 0xFFFFFFFF, None)]
        assert not decoder.inside

    @pytest.mark.parametrize(
        "size", [4096, 65536, MESSAGE_MAX + 10], ids=["small", "medium", "longest frames"]
    )
    def test_an_oversized_message_takes_no_memory(self, size: int) -> None:
        chunk = bytes(size)
        with traced() as peak:
            decoder, left = MessageDecoder(), 64 * MIB
            messages = list(decoder.receive(left.to_bytes(4, "big") + b"\x00\x00\x00\x01\x01\x00"))
            while left:
                messages += decoder.receive(chunk[:left] if left < size else chunk)
                left -= min(left, size)
            assert messages == [Message(1, 1, 0, 64 * MIB, None)]
            assert peak() < SLACK + (size if 64 * MIB % size else 0)

    @pytest.mark.parametrize("views", [False, True])
    @pytest.mark.parametrize("size", [1000, 65536])
    def test_a_message_takes_its_length(self, size: int, views: bool) -> None:
        data = bytes(MESSAGE_MAX)
        chunks = [data[at : at + size] for at in range(0, MESSAGE_MAX, size)]
        with traced() as peak:
            decoder = MessageDecoder(views=views)
            for _ in range(3):
                messages = list(decoder.receive(b"\x00\x40\x00\x00\x00\x00\x00\x01\x01\x00"))
                for chunk in chunks:
                    messages += decoder.receive(chunk)
                assert [message.length for message in messages] == [MESSAGE_MAX]
                del messages
            # Plus an eighth, during the last growth of the buffer.
            assert MESSAGE_MAX <= peak() < MESSAGE_MAX * 9 // 8 + SLACK

    @pytest.mark.parametrize("arrived", [0, 1, 65536, 65537, 524288, 524289])
    @pytest.mark.parametrize("views", [False, True])
    def test_a_claimed_length_takes_eight_times_the_arrived_bytes(
        self, arrived: int, views: bool
    ) -> None:
        """An allocator that clears a recycled block touches its pages, and may keep them."""
        chunk = bytes(4096)
        with traced() as peak:
            decoder = MessageDecoder(views=views)
            assert list(decoder.receive(b"\x00\x40\x00\x00\x00\x00\x00\x01\x01\x00")) == []
            for at in range(0, arrived, len(chunk)):
                assert list(decoder.receive(chunk[: arrived - at])) == []
            assert peak() < max(65536, 9 * arrived) + SLACK

    @pytest.mark.parametrize("length", [65535, 65536, 65537, 524288, 524289, MESSAGE_MAX])
    @pytest.mark.parametrize("size", [1000, 65536, 65541, 300_000])
    def test_a_message_whose_buffer_grows(self, length: int, size: int) -> None:
        data = (b"0123456789abcdef!" * (length // 17 + 1))[:length]
        stream = length.to_bytes(4, "big") + b"\x00\x00\x00\x01\x01\x00" + data
        expected = [Message(1, 1, 0, length, data)] * 2
        chunks = cut(stream + stream, [size])
        assert decode(chunks, MESSAGE_MAX) == (expected, "")
        decoder = MessageDecoder(views=True)
        assert [message for chunk in chunks for message in decoder.receive(chunk)] == expected


def test_a_large_message_is_a_view_of_memory_that_is_not_used_again() -> None:
    size = 300_000
    stream = size.to_bytes(4, "big") + b"\x00\x00\x00\x01\x01\x00"
    decoder = MessageDecoder(views=True)
    messages: list[Message] = []
    for letter in (b"a", b"b"):
        for chunk in cut(stream + letter * size, [65536]):
            messages += decoder.receive(chunk)
    first, second = messages
    assert isinstance(first.data, memoryview)
    assert isinstance(second.data, memoryview)
    assert (bytes(first.data), bytes(second.data)) == (b"a" * size, b"b" * size)


def test_a_kernel_without_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mapping(mmap.mmap):
        def madvise(self, *_: Any) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(mmap, "mmap", Mapping)
    decoder = MessageDecoder(views=True)
    messages: list[Message] = []
    for chunk in cut(b"\x00\x20\x00\x00\x00\x00\x00\x01\x01\x00" + bytes(2 * MIB), [65536]):
        messages += decoder.receive(chunk)
    (message,) = messages
    assert isinstance(message.data, memoryview)
    assert isinstance(message.data.obj, Mapping)
    assert message == Message(1, 1, 0, 2 * MIB, bytes(2 * MIB))


class traced:
    """Counts memory. ``peak()`` is the largest number of bytes that were allocated or mapped at one time."""

    def __enter__(self) -> Any:
        traced = self

        class Mapping(mmap.mmap):
            def __init__(self, *_: object) -> None:
                traced.look()
                traced.mapped += len(self)
                weakref.finalize(self, traced.unmapped, len(self))
                traced.look()

        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(mmap, "mmap", Mapping)
        self.mapped = self.most = 0
        tracemalloc.start()
        return self.peak

    def unmapped(self, size: int) -> None:
        self.look()
        self.mapped -= size

    def look(self) -> None:
        """Note the peak until now, and start a new one."""
        self.most = max(self.most, tracemalloc.get_traced_memory()[1] + self.mapped)
        tracemalloc.reset_peak()

    def peak(self) -> int:
        self.look()
        return self.most

    def __exit__(self, *_: object) -> None:
        tracemalloc.stop()
        self.patch.undo()


class TestEncodeHeader:
    def test_fields(self) -> None:
        assert encode_header(RESPONSE, 5, 0, 3) == b"\x00\x00\x00\x03\x00\x00\x00\x05\x02\x00"
        assert encode_header(3, 0xFFFFFFFF, 5, 0) == b"\x00\x00\x00\x00\xff\xff\xff\xff\x03\x05"

    def test_exactly_the_most(self) -> None:
        header = encode_header(REQUEST, 1, 0, MESSAGE_MAX)
        assert header == b"\x00\x40\x00\x00\x00\x00\x00\x01\x01\x00"
        assert len(header) == HEADER_LENGTH

    @pytest.mark.parametrize("length", [MESSAGE_MAX + 1, 1 << 32])
    def test_more_is_refused(self, length: int) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            encode_header(REQUEST, 1, 0, length)
        assert str(length) in str(caught.value)
        assert str(MESSAGE_MAX) in str(caught.value)


MESSAGES = st.lists(
    st.tuples(
        st.integers(0, 255),
        st.integers(0, 0xFFFFFFFF),
        st.integers(0, 255),
        st.binary(max_size=2 * LIMIT),
    )
)


@given(MESSAGES, st.lists(st.integers(0, 30), max_size=5), st.integers(0, 12))
def test_the_cuts_of_a_stream_do_not_matter(
    messages: list[tuple[int, int, int, bytes]], sizes: list[int], missing: int
) -> None:
    stream = b"".join(
        encode_header(type, stream_id, flags, len(data)) + data
        for type, stream_id, flags, data in messages
    )
    stream = stream[: len(stream) - missing]
    assert decode(cut(stream, sizes)) == parse_messages(stream, LIMIT)


@given(st.binary(max_size=200))
@example(b"\x00" + b"\xff" * 30)
def test_any_bytes_are_messages(data: bytes) -> None:
    one_input(data)


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20))
def test_any_bytes_stay_within_the_bound(chunks: list[bytes]) -> None:
    limit = 1_000_000
    decoder = MessageDecoder(limit)
    with traced() as peak:
        # Claims just below the limit, with little data, which is received into 64 KiB.
        for chunk in [(limit - 1).to_bytes(4, "big"), *chunks]:
            for message in decoder.receive(chunk):
                del message
        assert peak() < 65536 + SLACK


def test_events_come_as_they_are_asked_for() -> None:
    events: Iterator[Message] = MessageDecoder().receive(encode_header(1, 1, 0, 0) * 2)
    assert next(events).stream_id == 1
    assert next(events).stream_id == 1
    assert next(events, None) is None
