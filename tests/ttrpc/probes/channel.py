"""Probes of a Channel: see the package."""

from __future__ import annotations

import functools
import math
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc

from nri_sync import ttrpc
from tests.ttrpc.probes.pair import (
    LONG,
    Pair,
    eventually,
    failure,
    numbers,
    probe,
    waiting,
)

__all__: list[str] = []

CHANNEL = "Channel"


@probe(CHANNEL, "calls of the four kinds; `with_call()`, `future()`")
def _(pair: Pair) -> Any:
    reply, call = pair.method().with_call(b"r", timeout=LONG)
    return (
        reply.decode(),
        call.code().name,
        pair.connect().unary_unary("/x.X/M").future(b"f").result(LONG).decode(),
    )


@probe(CHANNEL, "a timeout that passes", waits=True)
def _(pair: Pair) -> Any:
    gate = threading.Event()
    method = pair.method(waiting(gate))
    try:
        return failure(lambda: method(b"", timeout=0.1)), failure(lambda: method(b"", timeout=-1))
    finally:
        gate.set()


def _states(channel: Any) -> list[str]:
    """The states of the channel, as a subscriber gets them."""
    states: list[str] = []
    channel.subscribe(lambda state: states.append(state.name), try_to_connect=True)
    return states


@probe(CHANNEL, "`subscribe()`, `unsubscribe()`, `grpc.channel_ready_future()`", waits=True)
def _(pair: Pair) -> Any:
    pair.serve()
    channel = pair.connect()
    states = _states(channel)
    grpc.channel_ready_future(channel).result(LONG)
    return eventually(lambda: states and states[-1] == "READY")


@probe(CHANNEL, "a connection that is lost", waits=True)
def _(pair: Pair) -> Any:
    server = pair.serve()
    method = pair.connect().unary_unary("/x.X/M")
    method(b"", timeout=LONG)
    server.stop(None).wait(LONG)
    eventually(lambda: not failure(lambda: method(b"", timeout=LONG)).startswith("returned"))
    lost = failure(lambda: method(b"", timeout=LONG))
    pair.serve()
    eventually(lambda: pair.kind == "ttrpc" or failure(lambda: method(b"")).startswith("returned"))
    return lost, failure(lambda: method(b"", timeout=LONG))


@probe(CHANNEL, "a call on a closed channel")
def _(pair: Pair) -> Any:
    pair.serve()
    channel = pair.connect()
    method = channel.unary_unary("/x.X/M")
    channel.close()
    return failure(lambda: method(b"", timeout=LONG))


@probe(CHANNEL, "`close()` with calls in flight", waits=True)
def _(pair: Pair) -> Any:
    gate = threading.Event()
    pair.serve(waiting(gate))
    channel = pair.connect()
    future = channel.unary_unary("/x.X/M").future(b"")
    time.sleep(0.1)
    channel.close()
    gate.set()
    return future.code().name


@probe(CHANNEL, "a channel that is dropped without `close()`")
def _(pair: Pair) -> Any:
    pair.serve()
    # Not by pair.connect(), which keeps it.
    make: Any = ttrpc.connect if pair.kind == "ttrpc" else grpc.insecure_channel
    method = make(pair.address).unary_unary("/x.X/M")
    before = _descriptors()
    method(b"", timeout=LONG)
    for _ in range(10):
        make(pair.address).unary_unary("/x.X/M")(b"", timeout=LONG)
    # Both ends are in this process.
    return method(b"", timeout=LONG) == b"" and eventually(lambda: _descriptors() <= before + 9)


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@probe(CHANNEL, "`wait_for_ready`")
def _(pair: Pair) -> Any:
    return pair.method()(b"r", timeout=LONG, wait_for_ready=True).decode()


@probe(CHANNEL, "a path without a listener")
def _(pair: Pair) -> Any:
    return failure(lambda: pair.connect().unary_unary("/x.X/M")(b"", timeout=LONG))


@probe(CHANNEL, "call credentials")
def _(pair: Pair) -> Any:
    credentials = grpc.access_token_call_credentials("x")
    return failure(lambda: pair.method()(b"", timeout=LONG, credentials=credentials))


@probe(CHANNEL, "compression")
def _(pair: Pair) -> Any:
    return failure(lambda: pair.method()(b"", timeout=LONG, compression=grpc.Compression.Gzip))


