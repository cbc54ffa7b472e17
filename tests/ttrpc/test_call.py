"""Calls as applications have them: how they end, errors, and calls without a reference."""

from __future__ import annotations

import functools
import gc
import queue
import socket
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from nri_sync.deadline import Deadline
from nri_sync.rpc.status import Status
from nri_sync.threads import Latch
from nri_sync.ttrpc import CallError, Channel
from nri_sync.wire.ttrpc import REMOTE_CLOSED
from tests.ttrpc.conftest import Service
from tests.ttrpc.rig import (
    DATA,
    LONG,
    Calls,
    RawPeer,
    end_time,
    error_of,
    eventually,
    in_thread,
    raw_server,
    text,
)

__all__: list[str] = []

Code = grpc.StatusCode
State = grpc.ChannelConnectivity


class TestTheEndOfAStream:
    """A stream of responses is done when it has been consumed, or the caller has cancelled it."""

    @pytest.fixture
    def arrived(self) -> Iterator[tuple[Any, list[Any], RawPeer]]:
        """A stream of three messages that have arrived with their end, and the codes its callback saw."""
        with raw_server() as (channel, peer):
            calls = Calls(channel)
            responses = calls.stream("M")(text("x"))
            assert peer.expect().stream_id == 1
            codes: list[Any] = []
            responses.add_done_callback(lambda call: codes.append(call.code()))
            for letter in "abc":
                peer.send(DATA, 1, text(letter).SerializeToString())
            peer.respond(1)
            # The messages of a connection arrive in their order.
            probe = calls.unary("Echo").future(text("x"))
            peer.respond(peer.expect().stream_id)
            probe.result(LONG)
            yield responses, codes, peer

    def test_cancelled_before_it_is_taken(self, arrived: Any) -> None:
        responses, codes, _ = arrived
        assert next(responses).value == "a"
        assert (responses.done(), responses.is_active(), codes) == (False, True, [])
        assert responses.cancel()
        assert error_of(lambda: next(responses))[0] is Code.CANCELLED
        assert (responses.done(), responses.cancelled()) == (True, True)
        assert eventually(lambda: codes == [Code.CANCELLED])
        assert not responses.cancel()

    def test_the_last_message_is_enough(self, arrived: Any) -> None:
        responses, codes, _ = arrived
        assert [next(responses).value for _ in range(3)] == list("abc")
        assert (responses.done(), responses.code()) == (True, Code.OK)
        assert eventually(lambda: codes == [Code.OK])
        assert not responses.cancel()
        assert next(responses, None) is None

    def test_the_connection_ends_before_it_is_taken(self, arrived: Any) -> None:
        responses, codes, peer = arrived
        peer.sock.shutdown(socket.SHUT_RDWR)
        assert eventually(lambda: codes == [Code.OK])
        assert [message.value for message in responses] == list("abc")
        assert responses.code() is Code.OK

    def test_the_deadline_passes_before_it_is_taken(self) -> None:
        with raw_server() as (channel, peer):
            calls = Calls(channel)
            responses = calls.stream("M")(text("x"), timeout=LONG)
            assert peer.expect().stream_id == 1
            peer.send(DATA, 1, text("a").SerializeToString())
            peer.respond(1, code=10, details="enough")
            # The messages of a connection arrive in their order.
            probe = calls.unary("Echo").future(text("x"))
            peer.respond(peer.expect().stream_id)
            probe.result(LONG)
            end_time(responses, 0.05)
            # code() blocks to the deadline, and returns the code of the stream's end.
            assert responses.code() is Code.ABORTED
            assert next(responses).value == "a"
            assert error_of(lambda: next(responses)) == (Code.ABORTED, "enough")

    def test_an_undecodable_message_is_the_end(self) -> None:
        with raw_server() as (channel, peer):
            responses = Calls(channel).stream("M")(text("x"))
            assert peer.expect().stream_id == 1
            peer.send(DATA, 1, b"\xff", REMOTE_CLOSED)
            assert error_of(lambda: next(responses))[0] is Code.INTERNAL
            assert responses.code() is Code.INTERNAL

    def test_nothing_follows_an_undecodable_message(self) -> None:
        with raw_server() as (channel, peer):
            calls = Calls(channel)
            responses = calls.stream("M")(text("x"))
            assert peer.expect().stream_id == 1
            peer.send(DATA, 1, b"\xff")
            peer.send(DATA, 1, text("b").SerializeToString())
            # The messages of a connection arrive in their order.
            probe = calls.unary("Echo").future(text("x"))
            peer.respond(peer.expect().stream_id)
            probe.result(LONG)
            for _ in range(2):
                assert error_of(lambda: next(responses))[0] is Code.INTERNAL

    def test_the_end_races_with_the_consumer(self) -> None:
        # The reading thread and the consumer both look whether all is taken: one of them ends the call.
        with raw_server() as (channel, peer):
            stream = Calls(channel).stream("M")
            for stream_id in range(1, 401, 2):
                done = Latch()
                responses = stream(text("x"))
                responses.add_done_callback(_setting(done))
                assert peer.expect().stream_id == stream_id
                consumer = in_thread(functools.partial(next, responses))
                peer.send(DATA, stream_id, text("a").SerializeToString())
                peer.respond(stream_id)
                assert done.wait(Deadline(LONG))
                assert responses.code() is Code.OK
                consumer.join(LONG)


