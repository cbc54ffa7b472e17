"""Probes of a ServicerContext: see the package."""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import Any

import grpc

from tests.ttrpc.probes.pair import (
    LONG,
    Code,
    Pair,
    failure,
    probe,
)

__all__: list[str] = []

CONTEXT = "ServicerContext"


@probe(CONTEXT, "`abort()`: the handler is left, code and details are sent")
def _(pair: Pair) -> Any:
    return pair.outcome(lambda request, context: context.abort(Code.NOT_FOUND, "gone"))


@probe(CONTEXT, "`abort(3, ...)`, `set_code(3)`: a number for the code")
def _(pair: Pair) -> Any:
    def handler(request: bytes, context: Any) -> bytes:
        if request == b"abort":
            context.abort(3, "bad")
        context.set_code(3)
        return b""

    method = pair.method(handler)
    return [failure(functools.partial(method, r, timeout=LONG)) for r in (b"abort", b"set")]


@probe(CONTEXT, "`set_code(None)`")
def _(pair: Pair) -> Any:
    def ask(context: Any) -> Any:
        context.set_code(Code.OK)
        context.set_code(None)
        return context.code() is None

    return pair.in_handler(ask)


@probe(CONTEXT, "details that are None")
def _(pair: Pair) -> Any:
    return pair.outcome(lambda request, context: context.abort(Code.ABORTED, None))


@probe(CONTEXT, "`abort(StatusCode.OK, ...)`")
def _(pair: Pair) -> Any:
    return pair.outcome(lambda request, context: context.abort(Code.OK, "fine"))


@probe(CONTEXT, "`abort_with_status()` with the details of `google.rpc.Status`")
def _(pair: Pair) -> Any:
    try:
        from google.rpc import code_pb2, status_pb2
        from grpc_status import rpc_status
    except ImportError:
        return "grpcio-status is not installed"

    status = status_pb2.Status(code=code_pb2.DATA_LOSS, message="some")
    status.details.add().Pack(status_pb2.Status(message="more"))
    method = pair.method(
        lambda request, context: context.abort_with_status(rpc_status.to_status(status))
    )
    try:
        method(b"", timeout=LONG)
    except grpc.RpcError as error:
        found: Any = error
        return rpc_status.from_call(found) == status


@probe(CONTEXT, "`abort_with_status()` with other metadata")
def _(pair: Pair) -> Any:
    class Refusal(grpc.Status):
        code = Code.NOT_FOUND
        details = "gone"
        trailing_metadata = (("k", "v"),)

    outcome = pair.outcome(lambda request, context: context.abort_with_status(Refusal()))
    return outcome[0], "ValueError" in outcome[1]


@probe(CONTEXT, "`set_code()`, `abort()` that is caught, and then another exception")
def _(pair: Pair) -> Any:
    def handler(request: bytes, context: Any) -> bytes:
        if request == b"abort":
            with contextlib.suppress(Exception):
                context.abort(Code.NOT_FOUND, "gone")
        else:
            context.set_code(Code.NOT_FOUND)
            context.set_details("gone")
        raise ValueError("x")

    method = pair.method(handler)
    futures = [method.future(request, timeout=LONG) for request in (b"abort", b"set")]
    return [(future.code().name, future.details()) for future in futures]


@probe(CONTEXT, "`set_code(StatusCode.OK)`, then an exception")
def _(pair: Pair) -> Any:
    def handler(request: bytes, context: Any) -> bytes:
        context.set_code(Code.OK)
        raise ValueError("x")

    return pair.outcome(handler)[0]


@probe(CONTEXT, "`set_code()` and `set_details()` with a return")
def _(pair: Pair) -> Any:
    def handler(request: bytes, context: Any) -> bytes:
        context.set_code(Code.ALREADY_EXISTS)
        context.set_details("there")
        return b"dropped"

    return pair.outcome(handler)


@probe(CONTEXT, "`code()`, and `details()` before they are set")
def _(pair: Pair) -> Any:
    def ask(context: Any) -> Any:
        before = context.code(), context.details()
        context.set_code(Code.OK)
        return before, context.code().name

    return pair.in_handler(ask)


@probe(CONTEXT, "`details()` when they are set")
def _(pair: Pair) -> Any:
    def ask(context: Any) -> Any:
        context.set_details("text")
        return type(context.details()).__name__

    return pair.in_handler(ask)


