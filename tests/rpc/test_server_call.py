"""The outcome of one call: handlers of all kinds, and errors of handlers and of requests."""

from __future__ import annotations

import functools
import itertools
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from nri_sync.rpc import envelope, server, server_call
from nri_sync.rpc.inbox import Holdings, Inbox
from nri_sync.rpc.router import MethodHandler
from nri_sync.ttrpc import connect
from nri_sync.wire.ttrpc import MESSAGE_MAX, encode_header
from tests.net.rig import in_thread
from tests.ttrpc.rig import (
    DATA,
    INTERNAL,
    INVALID_ARGUMENT,
    LONG,
    NO_DATA,
    REMOTE_CLOSED,
    REMOTE_OPEN,
    REQUEST,
    RESOURCE_EXHAUSTED,
    SERVICE,
    UNIMPLEMENTED,
    Calls,
    RawPeer,
    StringValue,
    encoded,
    error_of,
    eventually,
    method,
    plain_handlers,
    raw,
    raw_client,
    request,
    serving,
    text,
    total,
)

__all__: list[str] = []

Code = grpc.StatusCode


def _bound(monkeypatch: pytest.MonkeyPatch, *, stall: float) -> None:
    """Let a stream hold 100 bytes, and hold up the reading for ``stall`` seconds."""
    monkeypatch.setattr(server_call, "Inbox", lambda: Inbox(limit=100))
    monkeypatch.setattr(server, "Holdings", functools.partial(Holdings, stall=stall))


def _refuses_data(peer: RawPeer, ids: Iterator[int]) -> bool:
    """Whether the server refuses data for the call on stream 1. It may not know yet that its answer is sent."""
    peer.send(DATA, 1, encoded("still more"))
    message = peer.ask(next(ids))
    if message.stream_id != 1:
        return False
    assert message.status[0] == INVALID_ARGUMENT
    peer.expect()
    return True


class TestUnknownMethods:
    def test_code_and_text(self) -> None:
        with raw() as peer:
            assert peer.ask(1, "Nope").status == (UNIMPLEMENTED, "method Nope")
            peer.send(REQUEST, 3, request("Echo", service="no.Such"))
            assert peer.expect().status == (UNIMPLEMENTED, "service no.Such")
            peer.send(REQUEST, 5)
            assert peer.expect().status == (UNIMPLEMENTED, "service ")


