"""Responses as bytes."""

from __future__ import annotations

from typing import Any

import pytest

from nri_sync.rpc import envelope_pb2
from nri_sync.rpc.envelope import encode_error, encode_success
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
