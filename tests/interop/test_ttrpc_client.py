"""A channel of nri_sync.ttrpc with a Go ttRPC server.

NRI_SYNC_INTEROP_CALLS is the number of calls of the load test; `make interop-full` sets it to 100,000.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

import nri_sync.ttrpc
from nri_sync.rpc import envelope_pb2
from tests.interop.conftest import RunPeer
from tests.interop.echo import (
    CALLERS,
    CALLS,
    LARGE_SIZES,
    LARGE_TIMEOUT,
    LOAD_TIMEOUT,
    MAX_MESSAGE,
    MIXED_SIZES,
    PROMPTLY,
    BytesValue,
    Echo,
    Empty,
    Int64Value,
    failure,
    largest_echo,
    numbered,
    pattern,
)  # fmt: skip
from tests.interop.gopeer import Peer

__all__: list[str] = []


def code_of(error: pytest.ExceptionInfo[grpc.RpcError]) -> grpc.StatusCode:
    return error.value.code()


def details_of(error: pytest.ExceptionInfo[grpc.RpcError]) -> str | None:
    return error.value.details()


@pytest.fixture
def server(run_peer: RunPeer, socket_path: Path) -> Peer:
    return run_peer("ttrpcpeer", "server", socket_path)


@pytest.fixture
def echo(server: Peer, socket_path: Path) -> Iterator[Echo]:
    with nri_sync.ttrpc.connect(f"unix://{socket_path}") as channel:
        yield Echo(channel)


@pytest.mark.timeout(LOAD_TIMEOUT)
def test_many_calls(echo: Echo) -> None:
    outcomes: Counter[str] = Counter()

    def caller(first: int) -> None:
        for number in range(first, CALLS, CALLERS):
            payload = numbered(number, MIXED_SIZES[number % len(MIXED_SIZES)])
            reply = echo.echo(BytesValue(value=payload))
            outcomes["right" if reply.value == payload else "wrong"] += 1

    with ThreadPoolExecutor(CALLERS) as callers:
        # list() raises the exceptions of the callers.
        list(callers.map(caller, range(CALLERS)))
    assert outcomes == {"right": CALLS}


@pytest.mark.parametrize("size", LARGE_SIZES)
def test_payload(echo: Echo, size: int) -> None:
    assert echo.echo(BytesValue(value=pattern(size))).value == pattern(size)


def test_large_payloads_at_once(echo: Echo) -> None:
    # More than the sockets hold, in both directions: each side must read while it writes.
    def call(number: int) -> bool:
        payload = numbered(number, 3 << 20)
        answer: bytes = echo.echo(BytesValue(value=payload), timeout=LARGE_TIMEOUT).value
        return answer == payload

    with ThreadPoolExecutor(CALLERS) as callers:
        assert all(callers.map(call, range(3 * CALLERS)))


def test_the_largest_reply(echo: Echo) -> None:
    size = largest_echo(reply=True)
    assert echo.sized(Int64Value(value=size), timeout=PROMPTLY).value == pattern(size)


def test_client_streaming(echo: Echo) -> None:
    numbers = (Int64Value(value=n) for n in range(1000))
    assert echo.sum(numbers, timeout=PROMPTLY).value == sum(range(1000))


def test_client_streaming_of_nothing(echo: Echo) -> None:
    assert echo.sum(iter(()), timeout=PROMPTLY).value == 0


def test_server_streaming(echo: Echo) -> None:
    replies = echo.count(Int64Value(value=1000), timeout=PROMPTLY)
    assert [reply.value for reply in replies] == list(range(1000))


def test_server_streaming_of_an_empty_request(echo: Echo) -> None:
    assert list(echo.count(Int64Value(), timeout=PROMPTLY)) == []


def test_server_streaming_that_fails(echo: Echo) -> None:
    replies = echo.count_then_fail(Int64Value(value=3), timeout=PROMPTLY)
    assert [next(replies).value for _ in range(3)] == [0, 1, 2]
    with pytest.raises(grpc.RpcError) as error:
        next(replies)
    assert code_of(error) is grpc.StatusCode.ABORTED
    assert details_of(error) == "enough"


def test_bidirectional_streaming(echo: Echo) -> None:
    payloads = [numbered(i, MIXED_SIZES[i % len(MIXED_SIZES)]) for i in range(200)]
    replies = echo.chat((BytesValue(value=data) for data in payloads), timeout=PROMPTLY)
    assert [reply.value for reply in replies] == payloads


def test_streams_beside_calls(echo: Echo) -> None:
    def chat(number: int) -> bool:
        payloads = [numbered(number, size) for size in (0, 100, 5000, 70_000)]
        replies = echo.chat((BytesValue(value=data) for data in payloads), timeout=PROMPTLY)
        return [reply.value for reply in replies] == payloads

    def call(number: int) -> bool:
        payload = numbered(number, 5000)
        answer: bytes = echo.echo(BytesValue(value=payload), timeout=PROMPTLY).value
        return answer == payload

    with ThreadPoolExecutor(CALLERS) as callers:
        right = [callers.submit([chat, call][i % 2], i) for i in range(200)]
        assert all(future.result() for future in right)


def test_status(echo: Echo) -> None:
    with pytest.raises(grpc.RpcError) as error:
        echo.fail(failure(9, "out of order", "a detail"), timeout=PROMPTLY)
    assert code_of(error) is grpc.StatusCode.FAILED_PRECONDITION
    assert details_of(error) == "out of order"
    trailing: Any = error.value.trailing_metadata()
    rich = dict(trailing)["grpc-status-details-bin"]
    (detail,) = envelope_pb2.Status.FromString(rich).details
    assert StringValue.FromString(detail.value).value == "a detail"


def test_a_go_error_without_status(echo: Echo) -> None:
    with pytest.raises(grpc.RpcError) as error:
        echo.plain(Empty(), timeout=PROMPTLY)
    assert code_of(error) is grpc.StatusCode.UNKNOWN
    assert details_of(error) == "plain error"


def test_a_handler_without_a_reply(echo: Echo) -> None:
    with pytest.raises(grpc.RpcError) as error:
        echo.nothing(Empty(), timeout=PROMPTLY)
    assert code_of(error) is grpc.StatusCode.UNKNOWN


@pytest.mark.parametrize("which", ["no_such_method", "no_such_service"])
def test_unimplemented(echo: Echo, which: str) -> None:
    with pytest.raises(grpc.RpcError) as error:
        getattr(echo, which)(Empty(), timeout=PROMPTLY)
    assert code_of(error) is grpc.StatusCode.UNIMPLEMENTED


def test_metadata(echo: Echo) -> None:
    metadata = (("one", "1"), ("two", "a"), ("two", "b"))
    reply = echo.metadata(Empty(), metadata=metadata, timeout=PROMPTLY)
    assert {key: list(reply[key]) for key in ("one", "two")} == {
        "one": ["1"],
        "two": ["a", "b"],
    }


def test_deadline(server: Peer, echo: Echo) -> None:
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as error:
        echo.sleep(Int64Value(value=60_000), timeout=0.5)
    assert code_of(error) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0.4 < time.monotonic() - began < PROMPTLY
    slept = server.wait_event("slept")["data"]
    assert slept["cancelled"]
    assert 0 < slept["left_ns"] <= 500_000_000
    # The late answer is dropped, and the connection works as before.
    assert echo.echo(BytesValue(value=b"after"), timeout=PROMPTLY).value == b"after"


def test_no_deadline(echo: Echo) -> None:
    assert echo.sleep(Int64Value(value=0)).value == 0


def test_cancellation(server: Peer, echo: Echo) -> None:
    call = echo.sleep.future(Int64Value(value=60_000))
    server.wait_event("sleeping")
    assert call.cancel()
    with pytest.raises(grpc.FutureCancelledError):
        call.result(PROMPTLY)
    assert call.code() is grpc.StatusCode.CANCELLED
    assert echo.echo(BytesValue(value=b"after"), timeout=PROMPTLY).value == b"after"


def test_oversized_request(echo: Echo) -> None:
    with pytest.raises(grpc.RpcError) as error:
        echo.echo(BytesValue(value=pattern(largest_echo() + 1)))
    assert code_of(error) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert echo.echo(BytesValue(value=b"after"), timeout=PROMPTLY).value == b"after"


def test_oversized_reply(echo: Echo) -> None:
    # The Go server cannot send it, and closes the connection without an answer.
    with pytest.raises(grpc.RpcError) as error:
        echo.sized(Int64Value(value=MAX_MESSAGE), timeout=PROMPTLY)
    assert code_of(error) is grpc.StatusCode.UNAVAILABLE


def test_a_server_that_closes_the_connection(server: Peer, echo: Echo, socket_path: Path) -> None:
    call = echo.sleep.future(Int64Value(value=60_000))
    server.wait_event("sleeping")
    assert server.call("close") == 1
    assert call.exception(PROMPTLY).code() is grpc.StatusCode.UNAVAILABLE
    # A channel is one connection: later calls fail at once, and another channel works.
    with pytest.raises(grpc.RpcError) as error:
        echo.echo(BytesValue(value=b"later"))
    assert code_of(error) is grpc.StatusCode.UNAVAILABLE
    with nri_sync.ttrpc.connect(f"unix://{socket_path}") as channel:
        assert Echo(channel).echo(BytesValue(value=b"again"), timeout=PROMPTLY).value == b"again"


def test_a_server_killed_in_mid_message(server: Peer, echo: Echo) -> None:
    waiting = [echo.sleep.future(Int64Value(value=60_000)) for _ in range(3)]
    for _ in waiting:
        server.wait_event("sleeping")
    with pytest.raises(grpc.RpcError) as error:
        echo.die(Empty(), timeout=PROMPTLY)
    assert code_of(error) is grpc.StatusCode.UNAVAILABLE
    for call in waiting:
        assert call.exception(PROMPTLY).code() is grpc.StatusCode.UNAVAILABLE
    assert server.wait() == -9