class TestUnary:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (ValueError("x"), 2),
            (NotImplementedError("x"), 2),
            (SystemExit(1), 2),
            (KeyboardInterrupt(), 2),
            (GeneratorExit(), 2),
            (MemoryError(), 2),
            (FileNotFoundError("x"), 5),
            (TimeoutError("x"), 4),
        ],
        ids=repr,
    )
    def test_a_handler_that_raises(
        self, error: BaseException, code: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(message: StringValue, context: Any) -> StringValue:
            raise error

        with raw({"Fail": method("unary_unary", fail)}) as peer:
            for stream_id in (1, 3):
                status = peer.ask(stream_id, "Fail").status
                assert status[0] == code
                assert type(error).__name__ in status[1]
            peer.check(5)
        assert "/test.Service/Fail failed" in caplog.text

    @pytest.mark.parametrize("logged_above", [False, True])
    def test_a_refusal_is_logged_once(
        self, logged_above: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(message: StringValue, context: Any) -> StringValue:
            context.refused = logged_above
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now")
            raise AssertionError

        with raw({"M": method("unary_unary", refuse)}) as peer:
            assert peer.ask(1, "M").status == (9, "not now")
        assert ("/test.Service/M refused: not now" in caplog.text) == (not logged_above)

    def test_an_exception_that_cannot_be_shown(self) -> None:
        class Unshowable(Exception):
            def __str__(self) -> str:
                raise ZeroDivisionError

            __hash__ = None  # type: ignore[assignment]

        def fail(message: StringValue, context: Any) -> StringValue:
            raise Unshowable

        with raw({"Fail": method("unary_unary", fail)}) as peer:
            assert peer.ask(1, "Fail").status == (2, "Unshowable")
            peer.check(3)

    def test_a_call_that_fails_in_a_handler(self) -> None:
        with serving(plain_handlers()) as (_, inner), connect(inner) as channel:

            def forward(message: StringValue, context: Any) -> StringValue:
                Calls(channel).unary(message.value)(message)
                raise AssertionError

            with raw({"Forward": method("unary_unary", forward)}) as peer:
                # UNIMPLEMENTED would mean that there is no method Forward.
                assert peer.ask(1, "Forward", encoded("Nope")).status == (2, "method Nope")

    def test_no_result(self) -> None:
        with raw({"None": method("unary_unary", lambda m, c: None)}) as peer:
            status = peer.ask(1, "None").status
            assert status == (2, "the handler of /test.Service/None returned nothing")

    def test_a_result_that_cannot_be_encoded(self, caplog: pytest.LogCaptureFixture) -> None:
        with raw({"Odd": method("unary_unary", lambda m, c: "text")}) as peer:
            assert peer.ask(1, "Odd").status[0] == INTERNAL
            peer.check(3)
        assert "cannot serialize" in caplog.text

    def test_bytes_without_serializers(self) -> None:
        handler: Any = grpc.unary_unary_rpc_method_handler(lambda message, context: message[::-1])
        with raw({"Reverse": handler}) as peer:
            assert peer.ask(1, "Reverse", b"abc").payload == b"cba"
            assert peer.ask(3, "Reverse").data == b""

    @pytest.mark.parametrize("takes_view", [False, True])
    def test_a_large_request(self, takes_view: bool) -> None:
        """Its payload is bytes, as all payloads, unless the handler takes views."""
        types: list[type] = []

        def decode(data: Any) -> bytes:
            types.append(type(data))
            return bytes(data)

        handler: Any = MethodHandler(
            lambda message, context: message[::-1], decode, bytes, takes_view=takes_view
        )
        payload = bytes(range(250)) * 2000
        with raw({"Reverse": handler}) as peer:
            assert peer.ask(1, "Reverse", payload).payload == payload[::-1]
        assert types == [memoryview if takes_view else bytes]

    @pytest.mark.parametrize("size", [MESSAGE_MAX - 5, MESSAGE_MAX - 4, MESSAGE_MAX])
    def test_an_oversized_response(self, size: int) -> None:
        handler: Any = grpc.unary_unary_rpc_method_handler(lambda message, context: b"x" * size)
        with raw({"Big": handler}) as peer:
            answer = peer.ask(1, "Big")
            if size == MESSAGE_MAX - 5:
                assert len(answer.data) == MESSAGE_MAX
                assert len(answer.payload) == size
            else:
                assert answer.status[0] == RESOURCE_EXHAUSTED
                assert str(MESSAGE_MAX + size - (MESSAGE_MAX - 5)) in answer.status[1]
            peer.check(3)

    def test_oversized_details_are_cut(self) -> None:
        def fail(message: StringValue, context: Any) -> StringValue:
            context.abort(Code.ABORTED, "x" * MESSAGE_MAX)
            raise AssertionError

        with raw({"Fail": method("unary_unary", fail)}) as peer:
            code, details = peer.ask(1, "Fail").status
            assert code == Code.ABORTED.value[0]
            assert details == "x" * 1000 + "..."

    def test_the_deadline_is_not_the_servers_business(self) -> None:
        seen: list[float | None] = []

        def look(message: StringValue, context: Any) -> StringValue:
            seen.append(context.time_remaining())
            return message

        with raw({"Look": method("unary_unary", look)}) as peer:
            for stream_id, timeout in ((1, 0), (3, 1), (5, -5), (7, 2**63 - 1), (9, -(2**63))):
                peer.send(REQUEST, stream_id, request("Look", timeout_nano=timeout))
                assert peer.expect().payload == b""
        assert seen[0] is None
        assert seen[1] == seen[2] == seen[4] == 0.0
        assert seen[3] is None  # 292 years

    def test_answers_come_as_they_are_ready(self) -> None:
        gates = {name: threading.Event() for name in "abc"}

        def wait(message: StringValue, context: Any) -> StringValue:
            assert gates[message.value].wait(LONG)
            return message

        with raw({"Wait": method("unary_unary", wait)}) as peer:
            for stream_id, name in ((1, "a"), (3, "b"), (5, "c")):
                peer.send(REQUEST, stream_id, request("Wait", encoded(name)))
            for stream_id, name in ((5, "c"), (1, "a"), (3, "b")):
                gates[name].set()
                answer = peer.expect()
                assert (answer.stream_id, answer.value) == (stream_id, name)

    def test_an_interceptor_that_fails(self) -> None:
        class Fail(grpc.ServerInterceptor):
            def intercept_service(self, continuation: Any, details: Any) -> Any:
                raise ZeroDivisionError("a bug")

        with raw(interceptors=[Fail()]) as peer:
            assert peer.ask(1).status == (2, "ZeroDivisionError: a bug")
            assert peer.ask(3).status[0] == 2

    def test_the_peer_goes_away_while_a_handler_runs(self) -> None:
        entered, over, done = threading.Event(), threading.Event(), threading.Event()
        contexts: list[Any] = []

        def wait(message: StringValue, context: Any) -> StringValue:
            contexts.append(context)
            context.add_callback(over.set)
            entered.set()
            assert over.wait(LONG)
            contexts.append(context.is_active())
            done.set()
            return message

        with serving({"Wait": method("unary_unary", wait)}) as (_, address):
            with raw_client(address) as peer:
                peer.send(REQUEST, 1, request("Wait"))
                assert entered.wait(LONG)
            assert done.wait(LONG)
            assert contexts[1] is False

    def test_a_call_without_threads_is_refused(self) -> None:
        go = threading.Event()

        def wait(message: StringValue, context: Any) -> StringValue:
            assert go.wait(LONG)
            return message

        with (
            serving({"Wait": method("unary_unary", wait)}, max_threads_per_connection=3) as (
                server,
                address,
            ),
            raw_client(address) as peer,
        ):
            for stream_id in range(1, 2 * 1036, 2):
                peer.send(REQUEST, stream_id, request("Wait"))
            refused = [peer.expect() for _ in range(10)]
            assert all(answer.status[0] == RESOURCE_EXHAUSTED for answer in refused)
            go.set()
            for _ in range(1026):
                assert peer.expect().payload == b""
            assert eventually(lambda: server._running == 0)


class TestStreams:
    @pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
    def test_large_messages_are_bytes(self, kind: str) -> None:
        def lengths(messages: Iterator[Any], context: Any) -> Iterator[bytes]:
            return (f"{type(item).__name__} {len(item)}".encode() for item in messages)

        def joined(messages: Iterator[Any], context: Any) -> bytes:
            return b", ".join(lengths(messages, context))

        make: Any = getattr(grpc, f"{kind}_rpc_method_handler")
        with raw({"Lengths": make(joined if kind == "stream_unary" else lengths)}) as peer:
            peer.send(REQUEST, 1, request("Lengths", b"x" * 300_000), REMOTE_OPEN)
            peer.send(DATA, 1, b"x" * 400_000, REMOTE_CLOSED)
            if kind == "stream_unary":
                assert peer.expect().payload == b"bytes 300000, bytes 400000"
            else:
                assert peer.expect().data == b"bytes 300000"
                assert peer.expect().data == b"bytes 400000"

    def test_of_requests(self) -> None:
        with raw() as peer:
            peer.send(REQUEST, 1, request("Total"), REMOTE_OPEN)
            for letter in "abc":
                peer.send(DATA, 1, encoded(letter))
            peer.send(DATA, 1, flags=REMOTE_CLOSED | NO_DATA)
            assert peer.expect().value == "abc"
            peer.check(3)

    def test_the_last_message_may_close(self) -> None:
        with raw() as peer:
            peer.send(REQUEST, 1, request("Total", encoded("a")), REMOTE_OPEN)
            peer.send(DATA, 1, encoded("b"), REMOTE_CLOSED)
            assert peer.expect().value == "ab"

    def test_a_message_without_bytes_counts(self) -> None:
        def size(requests: Iterator[StringValue], context: Any) -> StringValue:
            return text(str(sum(1 for _ in requests)))

        with raw({"Size": method("stream_unary", size)}) as peer:
            peer.send(REQUEST, 1, request("Size"), REMOTE_OPEN)
            peer.send(DATA, 1)
            peer.send(DATA, 1, flags=NO_DATA)  # this is none
            peer.send(DATA, 1, flags=REMOTE_CLOSED | NO_DATA)
            assert peer.expect().value == "1"

    @pytest.mark.parametrize("flags", [0, REMOTE_CLOSED])
    def test_a_stream_of_requests_called_with_one(self, flags: int) -> None:
        with raw() as peer:
            peer.send(REQUEST, 1, request("Total", encoded("only")), flags)
            assert peer.expect().value == "only"

    def test_of_responses(self) -> None:
        with raw() as peer:
            peer.send(REQUEST, 1, request("Count", encoded("3")), REMOTE_CLOSED)
            for number in range(3):
                message = peer.expect()
                assert (message.type, message.stream_id, message.flags) == (DATA, 1, 0)
                assert StringValue.FromString(message.data).value == str(number)
            end = peer.expect()
            assert (end.type, end.flags, end.data) == (DATA, REMOTE_CLOSED | NO_DATA, b"")
            peer.check(3)

    def test_of_both(self) -> None:
        with raw() as peer:
            peer.send(REQUEST, 1, request("Upper"), REMOTE_OPEN)
            for letter in "abc":
                peer.send(DATA, 1, encoded(letter))
                assert StringValue.FromString(peer.expect().data).value == letter.upper()
            peer.send(DATA, 1, flags=REMOTE_CLOSED | NO_DATA)
            assert peer.expect().flags == REMOTE_CLOSED | NO_DATA

    def test_called_as_unary(self) -> None:
        with raw() as peer:
            assert peer.ask(1, "Count").status[0] == INVALID_ARGUMENT
            assert peer.ask(3, "Upper").status[0] == INVALID_ARGUMENT
            peer.check(5)

    def test_data_after_the_end(self) -> None:
        go = threading.Event()

        def wait(requests: Iterator[StringValue], context: Any) -> StringValue:
            assert go.wait(LONG)
            return total(requests, context)

        with raw({"Wait": method("stream_unary", wait)}) as peer:
            peer.send(REQUEST, 1, request("Wait"), REMOTE_OPEN)
            peer.send(DATA, 1, flags=REMOTE_CLOSED | NO_DATA)
            peer.send(DATA, 1, encoded("late"))
            assert peer.expect().status[0] == INVALID_ARGUMENT
            go.set()
            peer.check(3)

    @pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
    def test_a_refusal_of_data_does_not_overtake_the_answer(
        self, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        finished, go = threading.Event(), threading.Event()

        def answer(requests: Any, context: Any) -> Any:
            return text("enough") if kind == "stream_unary" else iter(())

        def held(type: int, stream_id: int, flags: int, length: int) -> bytes:
            if stream_id == 1:
                finished.set()
                assert go.wait(LONG)
            return encode_header(type, stream_id, flags, length)

        # The one that encodes a response, and the one that encodes the end of a stream.
        for module in (envelope, server):
            monkeypatch.setattr(module, "encode_header", held)
        with raw({"Enough": method(kind, answer)}) as peer:
            peer.send(REQUEST, 1, request("Enough"), REMOTE_OPEN)
            assert finished.wait(LONG)
            peer.send(DATA, 1, encoded("more"))
            peer.send(DATA, 1, b"x" * (MESSAGE_MAX + 1))
            peer.send(DATA, 1, flags=REMOTE_CLOSED | NO_DATA)
            peer.check(3)
            go.set()
            message = peer.expect()
            if kind == "stream_unary":
                assert (message.stream_id, message.value) == (1, "enough")
            else:
                assert message == (1, DATA, REMOTE_CLOSED | NO_DATA, b"")
            assert eventually(functools.partial(_refuses_data, peer, itertools.count(5, 2)))

    def test_the_end_of_the_handler_is_not_the_end_of_a_call_that_another_thread_answers(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The handler returns before the answer is sent. A refusal of data must not overtake the answer, either.
        cancelled, done, go = threading.Event(), threading.Event(), threading.Event()
        sent = server_call.ServerCall.sent

        def cancel(requests: Any, context: Any) -> StringValue:
            in_thread(context.cancel)
            assert cancelled.wait(LONG)
            return text("not wanted")

        def held(type: int, stream_id: int, flags: int, length: int) -> bytes:
            if stream_id == 1:
                cancelled.set()
                assert go.wait(LONG)
            return encode_header(type, stream_id, flags, length)

        def seen(call: server_call.ServerCall) -> None:
            sent(call)
            if call.stream_id == 1:
                done.set()

        monkeypatch.setattr(envelope, "encode_header", held)
        monkeypatch.setattr(server_call.ServerCall, "sent", seen)
        with raw({"Cancel": method("stream_unary", cancel)}) as peer:
            peer.send(REQUEST, 1, request("Cancel"), REMOTE_OPEN)
            assert done.wait(LONG)
            peer.send(DATA, 1, encoded("more"))
            peer.check(3)
            go.set()
            message = peer.expect()
            assert (message.stream_id, message.status[0]) == (1, Code.CANCELLED.value[0])
            assert eventually(functools.partial(_refuses_data, peer, itertools.count(5, 2)))

    def test_a_request_that_cannot_be_parsed(self) -> None:
        with raw() as peer:
            peer.send(REQUEST, 1, request("Total"), REMOTE_OPEN)
            peer.send(DATA, 1, b"\xff")
            code, details = peer.expect().status
            assert code == INTERNAL
            assert "cannot deserialize the request" in details
            peer.check(3)

    def test_an_oversized_request(self) -> None:
        broken: list[BaseException] = []
        done = threading.Event()

        def take(requests: Iterator[StringValue], context: Any) -> StringValue:
            try:
                return total(requests, context)
            except Exception as error:
                broken.append(error)
                raise
            finally:
                done.set()

        with raw({"Take": method("stream_unary", take)}) as peer:
            peer.send(REQUEST, 1, request("Take"), REMOTE_OPEN)
            peer.send(DATA, 1, b"x" * (MESSAGE_MAX + 1))
            assert peer.expect().status[0] == RESOURCE_EXHAUSTED
            assert done.wait(LONG)
            assert "ended before the stream of requests" in str(broken[0])
            peer.check(3)

    def test_the_requests_of_a_call_that_ends_are_never_complete(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The handler goes on at the end of its requests, while another thread still ends the call."""
        outcomes: list[Any] = []
        done = threading.Event()
        discard = Inbox.discard

        def take(requests: Iterator[StringValue], context: Any) -> StringValue:
            try:
                outcomes.append(total(requests, context))
            except Exception as error:
                outcomes.append(error)
            finally:
                done.set()
            return text("")

        def discard_and_hold(inbox: Inbox) -> None:
            discard(inbox)
            assert done.wait(LONG)

        monkeypatch.setattr(Inbox, "discard", discard_and_hold)
        with serving({"Take": method("stream_unary", take)}) as (_, address):
            with raw_client(address) as peer:
                peer.send(REQUEST, 1, request("Take"), REMOTE_OPEN)
                peer.send(DATA, 1, encoded("a part"))
            assert done.wait(LONG)
        assert "ended before the stream of requests" in str(outcomes[0])

    def test_an_oversized_response(self) -> None:
        def big(message: bytes, context: Any) -> Iterator[bytes]:
            yield b"x" * MESSAGE_MAX
            yield b"x" * (MESSAGE_MAX + 1)
            raise AssertionError

        handler: Any = grpc.unary_stream_rpc_method_handler(big)
        with raw({"Big": handler}) as peer:
            peer.send(REQUEST, 1, request("Big"), REMOTE_CLOSED)
            assert len(peer.expect().data) == MESSAGE_MAX
            assert peer.expect().status[0] == RESOURCE_EXHAUSTED
            peer.check(3)

    def test_a_handler_that_raises_in_the_middle(self) -> None:
        def fail(message: StringValue, context: Any) -> Iterator[StringValue]:
            yield text("one")
            raise ValueError("x")

        with raw({"Fail": method("unary_stream", fail)}) as peer:
            peer.send(REQUEST, 1, request("Fail"), REMOTE_CLOSED)
            assert peer.expect().type == DATA
            assert peer.expect().status == (2, "ValueError: x")
            peer.check(3)

    def test_a_code_set_in_the_middle_counts_at_the_end(self) -> None:
        def partly(message: StringValue, context: Any) -> Iterator[StringValue]:
            context.set_code(Code.DATA_LOSS)
            context.set_details("some are missing")
            yield text("one")
            yield text("two")

        with raw({"Partly": method("unary_stream", partly)}) as peer:
            peer.send(REQUEST, 1, request("Partly"), REMOTE_CLOSED)
            assert [peer.expect().type, peer.expect().type] == [DATA, DATA]
            assert peer.expect().status == (Code.DATA_LOSS.value[0], "some are missing")

    @pytest.mark.parametrize("item", [None, "text"])
    def test_a_handler_that_yields_a_wrong_type(self, item: Any) -> None:
        with raw({"Odd": method("unary_stream", lambda m, c: iter([text("a"), item]))}) as peer:
            peer.send(REQUEST, 1, request("Odd"), REMOTE_CLOSED)
            assert peer.expect().type == DATA
            assert peer.expect().status[0] == (2 if item is None else INTERNAL)

    def test_a_handler_that_is_no_generator(self) -> None:
        with raw({"Odd": method("unary_stream", lambda m, c: None)}) as peer:
            peer.send(REQUEST, 1, request("Odd"), REMOTE_CLOSED)
            assert peer.expect().status[0] == 2
            peer.check(3)

    def test_the_stream_of_requests_ends_at_the_deadline(self) -> None:
        with raw() as peer:
            peer.send(REQUEST, 1, request("Total", timeout_nano=20_000_000), REMOTE_OPEN)
            assert peer.expect().status[0] == Code.DEADLINE_EXCEEDED.value[0]
            peer.check(3)

    def test_the_peer_goes_away(self) -> None:
        ended: list[BaseException] = []
        done = threading.Event()

        def take(requests: Iterator[StringValue], context: Any) -> StringValue:
            try:
                return total(requests, context)
            except Exception as error:
                ended.append(error)
                raise
            finally:
                done.set()

        with serving({"Take": method("stream_unary", take)}) as (_, address):
            with raw_client(address) as peer:
                peer.send(REQUEST, 1, request("Take"), REMOTE_OPEN)
                peer.send(DATA, 1, encoded("x"))
            assert done.wait(LONG)
            assert "ended before the stream" in str(ended[0])

    def test_the_peer_goes_away_while_responses_are_sent(self) -> None:
        stopped = threading.Event()

        def forever(message: StringValue, context: Any) -> Iterator[StringValue]:
            try:
                while True:
                    yield text("x" * 1000)
            finally:
                stopped.set()

        with serving({"Forever": method("unary_stream", forever)}) as (_, address):
            with raw_client(address) as peer:
                peer.send(REQUEST, 1, request("Forever"), REMOTE_CLOSED)
                assert peer.expect().type == DATA
            assert stopped.wait(LONG)

    def test_data_without_a_consumer_is_dropped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # A client that streams to a method that takes one request must not hold up the others.
        _bound(monkeypatch, stall=LONG)
        with raw() as peer:
            peer.send(REQUEST, 1, request("Count", encoded("1")), REMOTE_OPEN)
            assert peer.expect().type == DATA
            assert peer.expect().flags == REMOTE_CLOSED | NO_DATA
            peer.check(3)

    @pytest.mark.parametrize("name", ["Slow", "SlowUnary"])
    def test_data_for_a_method_that_takes_one_request(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _bound(monkeypatch, stall=LONG)
        go = threading.Event()
        entered = threading.Event()

        def slow(message: StringValue, context: Any) -> Iterator[StringValue]:
            entered.set()
            assert go.wait(LONG)
            yield message

        def slow_unary(message: StringValue, context: Any) -> StringValue:
            return next(slow(message, context))

        handlers = {
            "Slow": method("unary_stream", slow),
            "SlowUnary": method("unary_unary", slow_unary),
        }
        with raw(handlers) as peer:
            peer.send(REQUEST, 1, request(name), REMOTE_OPEN)
            assert entered.wait(LONG)
            for _ in range(10):
                peer.send(DATA, 1, encoded("x" * 100))
            peer.check(3)
            go.set()
            assert peer.expect().stream_id == 1

    def test_a_handler_that_does_not_take_its_data_loses_the_stream(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        _bound(monkeypatch, stall=0.02)
        go, entered = threading.Event(), threading.Event()
        over = threading.Event()

        def stall(requests: Iterator[StringValue], context: Any) -> StringValue:
            context.add_callback(over.set)
            entered.set()
            assert go.wait(LONG)
            return total(requests, context)

        with raw({"Stall": method("stream_unary", stall)}) as peer:
            peer.send(REQUEST, 1, request("Stall"), REMOTE_OPEN)
            assert entered.wait(LONG)
            for _ in range(2):
                peer.send(DATA, 1, encoded("x" * 100))
            code, details = peer.expect().status
            assert code == RESOURCE_EXHAUSTED
            assert "does not take" in details
            assert over.wait(LONG)
            peer.check(3)
            go.set()
            peer.check(5)
        (record,) = [record for record in caplog.records if "not take" in record.getMessage()]
        assert record.levelno == logging.WARNING
        assert f"/{SERVICE}/Stall: the handler does not take" in record.getMessage()
        assert "stream 1 held up the connection" in record.getMessage()

    def test_a_stream_that_is_not_taken_holds_up_other_calls_for_a_second(self) -> None:
        # A stream of 32 MiB. A runtime gives a request two seconds.
        go, entered = threading.Event(), threading.Event()

        def stall(requests: Iterator[StringValue], context: Any) -> StringValue:
            entered.set()
            assert go.wait(LONG)
            return total(requests, context)

        chunk = encoded("x" * (1024 * 1024))
        with raw({"Stall": method("stream_unary", stall)}) as peer:
            peer.send(REQUEST, 1, request("Stall"), REMOTE_OPEN)
            assert entered.wait(LONG)
            for _ in range(15):
                peer.send(DATA, 1, chunk)
            began = time.monotonic()
            for _ in range(17):
                peer.send(DATA, 1, chunk)
            peer.send(REQUEST, 3, request("Echo"))
            while peer.expect().stream_id != 3:
                pass
            # One second, and the time to send 17 MiB on a busy machine.
            assert 0.9 < time.monotonic() - began < LONG / 2
            go.set()

    def test_stop_does_not_wait_for_a_stalled_stream(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _bound(monkeypatch, stall=LONG)
        go, entered = threading.Event(), threading.Event()

        def stall(requests: Iterator[StringValue], context: Any) -> StringValue:
            entered.set()
            assert go.wait(LONG)
            return text("")

        handlers = {"Stall": method("stream_unary", stall)}
        with serving(handlers) as (server, address), raw_client(address) as peer:
            peer.send(REQUEST, 1, request("Stall"), REMOTE_OPEN)
            assert entered.wait(LONG)
            peer.send(DATA, 1, encoded("x" * 100))
            peer.send(DATA, 1, encoded("x" * 100))
            (connection,) = server._connections
            assert eventually(
                lambda: any(
                    c.inbox.waits_for_room for c in connection.end.calls.values() if c.inbox
                )
            )
            began = time.monotonic()
            assert server.stop(None).wait(LONG)
            assert time.monotonic() - began < LONG / 2
            go.set()


def test_errors_reach_the_client() -> None:
    with serving(plain_handlers()) as (_, address), connect(address) as channel:
        assert error_of(lambda: Calls(channel).unary("Nope")(text(""))) == (
            Code.UNIMPLEMENTED,
            "method Nope",
        )


def test_the_timeout_of_a_request() -> None:
    # 0 is no timeout; so is more than a lock can wait for.
    found = [server_call.timeout_of(value) for value in (0, 1, 1_500_000_000, 2**63 - 1)]
    assert found == [None, 1e-9, 1.5, None]
