"""Probes of a Call: see the package."""

from __future__ import annotations

import contextlib
import pickle
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc

from tests.ttrpc.probes.pair import (
    LONG,
    Code,
    Pair,
    collected,
    eventually,
    failure,
    numbers,
    probe,
    waiting,
)

__all__: list[str] = []

CALL = "Call"


@probe(CALL, "an error is exception, call and future in one")
def _(pair: Pair) -> Any:
    def handler(request: bytes, context: Any) -> bytes:
        context.abort(Code.NOT_FOUND, "gone")
        raise AssertionError

    method = pair.method(handler)
    try:
        method(b"", timeout=LONG)
    except grpc.RpcError as error:
        found: Any = error
        return (
            isinstance(found, grpc.Call),
            isinstance(found, grpc.Future),
            (found.code().name, found.details()),
            (found.done(), found.running(), found.cancelled()),
            found.cancel(),
            found.exception() is found,
            found.traceback() is not None,
            failure(found.result),
        )


@probe(CALL, "`future.result()`, `exception()`, `traceback()` of a failure")
def _(pair: Pair) -> Any:
    future = pair.method(_abort).future(b"")
    return failure(future.result), future.exception().code().name, future.traceback() is not None


def _abort(request: bytes, context: Any) -> bytes:
    context.abort(Code.ABORTED, "enough")
    raise AssertionError


@probe(CALL, "`future.exception() is future`; a call is a `grpc.RpcError`")
def _(pair: Pair) -> Any:
    future = pair.method(_abort).future(b"")
    return (
        future.exception() is future,
        isinstance(future, grpc.RpcError),
        future.exception() is future.exception(),
    )


@probe(CALL, "`future.result()` twice")
def _(pair: Pair) -> Any:
    pair.serve()
    method = pair.connect().unary_unary("/x.X/M", None, lambda data: [data])
    future = method.future(b"r")
    return future.result(LONG) is future.result(LONG)


@probe(CALL, "`code()` of a response that cannot be decoded")
def _(pair: Pair) -> Any:
    pair.serve()
    method = pair.connect().unary_unary("/x.X/M", None, lambda data: 1 / 0)
    future = method.future(b"r")
    codes: list[str] = []
    future.add_done_callback(lambda call: codes.append(call.code().name))
    eventually(lambda: codes)
    return codes, future.code().name, failure(future.result), future.exception().code().name


@probe(CALL, "`is_active()`, `time_remaining()`, `add_callback()` of an error")
def _(pair: Pair) -> Any:
    try:
        pair.method(_abort)(b"", timeout=LONG)
    except grpc.RpcError as error:
        found: Any = error
        return [
            failure(found.is_active),
            failure(found.time_remaining),
            failure(lambda: found.add_callback(lambda: None)),
        ]


@probe(CALL, "`result(timeout)` that passes")
def _(pair: Pair) -> Any:
    gate = threading.Event()
    future = pair.method(waiting(gate)).future(b"r")
    try:
        return failure(lambda: future.result(0.05))
    finally:
        gate.set()


@probe(CALL, "`result()` of a stream before it is consumed, with a deadline", waits=True)
def _(pair: Pair) -> Any:
    method = pair.method(numbers, "unary_stream")
    list(method(b"", timeout=LONG))  # to connect takes a part of the first call's time
    responses = method(b"", timeout=1.5)
    return failure(lambda: responses.result() is responses)


@probe(CALL, "`next()` by several threads at once", waits=True)
def _(pair: Pair) -> Any:
    gate = threading.Event()

    def handler(request: bytes, context: Any) -> Iterator[bytes]:
        gate.wait(LONG)
        yield from numbers(request, context)

    responses = pair.method(handler, "unary_stream")(b"", timeout=LONG)
    found: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: found.append(collected(responses))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    gate.set()
    for thread in threads:
        thread.join(LONG)
    return sorted(message for messages in found for message in messages)


@probe(CALL, "`next()` after the end, and after a failure")
def _(pair: Pair) -> Any:
    def handler(request: bytes, context: Any) -> Iterator[bytes]:
        yield b"1"
        if request:
            context.abort(Code.DATA_LOSS, "bad")

    method = pair.method(handler, "unary_stream")
    streams = [method(request, timeout=LONG) for request in (b"", b"fail")]
    return [[collected(stream), collected(stream), failure(stream.__next__)] for stream in streams]


@probe(CALL, "the method `next()` of a stream, beside `__next__()`")
def _(pair: Pair) -> Any:
    return hasattr(pair.method(numbers, "unary_stream")(b"", timeout=LONG), "next")


@probe(CALL, "`cancel()` of a call in flight")
def _(pair: Pair) -> Any:
    gate = threading.Event()
    future = pair.method(waiting(gate)).future(b"r")
    cancelled = future.cancel()
    gate.set()
    return (
        bool(cancelled),
        future.cancelled(),
        future.done(),
        future.cancel(),
        future.code().name,
        failure(future.result),
        failure(future.exception),
        failure(future.traceback),
    )


@probe(CALL, "the handler of a call that was cancelled, or whose time is over", waits=True)
def _(pair: Pair) -> Any:
    entered, over, gate = threading.Event(), threading.Event(), threading.Event()

    def handler(request: bytes, context: Any) -> bytes:
        context.add_callback(over.set)
        entered.set()
        gate.wait(LONG)
        return b""

    future = pair.method(handler).future(b"")
    entered.wait(LONG)
    future.cancel()
    told = over.wait(LONG if pair.kind == "grpcio" else 0.2)
    gate.set()
    return told


