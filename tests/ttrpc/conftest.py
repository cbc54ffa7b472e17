"""A service whose handlers wait for the test, and a channel to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from nri_sync.ttrpc import Channel, connect
from tests.ttrpc.rig import (
    LONG,
    Calls,
    echo,
    method,
    serving,
    text,
)

__all__: list[str] = []

Code = grpc.StatusCode


class Service:
    """Handlers that wait for the test."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.handlers = {
            "Echo": method("unary_unary", echo),
            "Wait": method("unary_unary", self.wait),
            "Fail": method("unary_unary", self.fail),
            "Count": method("unary_stream", self.count),
            "Total": method("stream_unary", self.total),
            "Upper": method("stream_stream", self.upper),
            "Never": method("unary_stream", self.never),
        }

    def wait(self, message: StringValue, context: Any) -> StringValue:
        self.entered.set()
        assert self.gate.wait(LONG)
        return message

    def fail(self, message: StringValue, context: Any) -> StringValue:
        context.abort(Code.NOT_FOUND, message.value)
        raise AssertionError

    def count(self, message: StringValue, context: Any) -> Iterator[StringValue]:
        for number in range(int(message.value)):
            yield text(str(number))

    def total(self, requests: Iterator[StringValue], context: Any) -> StringValue:
        return text("".join(message.value for message in requests))

    def upper(self, requests: Iterator[StringValue], context: Any) -> Iterator[StringValue]:
        for message in requests:
            yield text(message.value.upper())

    def never(self, message: StringValue, context: Any) -> Iterator[StringValue]:
        self.entered.set()
        assert self.gate.wait(LONG)
        yield message


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.gate.set()


@pytest.fixture
def channel(service: Service) -> Iterator[Channel]:
    with serving(service.handlers) as (_, address), connect(address) as channel:
        yield channel
        service.gate.set()


@pytest.fixture
def calls(channel: Channel) -> Calls:
    return Calls(channel)