@probe(CONTEXT, "`auth_context()`")
def _(pair: Pair) -> Any:
    return pair.in_handler(lambda context: len(context.auth_context()) > 0)


@probe(CONTEXT, "`peer_identities()`, `peer_identity_key()`")
def _(pair: Pair) -> Any:
    return pair.in_handler(lambda context: (context.peer_identities(), context.peer_identity_key()))


@probe(CONTEXT, "`peer()`")
def _(pair: Pair) -> Any:
    return pair.in_handler(lambda context: context.peer().replace(pair.path, "PATH"))


@probe(CONTEXT, "`invocation_metadata()`: pairs with `key` and `value`")
def _(pair: Pair) -> Any:
    seen: list[Any] = []

    def handler(request: bytes, context: Any) -> bytes:
        pairs = [(item.key, item.value) for item in context.invocation_metadata()]
        seen.extend(item for item in pairs if item[0] != "user-agent")
        return b""

    pair.method(handler)(b"", timeout=LONG, metadata=(("a", "1"), ("a", "2")))
    return seen


@probe(CONTEXT, "metadata of the transport: `user-agent`")
def _(pair: Pair) -> Any:
    return pair.in_handler(lambda context: [item.key for item in context.invocation_metadata()])


@probe(CONTEXT, "`time_remaining()` of a call with a deadline")
def _(pair: Pair) -> Any:
    return pair.in_handler(lambda context: 0 < context.time_remaining() <= LONG + 1)


@probe(CONTEXT, "`time_remaining()` without a deadline")
def _(pair: Pair) -> Any:
    seen: list[Any] = []

    def handler(request: bytes, context: Any) -> bytes:
        left = context.time_remaining()
        seen.append(left if left is None else left > 1e6)
        return b""

    pair.method(handler)(b"")
    return seen


@probe(CONTEXT, "`is_active()`, `add_callback()` while it is served and afterwards")
def _(pair: Pair) -> Any:
    kept: list[Any] = []
    called = threading.Event()

    def handler(request: bytes, context: Any) -> bytes:
        kept.append(context)
        kept.append((context.is_active(), context.add_callback(called.set)))
        return b""

    pair.method(handler)(b"", timeout=LONG)
    over = called.wait(LONG)
    return kept[1], over, kept[0].is_active(), kept[0].add_callback(lambda: None)


@probe(CONTEXT, "`cancel()`")
def _(pair: Pair) -> Any:
    def handler(request: bytes, context: Any) -> bytes:
        context.cancel()
        return b""

    return pair.outcome(handler)[0]


@probe(CONTEXT, "`send_initial_metadata()`")
def _(pair: Pair) -> Any:
    return pair.in_handler(lambda context: context.send_initial_metadata((("k", "v"),)))


@probe(CONTEXT, "`set_trailing_metadata()`")
def _(pair: Pair) -> Any:
    return pair.in_handler(lambda context: context.set_trailing_metadata((("k", "v"),)))


@probe(CONTEXT, "`set_compression()`")
def _(pair: Pair) -> Any:
    return pair.in_handler(lambda context: context.set_compression(grpc.Compression.Gzip))


@probe(CONTEXT, "`disable_next_message_compression()`")
def _(pair: Pair) -> Any:
    return pair.in_handler(lambda context: context.disable_next_message_compression())


@probe(CONTEXT, "`trailing_metadata()` before it is set")
def _(pair: Pair) -> Any:
    return pair.in_handler(lambda context: context.trailing_metadata())


@probe(CONTEXT, "`cancel()`: the result")
def _(pair: Pair) -> Any:
    results: list[Any] = []
    method = pair.method(lambda request, context: results.append(context.cancel()))
    with contextlib.suppress(grpc.RpcError):
        method(b"", timeout=LONG)
    return results


@probe(CONTEXT, "`send_initial_metadata(None)`")
def _(pair: Pair) -> Any:
    return pair.in_handler(lambda context: context.send_initial_metadata(None))


@probe(CONTEXT, "requests: `.next()` of the iterator")
def _(pair: Pair) -> Any:
    method = pair.method(lambda requests, context: requests.next(), "stream_unary")
    return failure(lambda: method(iter([b"a"]), timeout=LONG))
