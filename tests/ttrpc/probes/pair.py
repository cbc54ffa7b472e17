"""Servers and channels of grpcio or of nri_sync.ttrpc, for the probes."""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any, Callable

import grpc

from nri_sync import ttrpc
from nri_sync.deadline import Deadline

__all__ = [
    "LONG",
    "PROBES",
    "WAITING",
    "Code",
    "Pair",
    "Probe",
    "collected",
    "eventually",
    "failure",
    "numbers",
    "probe",
    "waiting",
]

Probe = Callable[["Pair"], Any]

#: By section and row of the document.
PROBES: dict[tuple[str, str], Probe] = {}
#: The section and row of the probes that do little except wait, and so can wait at the same time.
WAITING: set[tuple[str, str]] = set()

LONG = 20.0
Code = grpc.StatusCode


def probe(section: str, row: str, *, waits: bool = False) -> Callable[[Probe], Probe]:
    def keep(function: Probe) -> Probe:
        assert (section, row) not in PROBES
        PROBES[section, row] = function
        if waits:
            WAITING.add((section, row))
        return function

    return keep


def eventually(condition: Callable[[], object]) -> bool:
    give_up = Deadline(LONG)
    while not condition():
        if give_up.expired:
            return False
        time.sleep(0.005)
    return True


def failure(function: Callable[[], object]) -> str:
    """The code of the call that fails, or the class of another exception."""
    try:
        value = function()
    except grpc.RpcError as error:
        found: Any = error
        return str(found.code().name)
    except Exception as error:
        return type(error).__name__
    return f"returned {value!r}"[:40]


class Pair:
    """Servers and channels of one kind, and a service whose methods a probe provides."""

    def __init__(self, kind: str, stack: contextlib.ExitStack) -> None:
        self.kind = kind
        self._stack = stack
        self.path = f"{stack.enter_context(tempfile.TemporaryDirectory(prefix='nri'))}/s"
        self.address = f"unix://{self.path}"

    def make_server(self, interceptors: Any = (), limit: int | None = None) -> Any:
        if self.kind == "ttrpc":
            server: Any = ttrpc.Server(interceptors=interceptors, maximum_concurrent_rpcs=limit)
        else:
            pool = futures.ThreadPoolExecutor(8)
            self._stack.callback(pool.shutdown, wait=False)
            server = grpc.server(pool, interceptors=interceptors, maximum_concurrent_rpcs=limit)
        self._stack.callback(lambda: server.stop(None).wait(LONG))
        return server

    def connect(self) -> Any:
        if self.kind == "ttrpc":
            channel: Any = ttrpc.connect(self.address)
        else:
            channel = grpc.insecure_channel(self.address)
        self._stack.callback(channel.close)
        return channel

    def serve(
        self, function: Any = None, kind: str = "unary_unary", interceptors: Any = (), **coding: Any
    ) -> Any:
        handler = getattr(grpc, f"{kind}_rpc_method_handler")(
            function or (lambda request, context: request), **coding
        )
        return self.start({"M": handler}, self.make_server(interceptors))

    def start(self, handlers: dict[str, Any], server: grpc.Server) -> Any:
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("x.X", handlers),))
        server.add_insecure_port(self.address)
        server.start()
        return server

    def method(self, function: Any = None, kind: str = "unary_unary", **coding: Any) -> Any:
        """A method of a new channel, which a new server serves with ``function``."""
        self.serve(function, kind)
        return getattr(self.connect(), kind)("/x.X/M", **coding)

    @property
    def patience(self) -> float:
        """Seconds to wait for an answer that grpcio never sends."""
        return LONG if self.kind == "ttrpc" else 1.0

    def in_handler(self, ask: Callable[[Any], Any]) -> Any:
        """The answers of the context to a handler."""
        seen: list[Any] = []

        def handler(request: bytes, context: Any) -> bytes:
            try:
                seen.append(ask(context))
            except Exception as error:
                seen.append(f"raises {type(error).__name__}")
            return b""

        self.method(handler)(b"", timeout=LONG)
        return seen[0]

    def outcome(self, function: Any, kind: str = "unary_unary") -> tuple[str, str]:
        """Code and details that a client sees of a handler."""
        method = self.method(function, kind)
        try:
            _, call = method.with_call(b"r", timeout=LONG)
        except grpc.RpcError as error:
            call = error
        return call.code().name, call.details()


def collected(responses: Any) -> list[str]:
    """The messages of a stream, and the code or exception that ended it early."""
    found: list[str] = []
    try:
        found.extend(message.decode() for message in iter(responses.__next__, None))
    except StopIteration:
        pass
    except grpc.RpcError as error:
        failed: Any = error
        found.append(failed.code().name)
    except Exception as error:
        found.append(type(error).__name__)
    return found


def waiting(gate: threading.Event) -> Any:
    def handler(request: bytes, context: Any) -> bytes:
        gate.wait(LONG)
        return request

    return handler


def numbers(request: bytes, context: Any) -> Iterator[bytes]:
    for number in range(5):
        yield b"%d" % number
