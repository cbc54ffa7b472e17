"""Probes of a Server: see the package."""

from __future__ import annotations

import functools
import threading
from concurrent import futures
from typing import Any

import grpc

from nri_sync import ttrpc
from tests.ttrpc.probes.pair import (
    LONG,
    Pair,
    collected,
    eventually,
    failure,
    numbers,
    probe,
)

__all__: list[str] = []

SERVER = "Server"


@probe(SERVER, "generated `add_..._to_server()`, generic handlers, and which comes first")
def _(pair: Pair) -> Any:
    server = pair.make_server()
    make = grpc.unary_unary_rpc_method_handler
    generic: dict[str, Any] = {
        "M": make(lambda r, c: b"generic"),
        "N": make(lambda r, c: b"second"),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("x.X", generic),))
    server.add_registered_method_handlers("x.X", {"M": make(lambda r, c: b"first")})
    port = server.add_insecure_port(pair.address)
    server.start()
    channel = pair.connect()
    return port, [channel.unary_unary(f"/x.X/{m}")(b"", timeout=LONG).decode() for m in "MN"]


@probe(SERVER, "generic handlers that are added after `start()`")
def _(pair: Pair) -> Any:
    server = pair.serve()
    later: dict[str, Any] = {
        "L": grpc.unary_unary_rpc_method_handler(lambda request, context: b"late")
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("y.Y", later),))
    return pair.connect().unary_unary("/y.Y/L")(b"", timeout=LONG).decode()


@probe(SERVER, "registered handlers that are added after `start()`")
def _(pair: Pair) -> Any:
    server = pair.serve()
    later: dict[str, Any] = {
        "L": grpc.unary_unary_rpc_method_handler(lambda request, context: b"late")
    }
    server.add_registered_method_handlers("y.Y", later)
    return failure(lambda: pair.connect().unary_unary("/y.Y/L")(b"", timeout=LONG))


@probe(SERVER, "an object that is no handler")
def _(pair: Pair) -> Any:
    return failure(lambda: pair.make_server().add_generic_rpc_handlers((object(),)))


@probe(SERVER, "an unknown method or service")
def _(pair: Pair) -> Any:
    pair.serve()
    channel = pair.connect()
    methods = [channel.unary_unary(path) for path in ("/x.X/N", "/y.Y/M")]
    return [failure(functools.partial(method, b"", timeout=LONG)) for method in methods]


def _raising(error: BaseException) -> Any:
    def handler(request: bytes, context: Any) -> bytes:
        raise error

    return handler


@probe(SERVER, "a handler that raises: the code")
def _(pair: Pair) -> Any:
    return pair.outcome(_raising(ValueError("x")))[0]


@probe(SERVER, "a handler that raises: the details")
def _(pair: Pair) -> Any:
    return pair.outcome(_raising(ValueError("x")))[1]


@probe(SERVER, "a handler that raises TimeoutError, FileNotFoundError or the error of another call")
def _(pair: Pair) -> Any:
    return pair.outcome(_raising(TimeoutError("x")))[0]


@probe(SERVER, "a handler that returns None")
def _(pair: Pair) -> Any:
    return pair.outcome(lambda request, context: None)[0]


@probe(SERVER, "a handler, or serializer, that returns no bytes: a number, text", waits=True)
def _(pair: Pair) -> Any:
    make: Any = grpc.unary_unary_rpc_method_handler
    handlers: dict[str, Any] = {
        "Number": make(lambda request, context: 5),
        "Text": make(lambda request, context: "text"),
        "Coded": make(lambda request, context: b"", response_serializer=lambda value: 5),
    }
    pair.start(handlers, pair.make_server())
    return _codes(pair, *handlers)


def _codes(pair: Pair, *names: str) -> list[str]:
    """The codes of calls that run at the same time, as grpcio answers none of them."""
    channel = pair.connect()
    calls = [channel.unary_unary(f"/x.X/{n}").future(b"", timeout=pair.patience) for n in names]
    return [failure(call.result) for call in calls]


@probe(SERVER, "a handler of a stream that yields None")
def _(pair: Pair) -> Any:
    return collected(
        pair.method(lambda r, c: iter([b"1", None]), "unary_stream")(b"", timeout=LONG)
    )


@probe(SERVER, "a handler of a stream that returns a list")
def _(pair: Pair) -> Any:
    return collected(pair.method(lambda r, c: [b"1", b"2"], "unary_stream")(b"", timeout=LONG))


@probe(SERVER, "a handler that raises SystemExit, or another BaseException", waits=True)
def _(pair: Pair) -> Any:
    pair.serve(_raising(SystemExit(3)))
    return _codes(pair, "M")[0]


def _while_reading(pair: Pair, end: Any, timeout: float | None = None) -> Any:
    """The exception that a handler gets from its requests."""
    found: list[str] = []
    entered, gate = threading.Event(), threading.Event()

    def handler(requests: Any, context: Any) -> bytes:
        next(requests)
        entered.set()
        try:
            found.append(f"got {next(requests)!r}")
        except grpc.RpcError:
            found.append("RpcError")
        except Exception as error:
            found.append(type(error).__name__)
        gate.wait(LONG)  # an answer could reach the client just before the client's own deadline
        return b""

    def messages() -> Any:
        yield b"1"
        gate.wait(LONG)

    pair.serve(handler, "stream_unary")
    channel = pair.connect()
    future = channel.stream_unary("/x.X/M").future(messages(), timeout=timeout)
    entered.wait(LONG)
    end(channel)
    eventually(lambda: found)
    code = future.code().name
    gate.set()
    return found, code