@probe(CALL, "`done()` of a stream, and its callbacks, before it is consumed", waits=True)
def _(pair: Pair) -> Any:
    responses = pair.method(numbers, "unary_stream")(b"", timeout=LONG)
    fired = threading.Event()
    responses.add_done_callback(lambda call: fired.set())
    next(responses)
    time.sleep(0.2)
    before = (responses.done(), responses.is_active(), fired.is_set())
    rest = [message.decode() for message in responses]
    return before, rest, fired.wait(LONG), responses.done(), responses.code().name


@probe(CALL, "`cancel()` of a stream whose messages have arrived", waits=True)
def _(pair: Pair) -> Any:
    responses = pair.method(numbers, "unary_stream")(b"", timeout=LONG)
    next(responses)
    time.sleep(0.2)
    return bool(responses.cancel()), failure(lambda: next(responses)), responses.cancelled()


@probe(CALL, "messages that have arrived when the deadline passes", waits=True)
def _(pair: Pair) -> Any:
    method = pair.method(numbers, "unary_stream")
    list(method(b"", timeout=LONG))  # to connect takes a part of the first call's time
    responses = method(b"", timeout=1.5)
    next(responses)
    time.sleep(1.7)
    try:
        return [message.decode() for message in responses]
    except grpc.RpcError as error:
        found: Any = error
        return found.code().name


@probe(CALL, "a call whose object is gone")
def _(pair: Pair) -> Any:
    gate, ended = threading.Event(), threading.Event()
    call = pair.method(waiting(gate)).future(b"")
    call.add_callback(ended.set)
    del call
    told = ended.wait(LONG)
    gate.set()
    return told


@probe(CALL, "`exception()`, `result()` of a stream that has been consumed")
def _(pair: Pair) -> Any:
    responses = pair.method(numbers, "unary_stream")(b"", timeout=LONG)
    list(responses)
    return responses.exception(LONG), failure(lambda: responses.result(LONG) is None)


@probe(CALL, "callbacks: on another thread; at once, when the call is done")
def _(pair: Pair) -> Any:
    gate = threading.Event()
    future = pair.method(waiting(gate)).future(b"")
    threads: list[int] = []
    future.add_done_callback(lambda call: threads.append(threading.get_ident()))
    gate.set()
    eventually(lambda: threads)
    here = threading.get_ident()
    future.add_done_callback(lambda call: threads.append(threading.get_ident()))
    return threads[0] != here, threads[1] == here, future.add_callback(lambda: None)


@probe(CALL, "`initial_metadata()`")
def _(pair: Pair) -> Any:
    def handler(request: bytes, context: Any) -> bytes:
        with contextlib.suppress(ValueError):
            context.send_initial_metadata((("k", "v"),))
        return b""

    _, call = pair.method(handler).with_call(b"", timeout=LONG)
    return [tuple(pair) for pair in call.initial_metadata()]


@probe(CALL, "`time_remaining()`, `is_active()`")
def _(pair: Pair) -> Any:
    gate = threading.Event()
    method = pair.method(waiting(gate))
    future, timed = method.future(b""), method.future(b"", timeout=LONG)
    asked = future.time_remaining(), 0 < timed.time_remaining() <= LONG, timed.is_active()
    gate.set()
    future.result(LONG)
    return (*asked, future.is_active())


@probe(CALL, "`time_remaining()` of the call from `with_call()`")
def _(pair: Pair) -> Any:
    _, call = pair.method().with_call(b"", timeout=LONG)
    return call.time_remaining() is None


@probe(CALL, "a callback that is added when the call is done, and raises")
def _(pair: Pair) -> Any:
    future = pair.method().future(b"")
    future.result(LONG)
    return failure(lambda: future.add_done_callback(lambda call: 1 / 0))


@probe(CALL, "details of errors that the library itself makes")
def _(pair: Pair) -> Any:
    gate = threading.Event()
    future = pair.method(waiting(gate)).future(b"r")
    future.cancel()
    gate.set()
    return future.details()


@probe(CALL, "`debug_error_string()`, `repr()`")
def _(pair: Pair) -> Any:
    method = pair.method(_abort)
    with contextlib.suppress(grpc.RpcError):
        method(b"", timeout=LONG)
    future = method.future(b"")
    return (
        "enough" in future.debug_error_string(),
        "enough" in future.exception().debug_error_string(),
        ["ABORTED" in repr(item) for item in (future, future.exception())],
    )


@probe(CALL, "details of a call that succeeds")
def _(pair: Pair) -> Any:
    def handler(request: bytes, context: Any) -> bytes:
        context.set_details("well done")
        return b""

    return pair.outcome(handler)


@probe(CALL, "metadata whose value is None")
def _(pair: Pair) -> Any:
    method = pair.method()
    return failure(lambda: method(b"", metadata=(("key", None),), timeout=LONG))


@probe(CALL, "an error in `pickle`")
def _(pair: Pair) -> Any:
    method = pair.method(_abort)
    try:
        method(b"", timeout=LONG)
    except grpc.RpcError as error:
        raised = error
    return failure(lambda: pickle.loads(pickle.dumps(raised)).code().name)
