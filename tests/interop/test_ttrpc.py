"""nri_sync.ttrpc against the reference ttRPC, in both directions, each side being client and server.

NRI_SYNC_INTEROP_CALLS is the number of calls of each load test; `make interop-full` sets it to 100,000.
"""

from __future__ import annotations

import os
import threading
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
from nri_sync.ttrpc import envelope_pb2
from tests.interop.conftest import RunPeer
from tests.interop.echo import (
    MAX_MESSAGE,
    BytesValue,
    Echo,
    EchoService,
    Empty,
    Int64Value,
    failure,
    largest_echo,
    numbered,
    pattern,
)
from tests.interop.gopeer import Peer, PeerError

__all__: list[str] = []

CALLS = int(os.environ.get("NRI_SYNC_INTEROP_CALLS", "5000"))
CALLERS = 8
# A call takes well under a millisecond; the rest is for a machine that does something else.
LOAD_TIMEOUT = 60.0 + CALLS / 250
# The sizes around which the shape on the wire changes: nothing, the 4,096-byte buffer of a Go reader less
# the headers and names before a payload, and what does not fit a socket's buffer.
MIXED_SIZES = [0, 1, 100, 1000, *range(4020, 4100, 7), 5000, 70_000]
LARGE_SIZES = [0, 1, 4096, 65_536, 262_144, 1 << 20, 3 << 20, largest_echo()]
# Longer than any answer takes, shorter than a test may last.
PROMPTLY = 10.0
LARGE_TIMEOUT = 45.0

TYPE = "type.googleapis.com/google.protobuf."


def any_of(name: str, value: object) -> dict[str, object]:
    """protojson of an Any with one of protobuf's own messages."""
    return {"@type": TYPE + name, "value": value}


def code_of(error: pytest.ExceptionInfo[grpc.RpcError]) -> grpc.StatusCode:
    return error.value.code()


def details_of(error: pytest.ExceptionInfo[grpc.RpcError]) -> str | None:
    return error.value.details()


