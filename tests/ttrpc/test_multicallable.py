"""The methods of a channel: the four kinds of calls, and futures."""

from __future__ import annotations

import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from nri_sync.errors import NoThread
from nri_sync.ttrpc import CallError, Channel, connect, multicallable
from nri_sync.wire.ttrpc import MESSAGE_MAX
from tests.ttrpc.conftest import Service
from tests.ttrpc.rig import (
    LONG,
    Calls,
    error_of,
    eventually,
    in_thread,
    method,
    serving,
    text,
)

__all__: list[str] = []

Code = grpc.StatusCode
State = grpc.ChannelConnectivity


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

    def test_a_cancellation_of_the_server_is_not_one_of_the_client(self) -> None:
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

    def test_callbacks_of_a_cancelled_call(self, calls: Calls) -> None:
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

    def test_a_deadline_ends_a_future_without_a_waiting_thread(self, calls: Calls) -> None:
        ended = threading.Event()
        began = time.monotonic()
        future = calls.unary("Wait").future(text("hi"), timeout=0.05)
        if not future.add_callback(ended.set):
            ended.set()  # the deadline has passed before this line
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
        named = channel.unary_unary(b"/test.Service/Echo")
        assert named(text("hi").SerializeToString()) == text("hi").SerializeToString()

    @pytest.mark.parametrize("request_", [5, "text", [1]])
    def test_a_request_that_is_no_bytes(self, channel: Channel, request_: Any) -> None:
        with pytest.raises(TypeError, match="is bytes, not"):
            channel.unary_unary("/test.Service/Echo")(request_)
        with pytest.raises(TypeError, match="is bytes, not"):
            channel.unary_unary("/test.Service/Echo", lambda _: request_)(b"")
        total = channel.stream_unary("/test.Service/Total")
        assert error_of(lambda: total(iter([request_])))[0] is Code.UNKNOWN

    def test_no_request(self, channel: Channel) -> None:
        for unary in (
            channel.unary_unary("/test.Service/Echo"),
            channel.unary_unary("/test.Service/Echo", lambda _: None),
        ):
            code, details = error_of(lambda unary=unary: unary(None))  # type: ignore[misc]
            assert (code, details) == (
                Code.INTERNAL,
                "cannot serialize the request: there is none",
            )

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

    def test_other_objects_than_iterators(self, calls: Calls) -> None:
        assert error_of(lambda: calls.collect("Total")(5))[0] is Code.UNKNOWN

    def test_no_thread_for_the_requests(
        self, calls: Calls, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*arguments: object) -> None:
            raise NoThread("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(multicallable, "spawn", refuse)
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


class TestFeaturesThatTtrpcLacks:
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
