"""A server of nri_sync.ttrpc with Go ttRPC clients.

NRI_SYNC_INTEROP_CALLS is the number of calls of the load test; `make interop-full` sets it to 100,000.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nri_sync.ttrpc
from tests.interop.conftest import RunPeer
from tests.interop.echo import (
    CALLERS,
    CALLS,
    LARGE_SIZES,
    LOAD_TIMEOUT,
    MIXED_SIZES,
    PROMPTLY,
    EchoService,
    largest_echo,
)  # fmt: skip
from tests.interop.gopeer import Peer, PeerError

__all__: list[str] = []

TYPE = "type.googleapis.com/google.protobuf."


def any_of(name: str, value: object) -> dict[str, object]:
    """The protojson of an Any with one of protobuf's own messages."""
    return {"@type": TYPE + name, "value": value}


@pytest.fixture
def service(socket_path: Path) -> Iterator[EchoService]:
    service = EchoService()
    server = nri_sync.ttrpc.Server()
    server.add_generic_rpc_handlers((service.handler,))
    server.add_insecure_port(f"unix://{socket_path}")
    server.start()
    yield service
    assert server.stop(None).wait(PROMPTLY)


@pytest.fixture
def client(run_peer: RunPeer, service: EchoService, socket_path: Path) -> Peer:
    peer = run_peer("ttrpcpeer", "client", socket_path)
    peer.call("connect")
    return peer


def call(client: Peer, method: str, request: object, **options: Any) -> Any:
    reply = options.pop("reply", "Empty")
    return client.call(
        "call", method=method, request=request, reply="google.protobuf." + reply, **options
    )


def assert_still_serves(client: Peer) -> None:
    reply = call(client, "Echo", any_of("BytesValue", "YWZ0ZXI="), reply="BytesValue")
    assert reply["value"] == "YWZ0ZXI="


@pytest.mark.timeout(LOAD_TIMEOUT)
def test_many_calls(client: Peer) -> None:
    result = client.call(
        "calls", count=CALLS, callers=CALLERS, sizes=MIXED_SIZES, timeout=LOAD_TIMEOUT
    )
    assert (result["done"], result["wrong"], result["errors"]) == (CALLS, 0, {})


@pytest.mark.parametrize("size", LARGE_SIZES)
def test_payload(client: Peer, size: int) -> None:
    result = client.call("calls", count=2, callers=2, sizes=[size])
    assert (result["done"], result["wrong"], result["errors"]) == (2, 0, {})


def test_large_payloads_at_once(client: Peer) -> None:
    result = client.call("calls", count=3 * CALLERS, callers=CALLERS, sizes=[3 << 20])
    assert (result["done"], result["wrong"], result["errors"]) == (3 * CALLERS, 0, {})


def test_streams(client: Peer) -> None:
    result = client.call("streams", count=600, callers=CALLERS, sizes=[0, 1, 5000, 70_000])
    assert (result["done"], result["wrong"], result["errors"]) == (600, 0, {})


def test_client_streaming(client: Peer) -> None:
    assert client.call("sum", values=list(range(1000))) == sum(range(1000))
    assert client.call("sum", values=[]) == 0


def test_server_streaming(client: Peer) -> None:
    result = client.call("count", method="Count", n=1000)
    assert result["seen"] == list(range(1000))
    assert result["end"]["code"] == "eof"


def test_server_streaming_of_an_empty_request(client: Peer) -> None:
    assert client.call("count", method="Count", n=0)["seen"] == []


def test_server_streaming_that_fails(client: Peer) -> None:
    result = client.call("count", method="CountThenFail", n=3)
    assert result["seen"] == [0, 1, 2]
    assert (result["end"]["code"], result["end"]["message"]) == ("Aborted", "enough")


def test_bidirectional_streaming(client: Peer) -> None:
    client.call("chat", sizes=MIXED_SIZES * 5)


def test_status(client: Peer) -> None:
    request = any_of("Struct", {"code": 9, "message": "out of order", "detail": "a detail"})
    with pytest.raises(PeerError) as error:
        call(client, "Fail", request)
    assert (error.value.code, error.value.message) == ("FailedPrecondition", "out of order")
    assert error.value.details == ["a detail"]


@pytest.mark.parametrize(
    ("method", "text"), [("Plain", "plain error"), ("NotImplemented", "not yet")]
)
def test_an_exception_is_never_unimplemented(client: Peer, method: str, text: str) -> None:
    # A runtime takes this code as a sign of a plugin of an old version.
    with pytest.raises(PeerError) as error:
        call(client, method, any_of("Empty", {}))
    assert error.value.code == "Unknown"
    assert text in error.value.message
    assert_still_serves(client)


def test_unknown_method_and_service(client: Peer) -> None:
    for names in ({"method": "NoSuchMethod"}, {"method": "Echo", "service": "no.such.Service"}):
        with pytest.raises(PeerError) as error:
            call(client, request=any_of("Empty", {}), **names)
        assert error.value.code == "Unimplemented"
    assert_still_serves(client)


def test_metadata(client: Peer) -> None:
    metadata = {"one": ["1"], "two": ["a", "b"]}
    reply = call(client, "Metadata", any_of("Empty", {}), reply="Struct", metadata=metadata)
    assert reply["value"] == metadata


def test_deadline(client: Peer, service: EchoService) -> None:
    # The caller gives up. The handler knows its deadline, and may continue.
    with pytest.raises(PeerError) as error:
        call(client, "Sleep", any_of("Int64Value", 600), reply="Int64Value", timeout_ms=300)
    assert error.value.code == "deadline"
    seen = service.seen.get(timeout=PROMPTLY)
    assert 0 < seen["left"] <= 0.3
    assert not seen["cancelled"]
    # The late answer is dropped, and the connection works as before.
    assert_still_serves(client)


def test_no_deadline(client: Peer, service: EchoService) -> None:
    call(client, "Sleep", any_of("Int64Value", 0), reply="Int64Value")
    assert service.seen.get(timeout=PROMPTLY)["left"] is None


def test_cancellation(client: Peer, service: EchoService) -> None:
    # The Go client sends nothing to the server: it only forgets the call.
    with pytest.raises(PeerError) as error:
        call(client, "Sleep", any_of("Int64Value", 500), reply="Int64Value", cancel_after_ms=100)
    assert error.value.code == "cancelled"
    assert not service.seen.get(timeout=PROMPTLY)["cancelled"]
    assert_still_serves(client)


def test_oversized_request(client: Peer) -> None:
    with pytest.raises(PeerError) as error:
        client.call(
            "call", method="Echo", size=largest_echo() + 1, reply="google.protobuf.BytesValue"
        )
    assert error.value.code == "ResourceExhausted"
    assert_still_serves(client)


def test_oversized_reply(client: Peer) -> None:
    request = any_of("Int64Value", largest_echo(reply=True) + 1)
    with pytest.raises(PeerError) as error:
        call(client, "Sized", request, reply="BytesValue")
    assert error.value.code == "ResourceExhausted"
    assert_still_serves(client)


def test_the_largest_reply(client: Peer) -> None:
    request = any_of("Int64Value", largest_echo(reply=True))
    reply = call(client, "Sized", request, reply="BytesValue")
    assert len(reply["value"]) == (largest_echo(reply=True) + 2) // 3 * 4


def test_a_client_killed_in_mid_call(
    run_peer: RunPeer, client: Peer, service: EchoService, socket_path: Path
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
    assert_still_serves(client)


@pytest.mark.timeout(LOAD_TIMEOUT)
def test_several_clients(run_peer: RunPeer, client: Peer, socket_path: Path) -> None:
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
