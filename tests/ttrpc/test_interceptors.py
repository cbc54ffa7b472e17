"""A method of the peer that the stub calls, with interceptors of grpc around it."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from nri_sync.codes import StatusCode
from nri_sync.errors import CallFailed, ConnectionLost
from nri_sync.ttrpc import Channel
from nri_sync.ttrpc.interceptors import InterceptedMethod
from tests.ttrpc.conftest import Service
from tests.ttrpc.rig import LONG, SERVICE, text

__all__: list[str] = []


class Upper(grpc.UnaryUnaryClientInterceptor):
    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        if request.value == "raise":
            raise ZeroDivisionError("of the interceptor")
        return continuation(details, text(request.value.upper()))


class Notes(grpc.UnaryUnaryClientInterceptor):
    """Notes the metadata of each call."""

    def __init__(self) -> None:
        self.metadata: list[Any] = []

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.metadata.append(details.metadata)
        return continuation(details, request)


def method(channel: Channel, name: str, interceptor: Any = None) -> InterceptedMethod:
    encode, decode = StringValue.SerializeToString, StringValue.FromString
    interceptors = [interceptor or Upper()]
    return InterceptedMethod(channel.end, f"/{SERVICE}/{name}", encode, decode, interceptors)


@pytest.fixture(params=["called", "begun"])
def outcome(request: Any, channel: Channel) -> Any:
    """Makes a call in one of the two ways, and returns the response."""

    def make(name: str, value: str, timeout: float = LONG) -> Any:
        called = method(channel, name)
        if request.param == "called":
            return called(text(value), timeout)
        return called.begin(text(value), timeout).result()

    return make


def test_a_call(outcome: Any) -> None:
    assert outcome("Echo", "x") == text("X")


def test_an_interceptor_gets_the_metadata_or_none(channel: Channel) -> None:
    notes = Notes()
    called = method(channel, "Echo", notes)
    for metadata in ((("key", "value"),), ()):
        assert called(text("x"), LONG, metadata) == text("x")
        assert called.begin(text("x"), LONG, metadata).result() == text("x")
    assert notes.metadata == [(("key", "value"),), (("key", "value"),), None, None]


def test_an_error_of_the_server_has_no_cause(outcome: Any) -> None:
    with pytest.raises(CallFailed) as caught:
        outcome("Fail", "gone")
    assert (caught.value.code(), caught.value.details()) == (StatusCode.NOT_FOUND, "GONE")
    assert caught.value.__cause__ is None


def test_the_reason_for_giving_up_is_kept(outcome: Any, service: Service) -> None:
    with pytest.raises(CallFailed) as caught:
        outcome("Wait", "x", 0.05)
    assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
    assert isinstance(caught.value.__cause__, TimeoutError)
    service.gate.set()


def test_the_exception_of_an_interceptor_is_not_changed(outcome: Any) -> None:
    with pytest.raises(ZeroDivisionError, match="of the interceptor"):
        outcome("Echo", "raise")


def test_the_loss_of_the_connection(channel: Channel, service: Service) -> None:
    call = method(channel, "Wait").begin(text("x"), LONG)
    assert service.entered.wait(LONG)
    channel.end.link.close(ConnectionLost("cut"))
    with pytest.raises(CallFailed) as caught:
        call.result()
    assert isinstance(caught.value.__cause__, ConnectionLost)
    service.gate.set()


def test_cancel(channel: Channel, service: Service) -> None:
    call = method(channel, "Wait").begin(text("x"), LONG)
    assert service.entered.wait(LONG)
    assert call.cancel()
    with pytest.raises(CallFailed) as caught:
        call.result()
    assert caught.value.code() is StatusCode.CANCELLED
    service.gate.set()
