"""Unary calls without grpc, against a server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from nri_sync.codes import StatusCode
from nri_sync.errors import CallFailed, ConnectionLost
from nri_sync.rpc.client import ClientEnd
from nri_sync.rpc.unary import UnaryMethod
from nri_sync.ttrpc import Channel
from tests.net.rig import LONG
from tests.ttrpc.conftest import Service
from tests.ttrpc.rig import SERVICE, encoded, text

__all__: list[str] = []


def method(channel: Channel, name: str, decode: Any = StringValue.FromString) -> UnaryMethod:
    end: ClientEnd = channel.end
    return UnaryMethod(end, f"/{SERVICE}/{name}", StringValue.SerializeToString, decode)


def test_a_call(channel: Channel) -> None:
    assert method(channel, "Echo")(text("x"), LONG) == text("x")


def test_several_calls_at_once(channel: Channel) -> None:
    calls = [method(channel, "Echo").begin(text(str(n)), LONG) for n in range(20)]
    assert [call.result().value for call in reversed(calls)] == [str(n) for n in range(19, -1, -1)]


def test_an_error_of_the_server_has_no_cause(channel: Channel) -> None:
    with pytest.raises(CallFailed) as caught:
        method(channel, "Fail")(text("gone"), LONG)
    assert (caught.value.code(), caught.value.details()) == (StatusCode.NOT_FOUND, "gone")
    assert caught.value.__cause__ is None
    assert caught.value.method == f"/{SERVICE}/Fail"


def test_the_deadline(channel: Channel, service: Service) -> None:
    with pytest.raises(CallFailed) as caught:
        method(channel, "Wait")(text("x"), 0.05)
    assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
    assert isinstance(caught.value.__cause__, TimeoutError)


def test_the_loss_of_the_connection(channel: Channel, service: Service) -> None:
    call = method(channel, "Wait").begin(text("x"), LONG)
    assert service.entered.wait(LONG)
    channel.end.link.close(ConnectionLost("cut"))
    with pytest.raises(CallFailed) as caught:
        call.result()
    assert caught.value.code() is StatusCode.UNAVAILABLE
    assert isinstance(caught.value.__cause__, ConnectionLost)


def test_another_thread_cancels(channel: Channel, service: Service) -> None:
    call = method(channel, "Wait").begin(text("x"), LONG)
    assert service.entered.wait(LONG)
    threading.Thread(target=call.cancel).start()
    with pytest.raises(CallFailed) as caught:
        call.result()
    assert caught.value.code() is StatusCode.CANCELLED
    assert not call.cancel()


def test_a_response_that_cannot_be_decoded(channel: Channel) -> None:
    def decode(data: bytes) -> Any:
        assert data == encoded("x")
        raise ValueError("not this")

    with pytest.raises(CallFailed, match="cannot deserialize the response: not this") as caught:
        method(channel, "Echo", decode)(text("x"), LONG)
    assert caught.value.code() is StatusCode.INTERNAL


@pytest.fixture(autouse=True)
def _released(service: Service) -> Iterator[None]:
    yield
    service.gate.set()