def _setting(latch: Latch) -> Any:
    return lambda call: latch.set()


class TestLetGo:
    """A call object that dies is cancelled, as in grpcio."""

    def test_a_loop_that_is_left(self) -> None:
        with raw_server() as (channel, peer):
            calls = Calls(channel)
            for message in calls.stream("M")(self.after(peer, text("x"))):
                assert message.value == "a"
                break
            # More than waits for a consumer, and nothing blocks.
            for _ in range(6):
                peer.send(DATA, 1, text("x" * (4 << 20 >> 1)).SerializeToString())
            for _ in range(6):
                peer.send(DATA, 1, text("x" * (4 << 20 >> 1)).SerializeToString())
            future = calls.unary("Echo").future(text("x"))
            peer.respond(peer.expect().stream_id, text("y").SerializeToString())
            assert future.result(LONG).value == "y"

    @staticmethod
    def after(peer: RawPeer, request: StringValue) -> StringValue:
        """The request; its first answer is on the way."""

        def answer() -> None:
            assert peer.expect().stream_id == 1
            peer.send(DATA, 1, text("a").SerializeToString())

        in_thread(answer)
        return request

    @pytest.mark.parametrize("kind", ["unary", "stream", "collect", "chat"])
    def test_callbacks_are_called(self, calls: Calls, service: Service, kind: str) -> None:
        ended = threading.Event()
        make = {"unary": "Wait", "stream": "Never", "collect": "Total", "chat": "Upper"}[kind]
        method = getattr(calls, kind)(make)
        never: queue.SimpleQueue[Any] = queue.SimpleQueue()
        request = text("x") if kind in ("unary", "stream") else iter(never.get, None)
        call = getattr(method, "future", method)(request)
        assert call.add_callback(ended.set)
        del call
        assert ended.wait(LONG)
        never.put(None)
        service.gate.set()
        assert calls.unary("Echo")(text("x")).value == "x"

    def test_no_more_requests_are_asked_for(self, calls: Calls) -> None:
        asked = 0
        given: queue.SimpleQueue[Any] = queue.SimpleQueue()
        left = threading.Event()

        def requests() -> Iterator[StringValue]:
            nonlocal asked
            try:
                while True:
                    asked += 1
                    yield given.get()
            finally:
                left.set()

        call = calls.chat("Upper")(requests())
        given.put(text("a"))
        assert next(call).value == "A"
        del call
        given.put(text("b"))
        assert left.wait(LONG)
        assert asked <= 3

    def test_a_done_callback_keeps_the_call(self, calls: Calls, service: Service) -> None:
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        calls.unary("Wait").future(text("x")).add_done_callback(done.put)
        gc.collect()
        service.gate.set()
        assert done.get(timeout=LONG).result().value == "x"

    def test_the_collector_may_run_while_the_locks_are_held(
        self, calls: Calls, channel: Channel
    ) -> None:
        # Any step that makes an object may collect garbage, also a step under a lock.
        ended = threading.Event()
        call = calls.stream("Never")(text("x"))
        call.add_callback(ended.set)
        end = channel.end
        cycle = [call]
        cycle.append(cycle)
        del call, cycle

        def collect() -> None:
            link = end.link
            with end._send_lock, end._lock, link._lock, link.workers._lock, link.timer._lock:
                gc.collect()

        collector = in_thread(collect)
        assert ended.wait(LONG)
        collector.join(LONG)
        assert not collector.is_alive()
        assert calls.unary("Echo")(text("x")).value == "x"

    def test_a_done_call_is_left_alone(self, calls: Calls) -> None:
        seen: list[Any] = []
        _, call = calls.unary("Echo").with_call(text("x"))
        call.add_done_callback(lambda done: seen.append(done.code()))
        del call
        assert seen == [Code.OK]


