"""A channel as applications use it: the four kinds of calls, futures, callbacks, connectivity."""

from __future__ import annotations

import functools
import gc
import queue
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from nri_sync.deadline import Deadline
from nri_sync.errors import NoThread
from nri_sync.threads import Latch
from nri_sync.ttrpc import CallError, Channel, connect
from nri_sync.ttrpc import channel as channel_module
from nri_sync.ttrpc.status import Status
from nri_sync.wire.ttrpc import MESSAGE_MAX, REMOTE_CLOSED
from tests.ttrpc.rig import (
    DATA,
    LONG,
    Calls,
    RawPeer,
    echo,
    error_of,
    eventually,
    in_thread,
    method,
    raw_server,
    serving,
    text,
)

__all__: list[str] = []

Code = grpc.StatusCode
State = grpc.ChannelConnectivity


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


class TestUnary:
    def test_call(self, calls: Calls) -> None:
        assert calls.unary("Echo")(text("hi")).value == "hi"

    def test_with_call(self, calls: Calls) -> None:
        response, call = calls.unary("Echo").with_call(text("hi"), timeout=LONG)
        assert response.value == "hi"
        assert (call.code(), call.details()) == (Code.OK, "")
        assert (call.initial_metadata(), call.trailing_metadata()) == ((), ())
        assert not call.is_active()
        assert not call.cancel()
        assert not call.add_callback(lambda: None)
        assert 0 < call.time_remaining() <= LONG

    def test_future(self, calls: Calls, service: Service) -> None:
        future = calls.unary("Wait").future(text("hi"))
        assert (future.running(), future.done(), future.cancelled()) == (True, False, False)
        assert future.is_active()
        assert future.time_remaining() is None
        service.gate.set()
        assert future.result(LONG).value == "hi"
        assert (future.running(), future.done(), future.cancelled()) == (False, True, False)
        assert future.exception() is None
        assert future.traceback() is None
        assert future.code() is Code.OK

    def test_a_future_that_fails(self, calls: Calls) -> None:
        future = calls.unary("Fail").future(text("gone"))
        assert error_of(future.result) == (Code.NOT_FOUND, "gone")
        error = future.exception(LONG)
        assert isinstance(error, CallError)
        assert error.code() is Code.NOT_FOUND
        assert not future.cancelled()

    def test_the_traceback_of_a_failure(self, calls: Calls) -> None:
        future = calls.unary("Fail").future(text("gone"))
        trace = future.traceback(LONG)
        assert "raise error" in "".join(traceback.format_tb(trace))
        error = future.exception()
        assert error.traceback() is error.__traceback__
        try:
            future.result()
        except grpc.RpcError as raised:
            # The exception is the finished call, too: of where it was raised.
            found: Any = raised
            assert found.traceback().tb_frame is sys._getframe()
        cancelled = calls.unary("Wait").future(text("x"))
        cancelled.cancel()
        with pytest.raises(grpc.FutureCancelledError):
            cancelled.traceback()

    def test_waiting_for_a_future_has_its_own_limit(self, calls: Calls, service: Service) -> None:
        future = calls.unary("Wait").future(text("hi"))
        for wait in (future.result, future.exception, future.traceback):
            with pytest.raises(grpc.FutureTimeoutError):
                wait(0.01)
        assert future.is_active()
        service.gate.set()
        assert future.result(LONG).value == "hi"

    def test_cancel(self, calls: Calls) -> None:
        future = calls.unary("Wait").future(text("hi"))
        assert future.cancel()
        assert not future.cancel()
        assert future.cancelled()
        assert future.done()
        assert future.code() is Code.CANCELLED
        for wait in (future.result, future.exception, future.traceback):
            with pytest.raises(grpc.FutureCancelledError):
                wait()

    def test_what_the_server_cancels_was_not_cancelled_here(self) -> None:
        def cancel(message: StringValue, context: Any) -> StringValue:
            context.abort(Code.CANCELLED, "by the server")
            raise AssertionError

        with (
            serving({"M": method("unary_unary", cancel)}) as (_, address),
            connect(address) as channel,
        ):
            future = Calls(channel).unary("M").future(text(""))
            assert error_of(future.result) == (Code.CANCELLED, "by the server")
            assert not future.cancelled()

    def test_callbacks(self, calls: Calls, service: Service) -> None:
        future = calls.unary("Wait").future(text("hi"))
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        future.add_done_callback(lambda f: done.put((f, f.done(), f.result().value)))
        assert future.add_callback(lambda: done.put("plain"))
        service.gate.set()
        assert done.get(timeout=LONG) == (future, True, "hi")
        assert done.get(timeout=LONG) == "plain"
        future.add_done_callback(done.put)
        assert done.get_nowait() is future

    def test_callbacks_of_what_is_cancelled(self, calls: Calls) -> None:
        future = calls.unary("Wait").future(text("hi"))
        called = threading.Event()
        future.add_callback(called.set)
        assert future.cancel()
        assert called.wait(LONG)

    def test_a_callback_may_make_calls(self, calls: Calls) -> None:
        answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        future = calls.unary("Echo").future(text("one"))
        future.add_done_callback(lambda _: answers.put(calls.unary("Echo")(text("two")).value))
        assert answers.get(timeout=LONG) == "two"

    def test_a_callback_that_raises(self, calls: Calls, caplog: pytest.LogCaptureFixture) -> None:
        future = calls.unary("Wait").future(text(""))
        called = threading.Event()
        future.add_callback(lambda: 1 / 0)
        future.add_callback(called.set)
        assert future.cancel()
        assert called.wait(LONG)
        assert "ZeroDivisionError" in caplog.text

    def test_a_deadline_ends_a_future_nobody_waits_for(self, calls: Calls) -> None:
        ended = threading.Event()
        began = time.monotonic()
        future = calls.unary("Wait").future(text("hi"), timeout=0.05)
        future.add_callback(ended.set)
        assert ended.wait(LONG)
        assert time.monotonic() - began >= 0.05
        assert future.code() is Code.DEADLINE_EXCEEDED

    def test_deadlines_of_any_order(self, calls: Calls) -> None:
        unary = calls.unary("Wait")
        pending = [unary.future(text(""), timeout=t) for t in (0.06, 0.03, 1000, 0.001, 0.08, 1e9)]
        ended = [future for future in pending if future.time_remaining() < 1]
        assert eventually(lambda: all(future.done() for future in ended))
        assert [future.done() for future in pending] == [True, True, False, True, True, False]

    def test_a_response_that_cannot_be_decoded(self, channel: Channel) -> None:
        def refuse(data: bytes) -> None:
            raise ValueError("not this")

        unary = channel.unary_unary("/test.Service/Echo", BytesValue.SerializeToString, refuse)
        code, details = error_of(lambda: unary(BytesValue()))
        assert code is Code.INTERNAL
        assert "not this" in details
        future = unary.future(BytesValue())
        assert future.exception(LONG).code() is Code.INTERNAL

    def test_a_request_that_cannot_be_encoded(self, channel: Channel) -> None:
        unary = channel.unary_unary("/test.Service/Echo", BytesValue.SerializeToString)
        with pytest.raises(grpc.RpcError) as error:
            unary("text")
        assert error.value.code() is Code.INTERNAL

    def test_bytes(self, channel: Channel) -> None:
        unary = channel.unary_unary("/test.Service/Echo")
        assert unary(text("hi").SerializeToString()) == text("hi").SerializeToString()

    def test_oversized_each_way(self, calls: Calls) -> None:
        unary = calls.unary("Echo")
        fits = MESSAGE_MAX - 100
        assert len(unary(text("x" * fits)).value) == fits
        assert error_of(lambda: unary(text("x" * MESSAGE_MAX)))[0] is Code.RESOURCE_EXHAUSTED
        assert unary(text("hi")).value == "hi"

    @pytest.mark.parametrize("timeout", [1e7, 1e10, 1e300, float("inf")])
    def test_a_timeout_far_off(self, calls: Calls, timeout: float) -> None:
        assert calls.unary("Echo")(text("hi"), timeout=timeout).value == "hi"
        assert calls.unary("Echo").future(text("hi"), timeout=timeout).result(timeout).value == "hi"
        values: list[str] = []
        in_thread(
            lambda: values.append(calls.unary("Echo")(text("hi"), timeout=timeout).value)
        ).join(LONG)
        assert values == ["hi"]
        (only,) = calls.stream("Count")(text("1"), timeout=timeout)
        assert only.value == "0"


