"""A ttRPC server or client for a test, and the other side of it: ours, or bytes on a socket."""

from __future__ import annotations

import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, NamedTuple

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from nri_sync.rpc import envelope_pb2
from nri_sync.ttrpc import Channel, Server, connect
from tests.net.rig import LONG, eventually, in_thread

__all__ = [
    "DATA",
    "INTERNAL",
    "INVALID_ARGUMENT",
    "LONG",
    "NO_DATA",
    "REMOTE_CLOSED",
    "REMOTE_OPEN",
    "REQUEST",
    "RESOURCE_EXHAUSTED",
    "RESPONSE",
    "SERVICE",
    "UNIMPLEMENTED",
    "Calls",
    "Message",
    "RawPeer",
    "StringValue",
    "count",
    "echo",
    "encoded",
    "end_time",
    "error_of",
    "eventually",
    "in_thread",
    "method",
    "plain_handlers",
    "raw",
    "raw_client",
    "raw_server",
    "request",
    "serving",
    "text",
    "total",
    "upper",
]

SERVICE = "test.Service"
REQUEST, RESPONSE, DATA = 1, 2, 3
# The flags of messages, and the codes of statuses, as numbers on the wire.
REMOTE_CLOSED, REMOTE_OPEN, NO_DATA = 1, 2, 4
INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 3, 8, 12, 13

Handler = Callable[[Any, Any], Any]


def text(value: str) -> StringValue:
    return StringValue(value=value)


def encode(message: StringValue) -> bytes:
    return message.SerializeToString()


def echo(message: StringValue, context: grpc.ServicerContext) -> StringValue:
    return message


def method(kind: str, behaviour: Handler) -> Any:
    """A handler of StringValues, of one of the four kinds."""
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(behaviour, StringValue.FromString, encode)


class Calls:
    """The methods of the test service, on a channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel

    def _multicallable(self, kind: str, name: str) -> Any:
        path = name if name.startswith("/") else f"/{SERVICE}/{name}"
        return getattr(self.channel, kind)(path, encode, StringValue.FromString)

    def unary(self, name: str) -> Any:
        return self._multicallable("unary_unary", name)

    def stream(self, name: str) -> Any:
        return self._multicallable("unary_stream", name)

    def collect(self, name: str) -> Any:
        return self._multicallable("stream_unary", name)

    def chat(self, name: str) -> Any:
        return self._multicallable("stream_stream", name)


@contextmanager
def serving(handlers: dict[str, Any] | None = None, **options: Any) -> Iterator[tuple[Server, str]]:
    """A server with the test service, and its address."""
    handlers = {"Echo": method("unary_unary", echo)} if handlers is None else handlers
    server = Server(**options)
    server.add_registered_method_handlers(SERVICE, handlers)
    with tempfile.TemporaryDirectory(prefix="nri") as directory:
        address = f"unix://{directory}/s"
        server.add_insecure_port(address)
        server.start()
        try:
            yield server, address
        finally:
            assert server.stop(None).wait(LONG)


class Message(NamedTuple):
    stream_id: int
    type: int
    flags: int
    data: bytes

    @property
    def status(self) -> tuple[int, str]:
        response = envelope_pb2.Response.FromString(self.data)
        return response.status.code, response.status.message

    @property
    def payload(self) -> bytes:
        response = envelope_pb2.Response.FromString(self.data)
        assert not response.HasField("status"), response
        return response.payload

    @property
    def value(self) -> str:
        return StringValue.FromString(self.payload).value

    @property
    def request(self) -> envelope_pb2.Request:
        return envelope_pb2.Request.FromString(self.data)


def request(name: str, payload: bytes = b"", service: str = SERVICE, **fields: Any) -> bytes:
    """The envelope of a request."""
    return envelope_pb2.Request(
        service=service, method=name, payload=payload, **fields
    ).SerializeToString()


class RawPeer:
    """The bytes of one end."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(LONG)
        self._file = sock.makefile("rb")

    def send(
        self,
        type: int,
        stream_id: int,
        data: bytes = b"",
        flags: int = 0,
        length: int | None = None,
    ) -> None:
        length = len(data) if length is None else length
        self.sock.sendall(struct.pack(">IIBB", length, stream_id, type, flags) + data)

    def respond(
        self, stream_id: int, payload: bytes = b"", code: int = 0, details: str = ""
    ) -> None:
        response = envelope_pb2.Response(payload=payload)
        if code:
            response.status.code = code
            response.status.message = details
        self.send(RESPONSE, stream_id, response.SerializeToString())

    def receive(self) -> Message | None:
        """The next message; None at the end."""
        try:
            header = self._file.read(10)
        except ConnectionResetError:
            return None
        if not header:
            return None
        length, stream_id, type, flags = struct.unpack(">IIBB", header)
        return Message(stream_id, type, flags, self._file.read(length))

    def expect(self) -> Message:
        message = self.receive()
        assert message is not None
        return message

    def ask(self, stream_id: int, name: str = "Echo", payload: bytes = b"") -> Message:
        self.send(REQUEST, stream_id, request(name, payload))
        return self.expect()

    def check(self, stream_id: int) -> None:
        """That the connection still works."""
        assert self.ask(stream_id, "Echo", encode(text("works"))).value == "works"

    def close(self) -> None:
        self._file.close()
        self.sock.close()


@contextmanager
def raw_client(address: str) -> Iterator[RawPeer]:
    """A connection to a server, to be used byte by byte."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(address[len("unix://") :])
    peer = RawPeer(sock)
    try:
        yield peer
    finally:
        peer.close()


@contextmanager
def raw_server(**options: Any) -> Iterator[tuple[Channel, RawPeer]]:
    """A channel of ours, and the server it is connected to."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="nri"))
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(f"{directory}/s")
        listener.listen()
        closed = threading.Event()
        on_close = options.pop("on_close", lambda cause: None)

        def note(cause: object) -> None:
            try:
                on_close(cause)
            finally:
                closed.set()

        channel = connect(f"unix://{directory}/s", on_close=note, **options)
        peer = RawPeer(listener.accept()[0])
        try:
            yield channel, peer
        finally:
            channel.close()
            peer.close()
            assert closed.wait(LONG)


def end_time(call: Any, seconds: float = 0.0) -> None:
    """Have the deadline of ``call`` pass in ``seconds``, so that no earlier step of a test has a time limit."""
    call._call.deadline.at = time.monotonic() + seconds


def error_of(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    """How a call fails."""
    try:
        call()
    except grpc.RpcError as error:
        found: Any = error
        return found.code(), found.details()
    raise AssertionError("the call did not fail")


def total(requests: Iterator[StringValue], context: Any) -> StringValue:
    return text("".join(request.value for request in requests))


def upper(requests: Iterator[StringValue], context: Any) -> Iterator[StringValue]:
    for message in requests:
        yield text(message.value.upper())


def count(message: StringValue, context: Any) -> Iterator[StringValue]:
    for number in range(int(message.value or 0)):
        yield text(str(number))


def plain_handlers() -> dict[str, Any]:
    return {
        "Echo": method("unary_unary", echo),
        "Total": method("stream_unary", total),
        "Upper": method("stream_stream", upper),
        "Count": method("unary_stream", count),
    }


@contextmanager
def raw(handlers: dict[str, Any] | None = None, **options: Any) -> Iterator[RawPeer]:
    with ExitStack() as stack:
        every = {**plain_handlers(), **(handlers or {})}
        _, address = stack.enter_context(serving(every, **options))
        yield stack.enter_context(raw_client(address))


def encoded(value: str) -> bytes:
    return text(value).SerializeToString()