class TestPythonCallsGo:
    @pytest.fixture
    def server(self, run_peer: RunPeer, socket_path: Path) -> Peer:
        return run_peer("ttrpcpeer", "server", socket_path)

    @pytest.fixture
    def echo(self, server: Peer, socket_path: Path) -> Iterator[Echo]:
        with nri_sync.ttrpc.connect(f"unix://{socket_path}") as channel:
            yield Echo(channel)

    @pytest.mark.timeout(LOAD_TIMEOUT)
    def test_many_calls(self, echo: Echo) -> None:
        outcomes: Counter[str] = Counter()

        def caller(first: int) -> None:
            for number in range(first, CALLS, CALLERS):
                payload = numbered(number, MIXED_SIZES[number % len(MIXED_SIZES)])
                reply = echo.echo(BytesValue(value=payload))
                outcomes["right" if reply.value == payload else "wrong"] += 1

        with ThreadPoolExecutor(CALLERS) as callers:
            # What a caller raises is raised here.
            list(callers.map(caller, range(CALLERS)))
        assert outcomes == {"right": CALLS}

    @pytest.mark.parametrize("size", LARGE_SIZES)
    def test_payload(self, echo: Echo, size: int) -> None:
        assert echo.echo(BytesValue(value=pattern(size))).value == pattern(size)

    def test_large_payloads_at_once(self, echo: Echo) -> None:
        # More than the sockets hold, both ways: whoever writes must be read meanwhile.
        def call(number: int) -> bool:
            payload = numbered(number, 3 << 20)
            answer: bytes = echo.echo(BytesValue(value=payload), timeout=LARGE_TIMEOUT).value
            return answer == payload

        with ThreadPoolExecutor(CALLERS) as callers:
            assert all(callers.map(call, range(3 * CALLERS)))

    def test_the_largest_reply(self, echo: Echo) -> None:
        size = largest_echo(reply=True)
        assert echo.sized(Int64Value(value=size), timeout=PROMPTLY).value == pattern(size)

    def test_client_streaming(self, echo: Echo) -> None:
        numbers = (Int64Value(value=n) for n in range(1000))
        assert echo.sum(numbers, timeout=PROMPTLY).value == sum(range(1000))

    def test_client_streaming_of_nothing(self, echo: Echo) -> None:
        assert echo.sum(iter(()), timeout=PROMPTLY).value == 0

    def test_server_streaming(self, echo: Echo) -> None:
        replies = echo.count(Int64Value(value=1000), timeout=PROMPTLY)
        assert [reply.value for reply in replies] == list(range(1000))

    def test_server_streaming_of_an_empty_request(self, echo: Echo) -> None:
        assert list(echo.count(Int64Value(), timeout=PROMPTLY)) == []

    def test_server_streaming_that_fails(self, echo: Echo) -> None:
        replies = echo.count_then_fail(Int64Value(value=3), timeout=PROMPTLY)
        assert [next(replies).value for _ in range(3)] == [0, 1, 2]
        with pytest.raises(grpc.RpcError) as error:
            next(replies)
        assert code_of(error) is grpc.StatusCode.ABORTED
        assert details_of(error) == "enough"

    def test_bidirectional_streaming(self, echo: Echo) -> None:
        payloads = [numbered(i, MIXED_SIZES[i % len(MIXED_SIZES)]) for i in range(200)]
        replies = echo.chat((BytesValue(value=data) for data in payloads), timeout=PROMPTLY)
        assert [reply.value for reply in replies] == payloads

    def test_streams_beside_calls(self, echo: Echo) -> None:
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

    def test_status(self, echo: Echo) -> None:
        with pytest.raises(grpc.RpcError) as error:
            echo.fail(failure(9, "out of order", "a detail"), timeout=PROMPTLY)
        assert code_of(error) is grpc.StatusCode.FAILED_PRECONDITION
        assert details_of(error) == "out of order"
        trailing: Any = error.value.trailing_metadata()
        rich = dict(trailing)["grpc-status-details-bin"]
        (detail,) = envelope_pb2.Status.FromString(rich).details
        assert StringValue.FromString(detail.value).value == "a detail"

    def test_a_go_error_without_status(self, echo: Echo) -> None:
        with pytest.raises(grpc.RpcError) as error:
            echo.plain(Empty(), timeout=PROMPTLY)
        assert code_of(error) is grpc.StatusCode.UNKNOWN
        assert details_of(error) == "plain error"

    def test_a_handler_without_a_reply(self, echo: Echo) -> None:
        with pytest.raises(grpc.RpcError) as error:
            echo.nothing(Empty(), timeout=PROMPTLY)
        assert code_of(error) is grpc.StatusCode.UNKNOWN

    @pytest.mark.parametrize("which", ["no_such_method", "no_such_service"])
    def test_unimplemented(self, echo: Echo, which: str) -> None:
        with pytest.raises(grpc.RpcError) as error:
            getattr(echo, which)(Empty(), timeout=PROMPTLY)
        assert code_of(error) is grpc.StatusCode.UNIMPLEMENTED

    def test_metadata(self, echo: Echo) -> None:
        metadata = (("one", "1"), ("two", "a"), ("two", "b"))
        reply = echo.metadata(Empty(), metadata=metadata, timeout=PROMPTLY)
        assert {key: list(reply[key]) for key in ("one", "two")} == {
            "one": ["1"],
            "two": ["a", "b"],
        }

    def test_deadline(self, server: Peer, echo: Echo) -> None:
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as error:
            echo.sleep(Int64Value(value=60_000), timeout=0.5)
        assert code_of(error) is grpc.StatusCode.DEADLINE_EXCEEDED
        assert 0.4 < time.monotonic() - began < PROMPTLY
        slept = server.wait_event("slept")["data"]
        assert slept["cancelled"]
        assert 0 < slept["left_ns"] <= 500_000_000
        # The late answer belongs to nobody, and the connection is as good as before.
        assert echo.echo(BytesValue(value=b"after"), timeout=PROMPTLY).value == b"after"

    def test_no_deadline(self, echo: Echo) -> None:
        assert echo.sleep(Int64Value(value=0)).value == 0

    def test_cancellation(self, server: Peer, echo: Echo) -> None:
        call = echo.sleep.future(Int64Value(value=60_000))
        server.wait_event("sleeping")
        assert call.cancel()
        with pytest.raises(grpc.FutureCancelledError):
            call.result(PROMPTLY)
        assert call.code() is grpc.StatusCode.CANCELLED
        assert echo.echo(BytesValue(value=b"after"), timeout=PROMPTLY).value == b"after"

    def test_oversized_request(self, echo: Echo) -> None:
        with pytest.raises(grpc.RpcError) as error:
            echo.echo(BytesValue(value=pattern(largest_echo() + 1)))
        assert code_of(error) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert echo.echo(BytesValue(value=b"after"), timeout=PROMPTLY).value == b"after"

    def test_oversized_reply(self, echo: Echo) -> None:
        # The reference cannot send it, and gives the connection up without an answer.
        with pytest.raises(grpc.RpcError) as error:
            echo.sized(Int64Value(value=MAX_MESSAGE), timeout=PROMPTLY)
        assert code_of(error) is grpc.StatusCode.UNAVAILABLE

    def test_a_server_that_closes_the_connection(
        self, server: Peer, echo: Echo, socket_path: Path
    ) -> None:
        call = echo.sleep.future(Int64Value(value=60_000))
        server.wait_event("sleeping")
        assert server.call("close") == 1
        assert call.exception(PROMPTLY).code() is grpc.StatusCode.UNAVAILABLE
        # A channel is one connection: what is asked later fails at once, and another channel works.
        with pytest.raises(grpc.RpcError) as error:
            echo.echo(BytesValue(value=b"later"))
        assert code_of(error) is grpc.StatusCode.UNAVAILABLE
        with nri_sync.ttrpc.connect(f"unix://{socket_path}") as channel:
            assert (
                Echo(channel).echo(BytesValue(value=b"again"), timeout=PROMPTLY).value == b"again"
            )

    def test_a_server_killed_in_mid_message(self, server: Peer, echo: Echo) -> None:
        waiting = [echo.sleep.future(Int64Value(value=60_000)) for _ in range(3)]
        for _ in waiting:
            server.wait_event("sleeping")
        with pytest.raises(grpc.RpcError) as error:
            echo.die(Empty(), timeout=PROMPTLY)
        assert code_of(error) is grpc.StatusCode.UNAVAILABLE
        for call in waiting:
            assert call.exception(PROMPTLY).code() is grpc.StatusCode.UNAVAILABLE
        assert server.wait() == -9