class TestDecoding:
    def test_once(self, calls: Calls) -> None:
        decoded: list[bytes] = []

        def decode(data: bytes) -> list[bytes]:
            decoded.append(data)
            return [data]

        channel: Any = calls.channel
        future = channel.unary_unary("/test.Service/Echo", None, decode).future(b"")
        assert future.result(LONG) is future.result()
        assert (future.code(), future.exception()) == (Code.OK, None)
        assert len(decoded) == 1

    def test_a_failure_is_that_of_the_call(self, calls: Calls) -> None:
        tried: list[bytes] = []

        def bad(data: bytes) -> Any:
            tried.append(data)
            raise ValueError("no such thing")

        channel: Any = calls.channel
        future = channel.unary_unary("/test.Service/Echo", None, bad).future(b"")
        for error in (future.exception(LONG), future.exception()):
            assert isinstance(error, CallError)
            assert isinstance(error.__cause__, ValueError)
            assert (error.code(), future.code()) == (Code.INTERNAL, Code.INTERNAL)
        assert "no such thing" in future.details()
        assert "INTERNAL" in future.debug_error_string()
        assert future.traceback() is not None
        assert len(tried) == 1

    def test_no_message(self, calls: Calls) -> None:
        channel: Any = calls.channel
        echo = channel.unary_unary("/test.Service/Echo", None, lambda data: None)
        assert error_of(lambda: echo(b""))[0] is Code.INTERNAL
        count = channel.unary_stream("/test.Service/Count", None, lambda data: None)
        assert error_of(lambda: next(count(text("2").SerializeToString())))[0] is Code.INTERNAL


def test_calls_and_errors_can_be_shown(service: Service, calls: Calls) -> None:
    future = calls.unary("Wait").future(text("x"))
    assert repr(future) == "<Call /test.Service/Wait: in flight>"
    service.gate.set()
    future.result(LONG)
    assert repr(future) == "<Call /test.Service/Wait: OK>"
    failed = calls.unary("Fail").future(text("gone"))
    assert repr(failed.exception()) == "<CallError: /test.Service/Fail failed: NOT_FOUND: gone>"
    assert repr(failed) == "<Call /test.Service/Fail: NOT_FOUND>"


class TestCallError:
    def test_is_the_finished_call(self) -> None:
        error = CallError("/a/b", Status(5, "gone", b"\x08\x05"))
        assert isinstance(error, (grpc.RpcError, grpc.Call, grpc.Future))
        assert str(error) == error.debug_error_string() == "/a/b failed: NOT_FOUND: gone"
        assert (error.code(), error.details()) == (Code.NOT_FOUND, "gone")
        assert error.initial_metadata() == ()
        assert error.trailing_metadata() == (("grpc-status-details-bin", b"\x08\x05"),)
        assert (error.is_active(), error.running(), error.done()) == (False, False, True)
        nothing: Any = error.time_remaining()  # type: ignore[func-returns-value]
        assert nothing is None
        assert (error.cancel(), error.cancelled()) == (False, False)
        assert not error.add_callback(lambda: None)
        with pytest.raises(CallError) as raised:
            error.result()
        assert raised.value is error
        assert error.exception() is error
        assert error.traceback() is error.__traceback__
        seen: list[Any] = []
        error.add_done_callback(seen.append)
        assert seen == [error]

    def test_with_a_pool(self, calls: Calls) -> None:
        with futures.ThreadPoolExecutor(4) as pool:
            values = list(pool.map(lambda n: calls.unary("Echo")(text(str(n))).value, range(200)))
        assert values == [str(number) for number in range(200)]
