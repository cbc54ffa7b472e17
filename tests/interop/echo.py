"""The test service `nri_sync.testing.Echo` in Python: client and server, without generated code.

The Go implementation of the service is ttrpcpeer/server.go. All messages are protobuf's own wrappers.
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Iterator
from typing import Any, Callable, TypeVar

import grpc
from google.protobuf import struct_pb2
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BytesValue, Int64Value, StringValue

from nri_sync.rpc import envelope_pb2

__all__ = [
    "CALLERS",
    "CALLS",
    "LARGE_SIZES",
    "LARGE_TIMEOUT",
    "LOAD_TIMEOUT",
    "MAX_MESSAGE",
    "MIXED_SIZES",
    "PROMPTLY",
    "BytesValue",
    "Echo",
    "EchoService",
    "Empty",
    "Int64Value",
    "failure",
    "largest_echo",
    "numbered",
    "pattern",
]

SERVICE = "nri_sync.testing.Echo"
MAX_MESSAGE = 4 << 20


M = TypeVar("M", bound=Message)

_PERIOD = bytes((i * 7 + (i >> 8)) & 0xFF for i in range(1 << 16))


def pattern(size: int) -> bytes:
    """Content that reveals lost, repeated or misplaced bytes; the same as in server.go."""
    return (_PERIOD * (size // len(_PERIOD) + 1))[:size]


def numbered(number: int, size: int) -> bytes:
    """A payload that begins with its number, if there is room."""
    return (b"%d:" % number + pattern(size))[:size]


def largest_echo(reply: bool = False) -> int:
    """The size of the BytesValue whose Echo message is as long as a ttRPC message can be."""
    # The envelope has the payload; the envelope of a request also has the names of the service and the method. A
    # field of less than 128 bytes has 2 bytes before it. A large field has 1 byte and a length of 4 bytes.
    names = 0 if reply else 2 + len(SERVICE) + 2 + len("Echo")
    return MAX_MESSAGE - names - 5 - 5


CALLS = int(os.environ.get("NRI_SYNC_INTEROP_CALLS", "5000"))
CALLERS = 8
# A call takes well under a millisecond. The rest is for a machine with other load.
LOAD_TIMEOUT = 60.0 + CALLS / 250
# Sizes around which the form on the wire changes: nothing; the 4,096-byte buffer of a Go reader, minus the headers
# and names before a payload; and more than a socket's buffer holds.
MIXED_SIZES = [0, 1, 100, 1000, *range(4020, 4100, 7), 5000, 70_000]
LARGE_SIZES = [0, 1, 4096, 65_536, 262_144, 1 << 20, 3 << 20, largest_echo()]
# A time limit in seconds, longer than any answer takes, and shorter than a test may last.
PROMPTLY = 10.0
LARGE_TIMEOUT = 45.0


def failure(code: int, message: str, detail: str | None = None) -> struct_pb2.Struct:
    """The request of Fail."""
    request = struct_pb2.Struct()
    request.update({"code": code, "message": message})
    if detail is not None:
        request.update({"detail": detail})
    return request


class Echo:
    """The client: one callable for each method."""

    def __init__(self, channel: grpc.Channel) -> None:
        def unary(name: str, reply: type[Message]) -> Any:
            return channel.unary_unary(f"/{SERVICE}/{name}", _encode, reply.FromString)

        self.echo = unary("Echo", BytesValue)
        self.sized = unary("Sized", BytesValue)
        self.sleep = unary("Sleep", Int64Value)
        self.fail = unary("Fail", Empty)
        self.metadata = unary("Metadata", struct_pb2.Struct)
        self.nothing = unary("Nothing", Empty)
        self.plain = unary("Plain", Empty)
        self.die = unary("Die", Empty)
        self.no_such_method = unary("NoSuchMethod", Empty)
        self.no_such_service = channel.unary_unary(
            "/no.such.Service/Echo", _encode, Empty.FromString
        )
        self.sum = channel.stream_unary(f"/{SERVICE}/Sum", _encode, Int64Value.FromString)
        self.count = channel.unary_stream(f"/{SERVICE}/Count", _encode, Int64Value.FromString)
        self.count_then_fail = channel.unary_stream(
            f"/{SERVICE}/CountThenFail", _encode, Int64Value.FromString
        )
        self.chat = channel.stream_stream(f"/{SERVICE}/Chat", _encode, BytesValue.FromString)


def _encode(message: Message) -> bytes:
    return message.SerializeToString()


class EchoService:
    """The server. `seen` has the observations of Sleep's handlers, one dict for each call."""

    def __init__(self) -> None:
        self.seen: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.sleeping: queue.SimpleQueue[None] = queue.SimpleQueue()
        unary, encode = grpc.unary_unary_rpc_method_handler, _encode
        self.handler = grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Echo": unary(_echo, BytesValue.FromString, encode),
                "Sized": unary(_sized, Int64Value.FromString, encode),
                "Sleep": unary(self._sleep, Int64Value.FromString, encode),
                "Fail": unary(_fail, struct_pb2.Struct.FromString, encode),
                "Metadata": unary(_metadata, Empty.FromString, encode),
                "Plain": unary(_raising(ValueError("plain error")), Empty.FromString, encode),
                "NotImplemented": unary(
                    _raising(NotImplementedError("not yet")), Empty.FromString, encode
                ),
                "Sum": grpc.stream_unary_rpc_method_handler(_sum, Int64Value.FromString, encode),
                "Count": grpc.unary_stream_rpc_method_handler(
                    _count, Int64Value.FromString, encode
                ),
                "CountThenFail": grpc.unary_stream_rpc_method_handler(
                    _count_then_fail, Int64Value.FromString, encode
                ),
                "Chat": grpc.stream_stream_rpc_method_handler(_chat, BytesValue.FromString, encode),
            },
        )

    def _sleep(self, request: Int64Value, context: grpc.ServicerContext) -> Int64Value:
        left = context.time_remaining()
        ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        still_there = context.add_callback(lambda: ended.put(None))
        self.sleeping.put(None)
        began = time.monotonic()
        cancelled = not still_there
        try:
            ended.get(timeout=request.value / 1000)
            cancelled = True
        except queue.Empty:
            pass
        self.seen.put({"left": left, "cancelled": cancelled, "slept": time.monotonic() - began})
        return Int64Value(value=int((left or 0) * 1e9))