class TestGoCallsPython:
    @pytest.fixture
    def service(self, socket_path: Path) -> Iterator[EchoService]:
        service = EchoService()
        server = nri_sync.ttrpc.Server()
        server.add_generic_rpc_handlers((service.handler,))
        server.add_insecure_port(f"unix://{socket_path}")
        server.start()
        yield service
        assert server.stop(None).wait(PROMPTLY)

    @pytest.fixture
    def client(self, run_peer: RunPeer, service: EchoService, socket_path: Path) -> Peer:
        peer = run_peer("ttrpcpeer", "client", socket_path)
        peer.call("connect")
        return peer

    @staticmethod
    def call(client: Peer, method: str, request: object, **options: Any) -> Any:
        reply = options.pop("reply", "Empty")
        return client.call(
            "call", method=method, request=request, reply="google.protobuf." + reply, **options
        )

    def assert_still_serves(self, client: Peer) -> None:
        reply = self.call(client, "Echo", any_of("BytesValue", "YWZ0ZXI="), reply="BytesValue")
        assert reply["value"] == "YWZ0ZXI="

    @pytest.mark.timeout(LOAD_TIMEOUT)
    def test_many_calls(self, client: Peer) -> None:
        result = client.call(
            "calls", count=CALLS, callers=CALLERS, sizes=MIXED_SIZES, timeout=LOAD_TIMEOUT
        )
        assert (result["done"], result["wrong"], result["errors"]) == (CALLS, 0, {})

    @pytest.mark.parametrize("size", LARGE_SIZES)
    def test_payload(self, client: Peer, size: int) -> None:
        result = client.call("calls", count=2, callers=2, sizes=[size])
        assert (result["done"], result["wrong"], result["errors"]) == (2, 0, {})

    def test_large_payloads_at_once(self, client: Peer) -> None:
        result = client.call("calls", count=3 * CALLERS, callers=CALLERS, sizes=[3 << 20])
        assert (result["done"], result["wrong"], result["errors"]) == (3 * CALLERS, 0, {})

    def test_streams(self, client: Peer) -> None:
        result = client.call("streams", count=600, callers=CALLERS, sizes=[0, 1, 5000, 70_000])
        assert (result["done"], result["wrong"], result["errors"]) == (600, 0, {})

    def test_client_streaming(self, client: Peer) -> None:
        assert client.call("sum", values=list(range(1000))) == sum(range(1000))
        assert client.call("sum", values=[]) == 0

    def test_server_streaming(self, client: Peer) -> None:
        result = client.call("count", method="Count", n=1000)
        assert result["seen"] == list(range(1000))
        assert result["end"]["code"] == "eof"

    def test_server_streaming_of_an_empty_request(self, client: Peer) -> None:
        assert client.call("count", method="Count", n=0)["seen"] == []

    def test_server_streaming_that_fails(self, client: Peer) -> None:
        result = client.call("count", method="CountThenFail", n=3)
        assert result["seen"] == [0, 1, 2]
        assert (result["end"]["code"], result["end"]["message"]) == ("Aborted", "enough")

    def test_bidirectional_streaming(self, client: Peer) -> None:
        client.call("chat", sizes=MIXED_SIZES * 5)

    def test_status(self, client: Peer) -> None:
        request = any_of("Struct", {"code": 9, "message": "out of order", "detail": "a detail"})
        with pytest.raises(PeerError) as error:
            self.call(client, "Fail", request)
        assert (error.value.code, error.value.message) == ("FailedPrecondition", "out of order")
        assert error.value.details == ["a detail"]

    @pytest.mark.parametrize(
        ("method", "text"), [("Plain", "plain error"), ("NotImplemented", "not yet")]
    )
    def test_an_exception_is_never_unimplemented(
        self, client: Peer, method: str, text: str
    ) -> None:
        # A runtime takes that code for a plugin of an old version.
        with pytest.raises(PeerError) as error:
            self.call(client, method, any_of("Empty", {}))
        assert error.value.code == "Unknown"
        assert text in error.value.message
        self.assert_still_serves(client)

    def test_unknown_method_and_service(self, client: Peer) -> None:
        for names in ({"method": "NoSuchMethod"}, {"method": "Echo", "service": "no.such.Service"}):
            with pytest.raises(PeerError) as error:
                self.call(client, request=any_of("Empty", {}), **names)
            assert error.value.code == "Unimplemented"
        self.assert_still_serves(client)

    def test_metadata(self, client: Peer) -> None:
        metadata = {"one": ["1"], "two": ["a", "b"]}
        reply = self.call(
            client, "Metadata", any_of("Empty", {}), reply="Struct", metadata=metadata
        )
        assert reply["value"] == metadata

    def test_deadline(self, client: Peer, service: EchoService) -> None:
        # The caller gives up; the handler is told how long it has, and goes on if it wants to.
        with pytest.raises(PeerError) as error:
            self.call(
                client, "Sleep", any_of("Int64Value", 600), reply="Int64Value", timeout_ms=300
            )
        assert error.value.code == "deadline"
        seen = service.seen.get(timeout=PROMPTLY)
        assert 0 < seen["left"] <= 0.3
        assert not seen["cancelled"]
        # The late answer belongs to nobody, and the connection is as good as before.
        self.assert_still_serves(client)

    def test_no_deadline(self, client: Peer, service: EchoService) -> None:
        self.call(client, "Sleep", any_of("Int64Value", 0), reply="Int64Value")
        assert service.seen.get(timeout=PROMPTLY)["left"] is None

    def test_cancellation(self, client: Peer, service: EchoService) -> None:
        # The reference tells the server nothing: it only forgets the call.
        with pytest.raises(PeerError) as error:
            self.call(
                client, "Sleep", any_of("Int64Value", 500), reply="Int64Value", cancel_after_ms=100
            )
        assert error.value.code == "cancelled"
        assert not service.seen.get(timeout=PROMPTLY)["cancelled"]
        self.assert_still_serves(client)

    def test_oversized_request(self, client: Peer) -> None:
        with pytest.raises(PeerError) as error:
            client.call(
                "call", method="Echo", size=largest_echo() + 1, reply="google.protobuf.BytesValue"
            )
        assert error.value.code == "ResourceExhausted"
        self.assert_still_serves(client)

    def test_oversized_reply(self, client: Peer) -> None:
        request = any_of("Int64Value", largest_echo(reply=True) + 1)
        with pytest.raises(PeerError) as error:
            self.call(client, "Sized", request, reply="BytesValue")
        assert error.value.code == "ResourceExhausted"
        self.assert_still_serves(client)

    def test_the_largest_reply(self, client: Peer) -> None:
        request = any_of("Int64Value", largest_echo(reply=True))
        reply = self.call(client, "Sized", request, reply="BytesValue")
        assert len(reply["value"]) == (largest_echo(reply=True) + 2) // 3 * 4

    def test_a_client_killed_in_mid_call(
        self, run_peer: RunPeer, client: Peer, service: EchoService, socket_path: Path
    ) -> None:
        doomed = run_peer("ttrpcpeer", "client", socket_path)
        doomed.call("connect")
        doomed.begin(
            "call",
            method="Sleep",
            request=any_of("Int64Value", 60_000),
            reply="google.protobuf.Int64Value",
        )
        service.sleeping.get(timeout=PROMPTLY)
        doomed.kill()
        assert service.seen.get(timeout=PROMPTLY)["cancelled"]
        self.assert_still_serves(client)

    @pytest.mark.timeout(LOAD_TIMEOUT)
    def test_several_clients(self, run_peer: RunPeer, client: Peer, socket_path: Path) -> None:
        others = [run_peer("ttrpcpeer", "client", socket_path) for _ in range(3)]
        for other in others:
            other.call("connect")
        results: list[Any] = []

        def load(peer: Peer) -> None:
            results.append(peer.call("calls", count=500, callers=4, sizes=MIXED_SIZES))

        threads = [threading.Thread(target=load, args=(peer,)) for peer in [client, *others]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [(r["done"], r["wrong"], r["errors"]) for r in results] == [(500, 0, {})] * 4
