"""Requests and responses as bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nri_sync.api.services import PARSE_ERRORS
from nri_sync.rpc import envelope_pb2
from nri_sync.rpc.envelope import (
    as_bytes,
    decode_payload,
    decode_request,
    encode_error,
    encode_success,
)
from nri_sync.rpc.status import Status
from nri_sync.wire.ttrpc import MESSAGE_MAX
from tests.ttrpc.rig import INTERNAL, RESOURCE_EXHAUSTED

__all__: list[str] = []


def join(header: bytes, payload: Any) -> list[Any]:
    return [header + bytes(payload)]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 2_097_151, 2_097_152])
def test_encode_success_equals_protobuf(size: int) -> None:
    payload = b"x" * size
    (data,) = encode_success(7, payload, join)
    assert data[10:] == envelope_pb2.Response(payload=payload).SerializeToString()
    assert data[:10] == len(data[10:]).to_bytes(4, "big") + b"\0\0\0\7\2\0"


def test_encode_error_equals_protobuf() -> None:
    (data,) = encode_error(7, Status(5, "gone"), join)
    message = envelope_pb2.Response()
    message.status.code = 5
    message.status.message = "gone"
    assert data[10:] == message.SerializeToString()


@pytest.mark.parametrize("excess", [0, 1])
def test_a_payload_may_fill_a_message(excess: int) -> None:
    # The tag and the length of the payload take five bytes.
    (data,) = encode_success(7, bytes(MESSAGE_MAX - 5 + excess), join)
    response = envelope_pb2.Response.FromString(bytes(data[10:]))
    if excess:
        assert response.status.code == RESOURCE_EXHAUSTED
        assert (
            response.status.message
            == "response of 4194305 bytes exceeds the 4194304 that ttRPC allows"
        )
    else:
        assert len(data) == 10 + MESSAGE_MAX
        assert len(response.payload) == MESSAGE_MAX - 5


@pytest.mark.parametrize("excess", [0, 1])
def test_details_may_fill_a_message(excess: int) -> None:
    status = Status(INTERNAL, "x" * (MESSAGE_MAX - 12 + excess))
    (data,) = encode_error(7, status, join)
    message = envelope_pb2.Response.FromString(bytes(data[10:])).status.message
    assert message == ("x" * 1000 + "..." if excess else status.details)
    assert (len(data) == 10 + MESSAGE_MAX) == (not excess)


REQUEST = envelope_pb2.Request(
    service="a.Service", method="Method", payload=b"x" * 1000, timeout_nano=2_000_000_000
)


def field(tag: int, data: bytes) -> bytes:
    return bytes((tag, len(data))) + data


class TestDecodeRequest:
    def test_the_payload_of_bytes(self) -> None:
        assert decode_request(REQUEST.SerializeToString()) == (REQUEST, b"x" * 1000)

    @pytest.mark.parametrize("metadata", [False, True])
    def test_the_payload_of_a_view_is_a_view(self, metadata: bool) -> None:
        expected = envelope_pb2.Request()
        expected.CopyFrom(REQUEST)
        if metadata:
            expected.metadata.add(key="key", value="value")
        data = memoryview(expected.SerializeToString())
        request, payload = decode_request(data)
        assert isinstance(payload, memoryview)
        assert payload.obj is data.obj
        assert payload == b"x" * 1000
        expected.payload = b""
        assert request == expected

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            field(0x0A, b"s"),
            field(0x0A, b"s") + field(0x12, b"m"),
            # Another order, and a field that this release does not know.
            field(0x1A, b"payload") + field(0x0A, b"s") + field(0x12, b"m"),
            field(0x3A, b"unknown") + field(0x0A, b"s") + field(0x12, b"m") + field(0x1A, b"p"),
            # The last payload counts, empty or with a tag of two bytes as well.
            field(0x0A, b"s") + field(0x12, b"m") + field(0x1A, b"p") + field(0x1A, b"q"),
            field(0x0A, b"s") + field(0x12, b"m") + field(0x1A, b"p") + field(0x1A, b""),
            field(0x0A, b"s") + field(0x12, b"m") + field(0x1A, b"p") + b"\x9a\x00\x01q",
        ],
    )
    def test_other_envelopes(self, data: bytes) -> None:
        request, payload = decode_request(memoryview(data))
        assert request == envelope_pb2.Request.FromString(data)
        assert payload == request.payload

    @pytest.mark.parametrize("data", [REQUEST.SerializeToString()[:-1], b"\x0a", b"\x0a\x05s"])
    def test_cut_off(self, data: bytes) -> None:
        for kind in (bytes, memoryview):
            with pytest.raises(PARSE_ERRORS):
                decode_request(kind(data))

    @given(
        st.lists(
            st.builds(
                field, st.sampled_from((0x0A, 0x12, 0x1A, 0x22, 0x2A)), st.binary(max_size=3)
            ),
            max_size=6,
        ).map(b"".join)
    )
    def test_a_view_is_read_as_bytes_are(self, data: bytes) -> None:
        try:
            expected = envelope_pb2.Request.FromString(data)
        except PARSE_ERRORS:
            with pytest.raises(PARSE_ERRORS):
                decode_request(memoryview(data))
            return
        request, payload = decode_request(memoryview(data))
        assert payload == expected.payload
        request.payload = expected.payload
        assert request == expected


@pytest.mark.parametrize("payload", [b"xy", bytearray(b"xy"), memoryview(b"xy")])
def test_bytes_like_payloads(payload: Any) -> None:
    assert as_bytes(payload) == b"xy"
    assert type(as_bytes(payload)) is bytes


@pytest.mark.parametrize("payload", [5, True, [1, 2], "text", None, object()])
def test_other_objects_are_no_payload(payload: Any) -> None:
    with pytest.raises(TypeError, match=f"is bytes, not {type(payload).__name__}"):
        as_bytes(payload)


def test_decoding_a_payload() -> None:
    assert decode_payload(b"5", None) == b"5"
    assert decode_payload(b"5", int) == 5
    assert decode_payload(b"0", int) == 0
    with pytest.raises(ValueError, match="invalid literal"):
        decode_payload(b"x", int)
    with pytest.raises(ValueError, match="returned None"):
        decode_payload(b"x", lambda data: None)