@probe(CHANNEL, "binary metadata")
def _(pair: Pair) -> Any:
    return failure(lambda: pair.method()(b"", timeout=LONG, metadata=(("k-bin", b"\xff"),)))


@probe(CHANNEL, "metadata keys with capitals")
def _(pair: Pair) -> Any:
    return failure(lambda: pair.method()(b"", timeout=LONG, metadata=(("Key", "v"),)))


@probe(CHANNEL, "a message of more than 4 MiB")
def _(pair: Pair) -> Any:
    return failure(lambda: pair.method()(bytes(4 << 20), timeout=LONG))


@probe(CHANNEL, "a serializer, or deserializer, that raises")
def _(pair: Pair) -> Any:
    def bad(value: Any) -> bytes:
        raise ValueError("x")

    method = pair.method(request_serializer=bad)
    other = pair.connect().unary_unary("/x.X/M", None, bad)
    return failure(lambda: method(b"", timeout=LONG)), failure(lambda: other(b"", timeout=LONG))


@probe(CHANNEL, "an iterator of requests that raises")
def _(pair: Pair) -> Any:
    def requests() -> Iterator[bytes]:
        yield b"a"
        raise ValueError("x")

    method = pair.method(lambda requests, context: b"".join(requests), "stream_unary")
    return failure(lambda: method(requests(), timeout=LONG))


@probe(CHANNEL, "a timeout of `math.inf`, or of more seconds than the clock has")
def _(pair: Pair) -> Any:
    method = pair.method()
    return [
        failure(functools.partial(method, b"r", timeout=seconds)) for seconds in (math.inf, 1e12)
    ]


@probe(CHANNEL, "metadata with a number for a value")
def _(pair: Pair) -> Any:
    return failure(lambda: pair.method()(b"", timeout=LONG, metadata=(("k", 5),)))


@probe(CHANNEL, "metadata keys with spaces, values beyond ASCII")
def _(pair: Pair) -> Any:
    method = pair.method()
    pairs = ("a b", "v"), ("k", "\xe9")
    return [failure(functools.partial(method, b"", timeout=LONG, metadata=(p,))) for p in pairs]


@probe(CHANNEL, "a method without a leading slash")
def _(pair: Pair) -> Any:
    pair.serve()
    return failure(lambda: pair.connect().unary_unary("x.X/M")(b"", timeout=LONG))


@probe(CHANNEL, "a deserializer that returns None")
def _(pair: Pair) -> Any:
    def nothing(data: bytes) -> None:
        return None

    pair.serve(request_deserializer=nothing)
    there = failure(lambda: pair.connect().unary_unary("/x.X/M")(b"", timeout=LONG))
    return there, _here(pair, nothing)


def _here(pair: Pair, deserialize: Any) -> Any:
    pair.path += "2"
    pair.address += "2"
    pair.serve(numbers, "unary_stream")
    responses = pair.connect().unary_stream("/x.X/M", None, deserialize)(b"", timeout=LONG)
    return failure(lambda: next(responses)), responses.code().name


@probe(CHANNEL, "requests that are a list, and no iterator")
def _(pair: Pair) -> Any:
    method = pair.method(lambda requests, context: b"".join(requests), "stream_unary")
    return failure(lambda: method([b"a", b"b"], timeout=LONG))


@probe(CHANNEL, "a request without a serializer that is no bytes: a number, text, None")
def _(pair: Pair) -> Any:
    method = pair.method()
    by_number = pair.connect().unary_unary("/x.X/M", lambda value: 5)
    values: Any = (5, "text", None)
    return failure(lambda: by_number(b"", timeout=LONG)), [
        failure(functools.partial(method, value, timeout=LONG)) for value in values
    ]


@probe(CHANNEL, "a request that is a bytearray or memoryview")
def _(pair: Pair) -> Any:
    method = pair.method()
    values: Any = (bytearray(b"x"), memoryview(b"x"))
    return [failure(functools.partial(method, value, timeout=LONG)) for value in values]


@probe(CHANNEL, "subscribers at `close()`", waits=True)
def _(pair: Pair) -> Any:
    pair.serve()
    channel = pair.connect()
    states = _states(channel)
    eventually(lambda: "READY" in states)
    channel.close()
    if pair.kind == "ttrpc":
        eventually(lambda: "SHUTDOWN" in states)
    else:
        time.sleep(0.2)
    return states[-1]