@probe(SERVER, "a client's connection that ends while the handler reads its requests")
def _(pair: Pair) -> Any:
    found, code = _while_reading(pair, lambda channel: channel.close())
    if pair.kind == "grpcio" and found == ["StopIteration"]:
        found = ["RpcError"]  # on a busy machine grpcio ends the iterator in one of some dozen runs
    return found, code


@probe(SERVER, "requests that are read at the deadline of the call", waits=True)
def _(pair: Pair) -> Any:
    return _while_reading(pair, lambda channel: None, timeout=1.5)


@probe(SERVER, "requests that are read after the answer")
def _(pair: Pair) -> Any:
    kept: list[Any] = []

    def handler(requests: Any, context: Any) -> bytes:
        kept.append(requests)
        kept.append(context)
        return next(requests)  # type: ignore[no-any-return]

    pair.method(handler, "stream_unary")(iter([b"1"]), timeout=LONG)
    eventually(lambda: not kept[1].is_active())
    try:
        return [message.decode() for message in kept[0]]
    except grpc.RpcError:
        return "RpcError"


@probe(SERVER, "a stream method that is called as unary", waits=True)
def _(pair: Pair) -> Any:
    pair.serve(numbers, "unary_stream")
    return _codes(pair, "M")[0]


@probe(SERVER, "a method with one request that is called with a stream")
def _(pair: Pair) -> Any:
    pair.serve()
    method = pair.connect().stream_unary("/x.X/M")
    return method(iter([b"first", b"second"]), timeout=LONG).decode()


@probe(SERVER, "a deserializer of a handler that raises")
def _(pair: Pair) -> Any:
    pair.serve(request_deserializer=lambda data: 1 / 0)
    return failure(lambda: pair.connect().unary_unary("/x.X/M")(b"", timeout=LONG))


@probe(SERVER, "`start()` a second time")
def _(pair: Pair) -> Any:
    return failure(pair.serve().start)


@probe(SERVER, "`stop(None)`: calls in flight")
def _(pair: Pair) -> Any:
    entered, gate = threading.Event(), threading.Event()

    def handler(request: bytes, context: Any) -> bytes:
        entered.set()
        gate.wait(LONG)
        return b""

    server = pair.serve(handler)
    future = pair.connect().unary_unary("/x.X/M").future(b"")
    entered.wait(LONG)
    stopped = server.stop(None)
    code = future.exception(LONG).code().name
    gate.set()
    return code, stopped.wait(LONG)


@probe(SERVER, "`stop(grace)`: calls in flight finish, new ones fail")
def _(pair: Pair) -> Any:
    entered, gate = threading.Event(), threading.Event()

    def handler(request: bytes, context: Any) -> bytes:
        entered.set()
        gate.wait(LONG)
        return b"done"

    server = pair.serve(handler)
    method = pair.connect().unary_unary("/x.X/M")
    future = method.future(b"")
    entered.wait(LONG)
    stopped = server.stop(LONG)
    if pair.kind == "grpcio":
        # The server cancels a call of a client that has not yet read its GOAWAY.
        eventually(lambda: failure(lambda: method(b"", timeout=LONG)) != "CANCELLED")
    new = failure(lambda: method(b"", timeout=LONG))
    gate.set()
    return new, future.result(LONG).decode(), stopped.wait(LONG)


@probe(SERVER, "`stop()` again; `wait_for_termination(timeout)`")
def _(pair: Pair) -> Any:
    server = pair.serve()
    before = server.wait_for_termination(0.05)
    server.stop(None).wait(LONG)
    return before, server.wait_for_termination(LONG), server.stop(None).wait(LONG)


@probe(SERVER, "`maximum_concurrent_rpcs`")
def _(pair: Pair) -> Any:
    entered, gate = threading.Event(), threading.Event()

    def handler(request: bytes, context: Any) -> bytes:
        entered.set()
        gate.wait(LONG)
        return b""

    pair.start({"M": grpc.unary_unary_rpc_method_handler(handler)}, pair.make_server(limit=1))
    method = pair.connect().unary_unary("/x.X/M")
    first = method.future(b"")
    entered.wait(LONG)
    second = failure(lambda: method(b"", timeout=LONG))
    gate.set()
    return second, first.result(LONG).decode()


@probe(SERVER, "an address that cannot be listened on")
def _(pair: Pair) -> Any:
    return failure(lambda: pair.make_server().add_insecure_port("unix:///no/such/directory/s"))


@probe(SERVER, "the same address twice")
def _(pair: Pair) -> Any:
    server = pair.make_server()
    server.add_insecure_port(pair.address)
    return failure(lambda: server.add_insecure_port(pair.address))


@probe(SERVER, "an address that is no unix socket")
def _(pair: Pair) -> Any:
    return failure(lambda: pair.make_server().add_insecure_port("127.0.0.1:0") > 0)


@probe(SERVER, "`add_secure_port()`")
def _(pair: Pair) -> Any:
    credentials = grpc.local_server_credentials(grpc.LocalConnectionType.UDS)
    return failure(lambda: pair.make_server().add_secure_port(pair.address, credentials) > 0)


@probe(SERVER, "a server that is dropped without `stop()`")
def _(pair: Pair) -> Any:
    make = grpc.unary_unary_rpc_method_handler
    if pair.kind == "ttrpc":
        server: Any = ttrpc.Server()
    else:
        server = grpc.server(futures.ThreadPoolExecutor(1))
    pair.start({"M": make(lambda r, c: b"")}, server)
    method = pair.connect().unary_unary("/x.X/M")
    method(b"", timeout=LONG)
    del server
    if pair.kind == "grpcio":
        return eventually(
            lambda: not failure(lambda: method(b"", timeout=LONG)).startswith("returned")
        )
    return not failure(lambda: method(b"", timeout=LONG)).startswith("returned")
