"""Payloads, and the envelopes around them; responses with the header of ttRPC, as they travel on the link."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, Optional, Union

from nri_sync.codes import StatusCode
from nri_sync.net.link import Buffer
from nri_sync.rpc import envelope_pb2
from nri_sync.rpc.status import Status
from nri_sync.wire.ttrpc import MESSAGE_MAX, RESPONSE, Data, encode_header
from nri_sync.wire.varint import decode_varint, encode_varint

__all__ = [
    "Framing",
    "Metadata",
    "as_bytes",
    "decode_payload",
    "decode_request",
    "encode_error",
    "encode_request",
    "encode_success",
    "oversized",
]

#: Pairs of a key and its value, which travel with a request.
Metadata = Optional[Sequence[tuple[str, Union[str, bytes]]]]

#: Puts a message (its header and payload) into the shape in which it travels on the link.
Framing = Callable[[bytes, Union[bytes, bytearray, memoryview]], list[Buffer]]

_PAYLOAD_TAG = b"\x12"  # field 2 of the Response envelope, length-delimited
# The tags of a request's service, method and payload, in the order in which every known client sends them.
_REQUEST_TAGS = (0x0A, 0x12, 0x1A)
# The tag of a payload begins with one of these bytes. Other bytes of an envelope may look like it.
_PAYLOAD_TAGS = (b"\x1a", b"\x9a")


def as_bytes(payload: object) -> bytes:
    """The payload that a serializer, or an application without one, has given.

    Raises TypeError unless it is bytes-like: ``bytes(5)`` would be five zeros.
    """
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, (bytearray, memoryview)):
        return bytes(payload)
    raise TypeError(
        f"a message without a serializer, or out of one, is bytes, not {type(payload).__name__}"
    )


def decode_payload(payload: Any, deserialize: Callable[[Any], Any] | None) -> Any:
    """The message in a payload. Raises the exception of ``deserialize``, and ValueError if it returns None."""
    if deserialize is None:
        return payload
    message = deserialize(payload)
    if message is None:
        raise ValueError("the deserializer returned None")
    return message


def encode_request(method: str, payload: bytes, metadata: Metadata, timeout: float | None) -> bytes:
    """The envelope of a request, without a header. ``timeout`` is in seconds.

    Raises ValueError for metadata of bytes, and TypeError for metadata that is neither text nor bytes.
    """
    service, _, name = method.lstrip("/").rpartition("/")
    request = envelope_pb2.Request(service=service, method=name, payload=payload)
    for key, value in metadata or ():
        if not isinstance(value, str):
            error = ValueError if type(value) is bytes else TypeError
            raise error(f"ttRPC metadata values are text; {key!r} is {type(value).__name__}")
        request.metadata.add(key=key, value=value)
    if timeout is not None:
        request.timeout_nano = max(1, int(timeout * 1e9))
    return request.SerializeToString()


def decode_request(data: Data) -> tuple[envelope_pb2.Request, Data]:
    """The envelope of a request, and the payload. The payload in a view is a view, if the envelope is a usual one.

    Raises the exceptions of ``FromString()``.
    """
    if isinstance(data, memoryview):
        found = _payload_in(data)
        if found is not None:
            begin, start, end = found
            rest = bytes(data[end:])
            if not any(tag in rest for tag in _PAYLOAD_TAGS):
                return envelope_pb2.Request.FromString(bytes(data[:begin]) + rest), data[start:end]
    request = envelope_pb2.Request.FromString(bytes(data))
    return request, request.payload


def _payload_in(data: memoryview) -> tuple[int, int, int] | None:
    """Where the field with the payload begins, where its content does, and where both end."""
    begin = start = end = 0
    for expected in _REQUEST_TAGS:
        begin = end
        try:
            tag, position = decode_varint(data, begin)
            length, start = decode_varint(data, position)
        except ValueError:
            return None
        end = start + length
        if tag != expected or end > len(data):
            return None
    return begin, start, end


def encode_success(stream_id: int, payload: bytes, frame: Framing) -> list[Buffer]:
    """A response with a payload and no status. The envelope is written around the payload, not copied.

    A payload too large for a message is answered for with RESOURCE_EXHAUSTED.
    """
    envelope = _PAYLOAD_TAG + encode_varint(len(payload)) if payload else b""
    length = len(envelope) + len(payload)
    if length > MESSAGE_MAX:
        return encode_error(stream_id, oversized("response", length), frame)
    return frame(encode_header(RESPONSE, stream_id, 0, length) + envelope, payload)


def oversized(what: str, length: int) -> Status:
    """Why a message of that length is not sent."""
    text = f"{what} of {length} bytes exceeds the {MESSAGE_MAX} that ttRPC allows"
    return Status(StatusCode.RESOURCE_EXHAUSTED, text)


def encode_error(stream_id: int, status: Status, frame: Framing) -> list[Buffer]:
    """A response with an error status."""
    data = envelope_pb2.Response(status=status.to_message()).SerializeToString()
    if len(data) > MESSAGE_MAX:
        return encode_error(stream_id, Status(status.number, status.details[:1000] + "..."), frame)
    return frame(encode_header(RESPONSE, stream_id, 0, len(data)), data)
