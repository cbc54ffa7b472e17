"""Probes of interceptors: see the package."""

from __future__ import annotations

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


@probe(INTERCEPTORS, "clients: a stream that is left, under an interceptor")
def _(pair: Pair) -> Any:
    pair.serve(numbers, "unary_stream")
    channel: Any = grpc.intercept_channel(pair.connect(), Outer())
    for _ in channel.unary_stream("/x.X/M")(b"", timeout=LONG):
        break
    return len(list(channel.unary_stream("/x.X/M")(b"", timeout=LONG)))
