"""Probes of interceptors: see the package."""

from __future__ import annotations

import functools
from typing import Any

import grpc

from tests.ttrpc.probes.pair import (
    LONG,
    Pair,
    failure,
    numbers,
    probe,
)

__all__: list[str] = []

INTERCEPTORS = "Interceptors"


class Note(grpc.ServerInterceptor):
    def __init__(self, name: str, notes: list[str]) -> None:
        self._name = name
        self._notes = notes

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        self._notes.append(f"{self._name} {details.method}")
        return continuation(details)


@probe(INTERCEPTORS, "servers: the first is the outermost; method and metadata of the call")
def _(pair: Pair) -> Any:
    notes: list[str] = []
    pair.serve(interceptors=[Note("a", notes), Note("b", notes)])
    pair.connect().unary_unary("/x.X/M")(b"", timeout=LONG)
    return notes


@probe(INTERCEPTORS, "servers: None instead of a handler, another handler")
def _(pair: Pair) -> Any:
    class Other(grpc.ServerInterceptor):
        def intercept_service(self, continuation: Any, details: Any) -> Any:
            if details.method.endswith("M"):
                return None
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"other")

    pair.serve(interceptors=[Other()])
    channel = pair.connect()
    other = channel.unary_unary("/x.X/N")(b"", timeout=LONG).decode()
    return failure(lambda: channel.unary_unary("/x.X/M")(b"", timeout=LONG)), other


@probe(INTERCEPTORS, "servers: one that raises")
def _(pair: Pair) -> Any:
    class Bad(grpc.ServerInterceptor):
        def intercept_service(self, continuation: Any, details: Any) -> Any:
            raise ValueError("x")

    pair.serve(interceptors=[Bad()])
    return failure(lambda: pair.connect().unary_unary("/x.X/M")(b"", timeout=LONG))


@probe(INTERCEPTORS, "servers: an object that is no interceptor")
def _(pair: Pair) -> Any:
    return failure(lambda: pair.make_server(interceptors=[object()]) is None)


class Outer(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return self._note(continuation, details, request)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return self._note(continuation, details, request)

    def intercept_stream_unary(self, continuation: Any, details: Any, request_iterator: Any) -> Any:
        return self._note(continuation, details, request_iterator)

    def intercept_stream_stream(
        self, continuation: Any, details: Any, request_iterator: Any
    ) -> Any:
        return self._note(continuation, details, request_iterator)

    def _note(self, continuation: Any, details: Any, request: Any) -> Any:
        self.seen.append(details.method)
        return continuation(details, request)


@probe(INTERCEPTORS, "clients: `grpc.intercept_channel()`, all four kinds")
def _(pair: Pair) -> Any:
    make = grpc
    handlers: dict[str, Any] = {
        "A": make.unary_unary_rpc_method_handler(lambda r, c: r),
        "B": make.unary_stream_rpc_method_handler(numbers),
        "C": make.stream_unary_rpc_method_handler(lambda r, c: b"".join(r)),
        "D": make.stream_stream_rpc_method_handler(lambda r, c: iter(list(r))),
    }
    pair.start(handlers, pair.make_server())
    outer = Outer()
    channel: Any = grpc.intercept_channel(pair.connect(), outer)
    replies = (
        channel.unary_unary("/x.X/A")(b"a", timeout=LONG).decode(),
        len(list(channel.unary_stream("/x.X/B")(b"", timeout=LONG))),
        channel.stream_unary("/x.X/C")(iter([b"a", b"b"]), timeout=LONG).decode(),
        [m.decode() for m in channel.stream_stream("/x.X/D")(iter([b"a", b"b"]), timeout=LONG)],
    )
    return replies, outer.seen


class Raising(Outer):
    def _note(self, continuation: Any, details: Any, request: Any) -> Any:
        raise ValueError("x")


class Nothing(Outer):
    def _note(self, continuation: Any, details: Any, request: Any) -> Any:
        return None


@probe(INTERCEPTORS, "clients: one that raises, or returns no call")
def _(pair: Pair) -> Any:
    pair.serve()
    found = []
    for interceptor in (Raising(), Nothing()):
        channel: Any = grpc.intercept_channel(pair.connect(), interceptor)
        method = channel.unary_unary("/x.X/M")
        found.append(
            [
                failure(functools.partial(method, b"", timeout=LONG)),
                failure(functools.partial(method.future, b"", timeout=LONG)),
                failure(functools.partial(method.with_call, b"", timeout=LONG)),
            ]
        )
    return found


class Details(grpc.ClientCallDetails):
    def __init__(self, details: Any, method: str) -> None:
        self.method, self.timeout, self.metadata = method, details.timeout, details.metadata
        self.credentials, self.wait_for_ready = details.credentials, details.wait_for_ready
        self.compression = details.compression


class Changing(Outer):
    def _note(self, continuation: Any, details: Any, request: Any) -> Any:
        if details.method == "/x.X/Old":
            return continuation(Details(details, "/x.X/M"), request + b"!")
        return (message + b"!" for message in continuation(details, request))


@probe(INTERCEPTORS, "clients: one that changes the method, the request, the responses")
def _(pair: Pair) -> Any:
    handlers: dict[str, Any] = {
        "M": grpc.unary_unary_rpc_method_handler(lambda r, c: r),
        "S": grpc.unary_stream_rpc_method_handler(numbers),
    }
    pair.start(handlers, pair.make_server())
    channel: Any = grpc.intercept_channel(pair.connect(), Changing())
    reply = channel.unary_unary("/x.X/Old")(b"a", timeout=LONG).decode()
    return reply, [m.decode() for m in channel.unary_stream("/x.X/S")(b"", timeout=LONG)]


@probe(INTERCEPTORS, "clients: a stream that is left, under an interceptor")
def _(pair: Pair) -> Any:
    pair.serve(numbers, "unary_stream")
    channel: Any = grpc.intercept_channel(pair.connect(), Outer())
    for _ in channel.unary_stream("/x.X/M")(b"", timeout=LONG):
        break
    return len(list(channel.unary_stream("/x.X/M")(b"", timeout=LONG)))
