"""Channels and servers of nri_sync.ttrpc with servers and clients of the Rust implementation.

The crate `ttrpc` has two kinds of both: with threads, for unary calls; and asynchronous, with streams.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import struct_pb2

import nri_sync.ttrpc
from tests.interop.conftest import RunPeer
from tests.interop.echo import (
    CALLERS,
    LARGE_SIZES,
    LARGE_TIMEOUT,
    LOAD_TIMEOUT,
    MIXED_SIZES,
    PROMPTLY,
    BytesValue,
    Echo,
    EchoService,
    Empty,
    Int64Value,
    failure,
    largest_echo,
    numbered,
    pattern,
)  # fmt: skip
from tests.interop.gopeer import Peer, PeerError, RustMissing, cargo_command

__all__: list[str] = []

Code = grpc.StatusCode
BOTH = ("sync", "async")


@pytest.fixture(autouse=True)
def _rust() -> None:
    try:
        cargo_command()
    except RustMissing as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def outcome(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        call()
    failed: Any = error.value
    return failed.code(), failed.details()


class TestServers:
    """Our channel, their server."""

    @pytest.fixture
    def server(self, run_peer: RunPeer, socket_path: Path, kind: str) -> Peer:
        return run_peer("rustpeer", "server", kind, f"unix://{socket_path}")

    @pytest.fixture
    def echo(self, server: Peer, socket_path: Path) -> Iterator[Echo]:
        with nri_sync.ttrpc.connect(f"unix://{socket_path}") as channel:
            yield Echo(channel)

    @pytest.mark.parametrize("kind", BOTH)
    @pytest.mark.timeout(LOAD_TIMEOUT)
    def test_many_calls(self, echo: Echo) -> None:
        def call(number: int) -> bool:
            payload = numbered(number, MIXED_SIZES[number % len(MIXED_SIZES)])
            reply: bytes = echo.echo(BytesValue(value=payload), timeout=LARGE_TIMEOUT).value
            return reply == payload

        with ThreadPoolExecutor(CALLERS) as callers:
            assert all(callers.map(call, range(1000)))

    @pytest.mark.parametrize("kind", BOTH)
    @pytest.mark.parametrize("size", LARGE_SIZES)
    def test_payload(self, echo: Echo, size: int) -> None:
        # The largest message has no room for a timeout.
        assert echo.echo(BytesValue(value=pattern(size))).value == pattern(size)

    @pytest.mark.parametrize("kind", BOTH)
    def test_an_oversized_reply(self, echo: Echo) -> None:
        too_large = Int64Value(value=largest_echo(reply=True) + 1)
        code, details = outcome(lambda: echo.sized(too_large, timeout=PROMPTLY))
        assert code is not Code.DEADLINE_EXCEEDED, details
        assert echo.echo(BytesValue(value=b"after"), timeout=PROMPTLY).value == b"after"

    @pytest.mark.parametrize("kind", BOTH)
    def test_status(self, echo: Echo) -> None:
        request = failure(9, "out of order")
        assert outcome(lambda: echo.fail(request, timeout=PROMPTLY)) == (
            Code.FAILED_PRECONDITION,
            "out of order",
        )

    @pytest.mark.parametrize("kind", BOTH)
    def test_an_error_without_status(self, echo: Echo) -> None:
        code, details = outcome(lambda: echo.plain(Empty(), timeout=PROMPTLY))
        assert code is Code.UNKNOWN
        assert "plain error" in details

    @pytest.mark.parametrize("kind", BOTH)
    def test_metadata(self, echo: Echo) -> None:
        metadata = (("one", "1"), ("two", "a"), ("two", "b"))
        reply = echo.metadata(Empty(), metadata=metadata, timeout=PROMPTLY)
        assert {key: list(reply[key]) for key in ("one", "two")} == {
            "one": ["1"],
            "two": ["a", "b"],
        }

    @pytest.mark.parametrize("kind", BOTH)
    def test_deadline(self, server: Peer, echo: Echo) -> None:
        began = time.monotonic()
        code, _ = outcome(lambda: echo.sleep(Int64Value(value=2000), timeout=0.3))
        assert code is Code.DEADLINE_EXCEEDED
        assert time.monotonic() - began < PROMPTLY
        assert 0 < server.wait_event("sleeping")["data"]["timeout_ns"] <= 300_000_000
        assert echo.echo(BytesValue(value=b"after"), timeout=PROMPTLY).value == b"after"

    @pytest.mark.parametrize("kind", BOTH)
    def test_unimplemented(self, echo: Echo, kind: str) -> None:
        code, _ = outcome(lambda: echo.no_such_method(Empty(), timeout=PROMPTLY))
        # The threaded server has another code for this.
        assert code is (Code.UNIMPLEMENTED if kind == "async" else Code.INVALID_ARGUMENT)

    @pytest.mark.parametrize("kind", ["async"])
    @pytest.mark.parametrize("count", [0, 1, 1000])
    def test_client_streaming(self, echo: Echo, count: int) -> None:
        numbers = (Int64Value(value=n) for n in range(count))
        assert echo.sum(numbers, timeout=PROMPTLY).value == sum(range(count))

    @pytest.mark.parametrize("kind", ["async"])
    @pytest.mark.parametrize("count", [0, 1, 1000])
    def test_server_streaming(self, echo: Echo, count: int) -> None:
        replies = echo.count(Int64Value(value=count), timeout=PROMPTLY)
        assert [reply.value for reply in replies] == list(range(count))

    @pytest.mark.parametrize("kind", ["async"])
    def test_server_streaming_that_fails(self, echo: Echo) -> None:
        replies = echo.count_then_fail(Int64Value(value=3), timeout=PROMPTLY)
        assert [next(replies).value for _ in range(3)] == [0, 1, 2]
        assert outcome(lambda: next(replies)) == (Code.ABORTED, "enough")

    @pytest.mark.parametrize("kind", ["async"])
    def test_bidirectional_streaming(self, echo: Echo) -> None:
        sizes = [*MIXED_SIZES * 10, 3 << 20]
        payloads = [numbered(number, size) for number, size in enumerate(sizes)]
        replies = echo.chat((BytesValue(value=data) for data in payloads), timeout=LARGE_TIMEOUT)
        assert [reply.value for reply in replies] == payloads

    @pytest.mark.parametrize("kind", ["async"])
    def test_a_chat_of_nothing(self, echo: Echo) -> None:
        assert list(echo.chat(iter(()), timeout=PROMPTLY)) == []

    @pytest.mark.parametrize("kind", BOTH)
    def test_a_server_that_is_killed(self, server: Peer, echo: Echo) -> None:
        waiting = echo.sleep.future(Int64Value(value=60_000))
        server.wait_event("sleeping")
        server.kill()
        assert waiting.exception(PROMPTLY).code() is Code.UNAVAILABLE


class TestClients:
    """Our server, their client."""

    @pytest.fixture
    def service(self, socket_path: Path) -> Iterator[EchoService]:
        service = EchoService()
        server = nri_sync.ttrpc.Server(handlers=[service.handler])
        server.add_insecure_port(f"unix://{socket_path}")
        server.start()
        yield service
        assert server.stop(None).wait(PROMPTLY)

    @pytest.fixture
    def client(self, run_peer: RunPeer, service: EchoService, socket_path: Path, kind: str) -> Peer:
        return run_peer("rustpeer", "client", kind, f"unix://{socket_path}")

    @staticmethod
    def call(client: Peer, method: str, request: Any, reply: Any = Empty, **options: Any) -> Any:
        data = request.SerializeToString().hex()
        answer = client.call("call", method=method, request=data, **options)
        return reply.FromString(bytes.fromhex(answer))

    def error(self, client: Peer, method: str, request: Any, **options: Any) -> tuple[str, str]:
        with pytest.raises(PeerError) as error:
            self.call(client, method, request, **options)
        return error.value.code, error.value.message

    @pytest.mark.parametrize("kind", BOTH)
    @pytest.mark.timeout(LOAD_TIMEOUT)
    def test_many_calls(self, client: Peer) -> None:
        answer = client.call(
            "calls", count=1000, callers=CALLERS, sizes=MIXED_SIZES, timeout=LOAD_TIMEOUT
        )
        assert answer == {"done": 1000, "wrong": 0}

    @pytest.mark.parametrize("kind", BOTH)
    @pytest.mark.parametrize("size", [*LARGE_SIZES, largest_echo()])
    def test_payload(self, client: Peer, size: int) -> None:
        assert client.call("calls", count=2, callers=2, sizes=[size]) == {"done": 2, "wrong": 0}

    @pytest.mark.parametrize("kind", BOTH)
    def test_an_oversized_reply(self, client: Peer) -> None:
        request = Int64Value(value=largest_echo(reply=True) + 1)
        assert self.error(client, "Sized", request)[0] == "RESOURCE_EXHAUSTED"
        assert self.call(client, "Echo", BytesValue(value=b"after"), BytesValue).value == b"after"

    @pytest.mark.parametrize("kind", BOTH)
    def test_status(self, client: Peer) -> None:
        failed = self.error(client, "Fail", failure(9, "out of order"))
        assert failed == ("FAILED_PRECONDITION", "out of order")

    @pytest.mark.parametrize("kind", BOTH)
    def test_unknown_method_and_service(self, client: Peer) -> None:
        assert self.error(client, "NoSuchMethod", Empty())[0] == "UNIMPLEMENTED"
        assert self.error(client, "Echo", Empty(), service="no.such.Service")[0] == "UNIMPLEMENTED"

    @pytest.mark.parametrize("kind", BOTH)
    def test_metadata(self, client: Peer) -> None:
        metadata = [("one", "1"), ("two", "a"), ("two", "b")]
        reply = self.call(client, "Metadata", Empty(), struct_pb2.Struct, metadata=metadata)
        assert {key: list(reply[key]) for key in reply} == {"one": ["1"], "two": ["a", "b"]}

    @pytest.mark.parametrize("kind", BOTH)
    def test_deadline(self, client: Peer, service: EchoService) -> None:
        _, text = self.error(client, "Sleep", Int64Value(value=600), timeout_ms=300)
        assert "timeout" in text.lower()
        assert 0 < service.seen.get(timeout=PROMPTLY)["left"] <= 0.3
        assert self.call(client, "Echo", BytesValue(value=b"after"), BytesValue).value == b"after"

    @pytest.mark.parametrize("kind", ["async"])
    @pytest.mark.parametrize("count", [0, 1, 50])
    def test_client_streaming(self, client: Peer, count: int) -> None:
        assert client.call("sum", values=list(range(count))) == sum(range(count))

    @pytest.mark.parametrize("kind", ["async"])
    @pytest.mark.parametrize("count", [0, 1, 1000])
    def test_server_streaming(self, client: Peer, count: int) -> None:
        answer = client.call("count", method="Count", n=count)
        assert answer == {"seen": list(range(count)), "end": "eof"}

    @pytest.mark.parametrize("kind", ["async"])
    def test_server_streaming_that_fails(self, client: Peer) -> None:
        answer = client.call("count", method="CountThenFail", n=3)
        assert answer == {"seen": [0, 1, 2], "end": "ABORTED", "message": "enough"}

    @pytest.mark.parametrize("kind", ["async"])
    def test_bidirectional_streaming(self, client: Peer) -> None:
        sizes = [*MIXED_SIZES * 10, 3 << 20]
        assert client.call("chat", sizes=sizes) == len(sizes)

    @pytest.mark.parametrize("kind", BOTH)
    def test_a_client_that_is_killed(self, client: Peer, service: EchoService) -> None:
        client.begin(
            "call", method="Sleep", request=Int64Value(value=60_000).SerializeToString().hex()
        )
        service.sleeping.get(timeout=PROMPTLY)
        client.kill()
        assert service.seen.get(timeout=PROMPTLY)["cancelled"]
