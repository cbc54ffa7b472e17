"""A channel as applications use it: its connectivity."""

from __future__ import annotations

import queue
import threading
from typing import Any

import grpc
import pytest

from nri_sync.threads import Latch
from nri_sync.ttrpc import Channel
from tests.forked import WARNS, in_child
from tests.ttrpc.conftest import Service
from tests.ttrpc.rig import LONG, Calls, error_of, eventually, text

__all__: list[str] = []

Code = grpc.StatusCode
State = grpc.ChannelConnectivity


class TestConnectivity:
    def test_ready_at_once(self, channel: Channel) -> None:
        grpc.channel_ready_future(channel).result(LONG)

    def test_states_in_order(self, channel: Channel) -> None:
        seen: queue.SimpleQueue[Any] = queue.SimpleQueue()
        channel.subscribe(seen.put, try_to_connect=True)
        channel.close()
        assert [seen.get(timeout=LONG) for _ in range(2)] == [State.READY, State.SHUTDOWN]

    def test_a_slow_subscriber_gets_the_states_in_order(self, channel: Channel) -> None:
        seen: list[Any] = []
        go, done = Latch(), threading.Event()

        def slow(state: Any) -> None:
            go.wait()
            seen.append(state)
            if len(seen) == 2:
                done.set()

        def fails(state: Any) -> None:
            raise ZeroDivisionError

        channel.subscribe(fails)
        channel.subscribe(slow)
        channel.close()
        assert eventually(lambda: channel._state is State.SHUTDOWN)
        go.set()
        assert done.wait(LONG)
        assert seen == [State.READY, State.SHUTDOWN]

    def test_unsubscribe(self, channel: Channel) -> None:
        seen: queue.SimpleQueue[Any] = queue.SimpleQueue()
        other: queue.SimpleQueue[Any] = queue.SimpleQueue()
        channel.subscribe(seen.put)
        channel.subscribe(other.put)
        assert seen.get(timeout=LONG) is State.READY
        channel.unsubscribe(seen.put)
        channel.unsubscribe(seen.put)
        channel.close()
        assert [other.get(timeout=LONG) for _ in range(2)] == [State.READY, State.SHUTDOWN]
        assert seen.empty()

    def test_close_cancels_the_calls_in_flight(self, channel: Channel, service: Service) -> None:
        call = Calls(channel).unary("Wait").future(text("x"))
        assert service.entered.wait(LONG)
        channel.close()
        assert error_of(call.result) == (Code.CANCELLED, "the channel was closed")
        service.gate.set()

    def test_after_the_end(self, channel: Channel) -> None:
        channel.close()
        assert eventually(lambda: channel._state is State.SHUTDOWN)
        with pytest.raises(grpc.FutureTimeoutError):
            grpc.channel_ready_future(channel).result(0.05)

    @WARNS
    def test_a_forked_child_has_separate_subscribers(self, channel: Channel) -> None:
        """A subscriber that runs in the parent holds up no subscriber of the child."""
        entered, leave = threading.Event(), threading.Event()

        def slow(state: Any) -> None:
            entered.set()
            assert leave.wait(LONG)

        def subscribe() -> None:
            seen: queue.SimpleQueue[Any] = queue.SimpleQueue()
            channel.subscribe(seen.put)
            assert seen.get(timeout=LONG) is State.SHUTDOWN
            assert seen.empty()

        channel.subscribe(slow)
        assert entered.wait(LONG)
        try:
            in_child(subscribe)
        finally:
            leave.set()