class TestStreams:
    def test_of_responses(self, calls: Calls) -> None:
        responses = calls.stream("Count")(text("5"), timeout=LONG)
        assert [message.value for message in responses] == list("01234")
        assert responses.code() is Code.OK
        assert responses.result() is responses
        assert responses.exception() is None
        assert next(responses, None) is None

    def test_of_requests(self, calls: Calls) -> None:
        assert calls.collect("Total")(map(text, "abc"), timeout=LONG).value == "abc"
        assert calls.collect("Total")(iter(())).value == ""
        assert calls.collect("Total").future(map(text, "abc")).result(LONG).value == "abc"
        response, call = calls.collect("Total").with_call(map(text, "abc"))
        assert (response.value, call.code()) == ("abc", Code.OK)

    def test_of_both(self, calls: Calls) -> None:
        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        responses = calls.chat("Upper")(iter(requests.get, None))
        for letter in "abc":
            requests.put(text(letter))
            assert next(responses).value == letter.upper()
        requests.put(None)
        assert list(responses) == []

    def test_many_messages(self, calls: Calls) -> None:
        sent = [str(number) for number in range(3000)]
        assert [m.value for m in calls.chat("Upper")(map(text, sent))] == sent

    def test_cancel(self, calls: Calls, service: Service) -> None:
        responses = calls.stream("Never")(text("x"))
        assert service.entered.wait(LONG)
        codes: list[Any] = []
        consumer = in_thread(lambda: codes.append(error_of(lambda: next(responses))[0]))
        assert responses.cancel()
        consumer.join(LONG)
        assert codes == [Code.CANCELLED]
        assert error_of(lambda: next(responses))[0] is Code.CANCELLED
        with pytest.raises(grpc.FutureCancelledError):
            responses.result()

    def test_the_deadline(self, calls: Calls) -> None:
        responses = calls.stream("Never")(text("x"), timeout=0.05)
        assert error_of(lambda: next(responses))[0] is Code.DEADLINE_EXCEEDED
        assert responses.exception().code() is Code.DEADLINE_EXCEEDED
        assert error_of(responses.result)[0] is Code.DEADLINE_EXCEEDED

    def test_requests_that_fail(self, calls: Calls, caplog: pytest.LogCaptureFixture) -> None:
        def requests() -> Iterator[StringValue]:
            yield text("a")
            raise ValueError("no more")

        code, details = error_of(lambda: calls.collect("Total")(requests()))
        assert code is Code.UNKNOWN
        assert "no more" in details
        assert "iterating over the requests failed" in caplog.text

    def test_requests_that_cannot_be_encoded(self, calls: Calls) -> None:
        code, details = error_of(lambda: calls.collect("Total")(iter(["text"])))
        assert code is Code.INTERNAL
        assert "cannot serialize" in details

    def test_what_is_no_iterator(self, calls: Calls) -> None:
        assert error_of(lambda: calls.collect("Total")(5))[0] is Code.UNKNOWN

    def test_no_thread_for_the_requests(
        self, calls: Calls, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*arguments: object) -> None:
            raise NoThread("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(channel_module, "spawn", refuse)
            code = error_of(lambda: calls.collect("Total")(map(text, "abc")))[0]
        assert code is Code.RESOURCE_EXHAUSTED
        assert calls.collect("Total")(map(text, "abc")).value == "abc"

    def test_a_call_that_is_over_takes_no_more_requests(self, calls: Calls) -> None:
        taken: list[int] = []
        go = threading.Event()
        over = threading.Event()

        def requests() -> Iterator[StringValue]:
            for number in range(10):
                taken.append(number)
                yield text("x")
                if number == 2:
                    assert go.wait(LONG)
                    over.set()

        future = calls.collect("Total").future(requests())
        assert eventually(lambda: len(taken) == 3)
        assert future.cancel()
        go.set()
        assert over.wait(LONG)
        assert eventually(lambda: len(taken) == 4)

    def test_not_called_as_a_stream(self, calls: Calls) -> None:
        # The server has it as a stream.
        assert error_of(lambda: calls.unary("Count")(text("3")))[0] is Code.INVALID_ARGUMENT


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
            responses = Calls(channel).stream("M")(text("x"), timeout=0.2)
            assert peer.expect().stream_id == 1
            peer.send(DATA, 1, text("a").SerializeToString())
            peer.respond(1, code=10, details="enough")
            # It blocks to the deadline, and tells how the stream has ended.
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
            with end._send_lock, end._lock, end.link._lock:
                gc.collect()

        collector = in_thread(collect)
        assert ended.wait(LONG)
        collector.join(LONG)
        assert not collector.is_alive()
        assert calls.unary("Echo")(text("x")).value == "x"

    def test_what_is_done_is_left_alone(self, calls: Calls) -> None:
        seen: list[Any] = []
        _, call = calls.unary("Echo").with_call(text("x"))
        call.add_done_callback(lambda done: seen.append(done.code()))
        del call
        assert seen == [Code.OK]


class TestWhatTtrpcDoesNotHave:
    @pytest.mark.parametrize(
        "options",
        [{"compression": grpc.Compression.Gzip}, {"compression": grpc.Compression.Deflate}],
    )
    def test_compression(self, calls: Calls, options: Any) -> None:
        for call in (calls.unary("Echo"), calls.unary("Echo").future, calls.stream("Count")):
            with pytest.raises(ValueError, match="compress"):
                call(text("1"), **options)

    def test_credentials(self, calls: Calls) -> None:
        credentials = grpc.access_token_call_credentials("token")
        with pytest.raises(ValueError, match="credentials"):
            calls.unary("Echo")(text("1"), credentials=credentials)

    def test_no_compression_and_waiting_are_fine(self, calls: Calls) -> None:
        options = {"compression": grpc.Compression.NoCompression, "wait_for_ready": True}
        assert calls.unary("Echo")(text("1"), **options).value == "1"


class TestConnectivity:
    def test_ready_at_once(self, channel: Channel) -> None:
        grpc.channel_ready_future(channel).result(LONG)

    def test_states_in_order(self, channel: Channel) -> None:
        seen: queue.SimpleQueue[Any] = queue.SimpleQueue()
        channel.subscribe(seen.put, try_to_connect=True)
        channel.close()
        assert [seen.get(timeout=LONG) for _ in range(2)] == [State.READY, State.SHUTDOWN]

    def test_a_slow_subscriber_gets_them_in_order_too(self, channel: Channel) -> None:
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

    def test_after_the_end(self, channel: Channel) -> None:
        channel.close()
        assert eventually(lambda: channel._state is State.SHUTDOWN)
        with pytest.raises(grpc.FutureTimeoutError):
            grpc.channel_ready_future(channel).result(0.05)


class TestCallError:
    def test_is_the_finished_call(self) -> None:
        error = CallError("/a/b", Status.of(Code.NOT_FOUND, "gone", b"\x08\x05"))
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
