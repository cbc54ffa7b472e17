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
    eventually,
    failure,
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


@probe(SERVER, "what is no handler")
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