def _echo(request: BytesValue, context: grpc.ServicerContext) -> BytesValue:
    return request


def _sized(request: Int64Value, context: grpc.ServicerContext) -> BytesValue:
    return BytesValue(value=pattern(request.value))


def _fail(request: struct_pb2.Struct, context: grpc.ServicerContext) -> Empty:
    number = int(request.fields["code"].number_value)
    code = next(code for code in grpc.StatusCode if code.value[0] == number)
    message = request.fields["message"].string_value
    rich = envelope_pb2.Status(code=number, message=message)
    if "detail" in request.fields:
        rich.details.add().Pack(StringValue(value=request.fields["detail"].string_value))
    context.set_trailing_metadata((("grpc-status-details-bin", rich.SerializeToString()),))
    context.abort(code, message)
    raise AssertionError("abort() returned")


def _metadata(request: Empty, context: grpc.ServicerContext) -> struct_pb2.Struct:
    reply = struct_pb2.Struct()
    for key, value in context.invocation_metadata():
        reply.fields[key].list_value.append(str(value))
    return reply


def _raising(error: Exception) -> Callable[[M, grpc.ServicerContext], Empty]:
    def handler(request: M, context: grpc.ServicerContext) -> Empty:
        raise error

    return handler


def _sum(requests: Iterator[Int64Value], context: grpc.ServicerContext) -> Int64Value:
    return Int64Value(value=sum(request.value for request in requests))


def _count(request: Int64Value, context: grpc.ServicerContext) -> Iterator[Int64Value]:
    for i in range(request.value):
        yield Int64Value(value=i)


def _count_then_fail(request: Int64Value, context: grpc.ServicerContext) -> Iterator[Int64Value]:
    yield from _count(request, context)
    context.abort(grpc.StatusCode.ABORTED, "enough")


def _chat(requests: Iterator[BytesValue], context: grpc.ServicerContext) -> Iterator[BytesValue]:
    yield from requests
