"""The server's end of a connection, with peers of all kinds: what they send is written as bytes."""

from __future__ import annotations

import itertools
import logging
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import pytest

from nri_sync.deadline import Deadline
from nri_sync.net.link import Link, Receiver
from nri_sync.threads import Latch
from nri_sync.ttrpc import connect, envelope_pb2, service
from nri_sync.ttrpc.connection import frame
from nri_sync.ttrpc.inbox import Inbox
from nri_sync.ttrpc.router import Router
from nri_sync.ttrpc.service import LatePolicy, ServerCall, ServerEnd, encode_error, encode_success
from nri_sync.ttrpc.status import Status
from nri_sync.wire.ttrpc import MESSAGE_MAX, encode_header
from tests.ttrpc.rig import (
    DATA,
    LONG,
    REQUEST,
    RESPONSE,
    SERVICE,
    Calls,
    RawPeer,
    StringValue,
    echo,
    error_of,
    eventually,
    in_thread,
    method,
    raw_client,
    request,
    serving,
    text,
)

__all__: list[str] = []

Code = grpc.StatusCode

INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 3, 8, 12, 13
REMOTE_CLOSED, REMOTE_OPEN, NO_DATA = 1, 2, 4


def total(requests: Iterator[StringValue], context: Any) -> StringValue:
    return text("".join(request.value for request in requests))


def upper(requests: Iterator[StringValue], context: Any) -> Iterator[StringValue]:
    for message in requests:
        yield text(message.value.upper())


def count(message: StringValue, context: Any) -> Iterator[StringValue]:
    for number in range(int(message.value or 0)):
        yield text(str(number))


def plain_handlers() -> dict[str, Any]:
    return {
        "Echo": method("unary_unary", echo),
        "Total": method("stream_unary", total),
        "Upper": method("stream_stream", upper),
        "Count": method("unary_stream", count),
    }


@contextmanager
def raw(handlers: dict[str, Any] | None = None, **options: Any) -> Iterator[RawPeer]:
    with ExitStack() as stack:
        every = {**plain_handlers(), **(handlers or {})}
        _, address = stack.enter_context(serving(every, **options))
        yield stack.enter_context(raw_client(address))


def encoded(value: str) -> bytes:
    return text(value).SerializeToString()


class TestBadPeers:
    """Each is told what is wrong, and everything else goes on."""

    @pytest.mark.parametrize("type", [REQUEST, RESPONSE, DATA, 0, 77])
    @pytest.mark.parametrize("stream_id", [0, 2, 0xFFFFFFFE])
    def test_even_stream_ids(self, stream_id: int, type: int) -> None:
        with raw() as peer:
            peer.send(type, stream_id, b"garbage")
            answer = peer.expect()
            assert (answer.stream_id, answer.type) == (stream_id, RESPONSE)
            assert answer.status[0] == INVALID_ARGUMENT
            peer.check(1)

    @pytest.mark.parametrize("stream_id", [1, 5, 7])
    def test_stream_ids_that_do_not_grow(self, stream_id: int) -> None:
        with raw() as peer:
            peer.check(7)
            peer.send(REQUEST, stream_id, request("Echo"))
            answer = peer.expect()
            assert answer.stream_id == stream_id
            assert answer.status[0] == INVALID_ARGUMENT
            peer.check(9)

    def test_gaps_are_fine(self) -> None:
        with raw() as peer:
            for stream_id in (1, 5, 999, 0xFFFFFFFF):
                peer.check(stream_id)

    def test_a_reused_id_does_not_hurt_the_call_that_has_it(self) -> None:
        go = threading.Event()

        def wait(message: StringValue, context: Any) -> StringValue:
            assert go.wait(LONG)
            return message

        with raw({"Wait": method("unary_unary", wait)}) as peer:
            peer.send(REQUEST, 1, request("Wait", encoded("x")))
            assert peer.ask(1).status[0] == INVALID_ARGUMENT
            go.set()
            assert peer.expect().value == "x"

    @pytest.mark.parametrize("type", [0, RESPONSE, 4, 255])
    def test_unknown_types_are_ignored(self, type: int, caplog: pytest.LogCaptureFixture) -> None:
        with raw() as peer:
            peer.send(type, 1, b"x")
            peer.send(type, 3, b"x")
            peer.check(5)
            peer.check(7)
        warnings = [r.message for r in caplog.records if r.levelno == logging.WARNING]
        assert len(warnings) == 2
        assert "ignored on stream 1" in warnings[0]
        assert "2 messages were ignored in all" in warnings[1]

    @pytest.mark.parametrize("flags", [0, REMOTE_CLOSED, REMOTE_CLOSED | NO_DATA, 0xFF])
    def test_data_on_unknown_streams(self, flags: int) -> None:
        with raw() as peer:
            peer.send(DATA, 9, b"x", flags)
            answer = peer.expect()
            assert answer.stream_id == 9
            assert answer.status[0] == INVALID_ARGUMENT
            peer.check(1)

    def test_data_for_a_unary_call(self) -> None:
        go, entered = threading.Event(), threading.Event()
        over = threading.Event()

        def wait(message: StringValue, context: Any) -> StringValue:
            context.add_callback(over.set)
            entered.set()
            assert go.wait(LONG)
            return message

        with raw({"Wait": method("unary_unary", wait)}) as peer:
            peer.send(REQUEST, 1, request("Wait"))
            assert entered.wait(LONG)
            peer.send(DATA, 1, b"x")
            answer = peer.expect()
            assert answer.stream_id == 1
            assert answer.status[0] == INVALID_ARGUMENT
            assert over.wait(LONG)
            go.set()
            peer.check(3)

    @pytest.mark.parametrize("flags", [0x80, 0xF8, NO_DATA])
    def test_flags_nobody_knows(self, flags: int) -> None:
        with raw() as peer:
            peer.send(REQUEST, 1, request("Echo", encoded("x")), flags)
            assert peer.expect().value == "x"

    @pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05a", b"\x0a\x01\xff"])
    def test_envelopes_that_cannot_be_parsed(self, data: bytes) -> None:
        with raw() as peer:
            peer.send(REQUEST, 1, data)
            assert peer.expect().status[0] == INVALID_ARGUMENT
            peer.check(3)

    @pytest.mark.parametrize("data", [b"\xff", b"\x0a\x01\xff"])
    def test_requests_that_cannot_be_parsed(self, data: bytes) -> None:
        with raw() as peer:
            assert peer.ask(1, "Echo", data).status[0] == INTERNAL
            assert peer.ask(3, "Count", data).status[0] == INVALID_ARGUMENT  # as unary
            peer.send(REQUEST, 5, request("Count", data), REMOTE_CLOSED)
            assert peer.expect().status[0] == INTERNAL
            peer.check(7)

    def test_an_oversized_request(self) -> None:
        with raw() as peer:
            length = MESSAGE_MAX + 1
            peer.send(REQUEST, 1, b"x" * length)
            answer = peer.expect()
            assert (answer.stream_id, answer.status[0]) == (1, RESOURCE_EXHAUSTED)
            assert str(length) in answer.status[1]
            # The even id does not matter any more.
            peer.send(REQUEST, 2, b"x" * length)
            assert peer.expect().status[0] == RESOURCE_EXHAUSTED
            peer.check(3)

    @pytest.mark.parametrize(
        "bytes_sent",
        [
            b"\0",
            b"\0\0\0\0\0\0\0\1\1",
            b"\0\0\0\5\0\0\0\1\1\0ab",
            b"\xff" * 10,
            bytes(range(90, 154)),
        ],
    )
    def test_truncated(self, bytes_sent: bytes) -> None:
        with serving() as (server, address):
            with raw_client(address) as peer:
                peer.sock.sendall(bytes_sent)
            with raw_client(address) as peer:
                peer.check(1)
            assert eventually(lambda: not server._connections)

    def test_many_bad_messages_at_once(self) -> None:
        with raw() as peer:
            peer.sock.sendall(b"\0\0\0\0\0\0\0\2\1\0" * 20_000)
            for _ in range(20_000):
                assert peer.expect().stream_id == 2
            peer.check(1)


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

        monkeypatch.setattr(service, "encode_header", held)
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

            ids = itertools.count(5, 2)

            def refused() -> bool:
                peer.send(DATA, 1, encoded("still more"))
                message = peer.ask(next(ids))
                if message.stream_id != 1:
                    return False  # the server may not know yet that its answer is sent
                assert message.status[0] == INVALID_ARGUMENT
                peer.expect()
                return True

            eventually(refused)

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
    def test_a_handler_that_yields_what_it_should_not(self, item: Any) -> None:
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

    def test_data_nobody_takes_is_dropped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # A client that streams to a method that takes one request must not hold up the others.
        monkeypatch.setattr(service, "Inbox", lambda: Inbox(limit=100, stall=LONG))
        with raw() as peer:
            peer.send(REQUEST, 1, request("Count", encoded("1")), REMOTE_OPEN)
            assert peer.expect().type == DATA
            assert peer.expect().flags == REMOTE_CLOSED | NO_DATA
            peer.check(3)

    @pytest.mark.parametrize("name", ["Slow", "SlowUnary"])
    def test_data_for_a_method_that_takes_one_request(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(service, "Inbox", lambda: Inbox(limit=100, stall=LONG))
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
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(service, "Inbox", lambda: Inbox(limit=100, stall=0.02))
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

    def test_stop_does_not_wait_for_a_stalled_stream(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(service, "Inbox", lambda: Inbox(limit=100, stall=LONG))
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
                lambda: any(c.inbox._room for c in connection.end.calls.values() if c.inbox)
            )
            began = time.monotonic()
            assert server.stop(None).wait(LONG)
            assert time.monotonic() - began < LONG / 2
            go.set()


class TestMemory:
    """A peer cannot make a server hold more than it should."""

    @staticmethod
    @contextmanager
    def busy() -> Iterator[tuple[RawPeer, threading.Event]]:
        """A server whose threads all serve handlers that wait for the event."""
        go = threading.Event()
        entered = threading.Semaphore(0)

        def block(message: StringValue, context: Any) -> StringValue:
            entered.release()
            assert go.wait(LONG)
            return message

        handlers = {"Block": method("unary_unary", block)}
        with raw(handlers, max_threads_per_connection=3) as peer:
            for stream_id in (1, 3):
                peer.send(REQUEST, stream_id, request("Block"))
            for _ in range(2):
                assert entered.acquire(timeout=LONG)
            try:
                yield peer, go
            finally:
                go.set()

    def test_streams_that_wait_for_a_thread_count_with_what_they_hold(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        # Six of 12 MB each; 64 MiB may wait.
        streams = range(5, 17, 2)
        chunk = encoded("x" * 4_000_000)
        with caplog.at_level(logging.DEBUG, "nri_sync.ttrpc"), self.busy() as (peer, go):
            for stream_id in streams:
                peer.send(REQUEST, stream_id, request("Total"), REMOTE_OPEN)
                for _ in range(3):
                    peer.send(DATA, stream_id, chunk)
            assert eventually(lambda: "too many requests at once" in caplog.text)
            go.set()
            for stream_id in streams[:-1]:
                peer.send(DATA, stream_id, b"", REMOTE_CLOSED | NO_DATA)
            answers = {}
            for _ in range(2 + len(streams)):
                answer = peer.expect()
                answers[answer.stream_id] = answer.status[0]
            # The sum of 12 MB does not fit into an answer; the last stream is refused for another reason.
            assert answers == {1: 0, 3: 0, **dict.fromkeys(streams, RESOURCE_EXHAUSTED)}
            # Once, though more data of it came.
            refusals = [r.getMessage() for r in caplog.records if "at once" in r.getMessage()]
            assert len(refusals) == 1
            peer.check(101)

    def test_the_number_of_open_streams_is_bounded(self) -> None:
        with self.busy() as (peer, _):
            codes: list[int] = []
            opened = 1100

            def read() -> None:
                for _ in range(opened - 1024):
                    codes.append(peer.expect().status[0])

            reader = in_thread(read)
            for number in range(opened):
                peer.send(REQUEST, 5 + 2 * number, request("Total"), REMOTE_OPEN)
            reader.join(LONG)
            assert codes == [RESOURCE_EXHAUSTED] * (opened - 1024)


class Policy(LatePolicy):
    def __init__(self, answer: Any) -> None:
        self.seconds: float | None = 0.05
        self.result = answer
        self.reported = threading.Event()
        self.over = threading.Event()
        self.reports: list[tuple[str, Status | None]] = []
        self.asked: list[str] = []
        self.delays: list[float] = []
        self.sooner = 0.0
        self.answers: list[tuple[str, Any]] = []

    def clock_ran(self, delay: float) -> None:
        self.delays.append(delay)

    def ahead(self) -> float:
        return self.sooner

    def answered(self, call: ServerCall, outcome: Any) -> None:
        self.answers.append((call.method, outcome))

    def limit(self) -> float | None:
        return self.seconds

    def answer(self, call: ServerCall) -> Any:
        self.asked.append(call.method)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def finished(self, call: ServerCall, error: Status | None) -> None:
        self.reports.append((call.method, error))
        self.reported.set()


class TestLate:
    """Calls whose handlers take too long are answered for."""

    @contextmanager
    def ending(
        self, policy: LatePolicy, behaviour: Any, max_threads: int = 64
    ) -> Iterator[tuple[ServerEnd, RawPeer]]:
        over = threading.Event()

        class Connection(Receiver):
            def lost(self, cause: Any) -> None:
                end.lost(cause)
                over.set()

        router = Router()
        router.add_registered_method_handlers(
            SERVICE, {"Echo": method("unary_unary", echo), "M": method("unary_unary", behaviour)}
        )
        end = ServerEnd(router, frame=frame, peer="test", late_policy=policy)
        connection = Connection()
        connection.receive = end.receive  # type: ignore[method-assign]
        connection.tick = end.tick  # type: ignore[method-assign]
        near, far = socket.socketpair()
        end.link = Link(near, connection, name="test", max_threads=max_threads)
        in_thread(end.link.run)
        peer = RawPeer(far)
        try:
            yield end, peer
        finally:
            end.link.close()
            peer.close()
            assert over.wait(LONG)

    @contextmanager
    def late(self, answer: Any, fails: bool = False) -> Iterator[tuple[Policy, RawPeer, Any]]:
        go = threading.Event()
        contexts: list[Any] = []

        def slow(message: StringValue, context: Any) -> StringValue:
            context.add_callback(policy.over.set)
            contexts.append(context)
            assert go.wait(LONG)
            if fails:
                raise ValueError("too late")
            return message

        policy = Policy(answer)
        with self.ending(policy, slow) as (end, peer):
            peer.send(REQUEST, 1, request("M", encoded("result")))
            yield policy, peer, contexts
            go.set()
            if answer is not None:
                assert policy.reported.wait(LONG)
            assert end.quiet(Deadline(LONG))

    def test_with_an_empty_answer(self) -> None:
        with self.late(b"") as (policy, peer, contexts):
            assert peer.expect().payload == b""
            # The handler is still running, and is told.
            assert policy.over.wait(LONG)
            assert not contexts[0].is_active()
            peer.check(3)
        assert policy.reports == [(f"/{SERVICE}/M", None)]

    def test_with_an_error(self) -> None:
        with self.late(Status.of(Code.DEADLINE_EXCEEDED, "late"), fails=True) as (policy, peer, _):
            assert peer.expect().status == (4, "late")
        assert policy.reports == [
            (f"/{SERVICE}/M", Status.of(Code.UNKNOWN, "ValueError: too late"))
        ]

    def test_not_at_all(self) -> None:
        with self.late(None) as (policy, peer, contexts):
            assert eventually(lambda: policy.asked == [f"/{SERVICE}/M"])
            peer.check(3)
            assert contexts[0].is_active()
        assert policy.reports == []

    def test_a_policy_that_fails(self, caplog: pytest.LogCaptureFixture) -> None:
        with self.late(ZeroDivisionError("a bug")) as (_, peer, _):
            assert peer.expect().status[0] == INTERNAL
            peer.check(3)
        assert "cannot answer" in caplog.text

    def test_a_call_in_line_is_answered_for_too(self) -> None:
        go = threading.Event()

        def slow(message: StringValue, context: Any) -> StringValue:
            assert go.wait(LONG)
            return message

        policy = Policy(b"")
        with self.ending(policy, slow, max_threads=3) as (_, peer):
            for stream_id in (1, 3, 5, 7):
                peer.send(REQUEST, stream_id, request("M"))
            assert sorted(peer.expect().stream_id for _ in range(4)) == [1, 3, 5, 7]
            # All threads are busy, and nothing else is due.
            peer.send(REQUEST, 9, request("M"))
            assert peer.expect().stream_id == 9
            peer.send(REQUEST, 11, b"\xff")
            assert peer.expect().stream_id == 11
            go.set()
            assert eventually(lambda: len(policy.reports) >= 5)
        assert set(policy.asked) == {f"/{SERVICE}/M", ""}

    def test_the_answer_cannot_be_written_at_once(self) -> None:
        go = threading.Event()

        def slow(message: StringValue, context: Any) -> StringValue:
            assert go.wait(LONG)
            return message

        policy = Policy(b"")
        with self.ending(policy, slow) as (end, peer):
            filler = struct.pack(">IIBB", 1000, 99, RESPONSE, 0) + b"x" * 1000
            while end.link.try_send([filler]):
                pass
            peer.send(REQUEST, 1, request("M"))
            assert eventually(lambda: policy.asked == [f"/{SERVICE}/M"])
            go.set()
            assert policy.reported.wait(LONG)
            while (answer := peer.expect()).stream_id == 99:
                pass
            assert (answer.stream_id, answer.payload) == (1, b"")
            assert end.quiet(Deadline(LONG))

    def test_in_time(self) -> None:
        policy = Policy(b"")
        policy.seconds = LONG
        with self.ending(policy, echo) as (_, peer):
            assert peer.ask(1, "M", encoded("x")).value == "x"
        assert policy.asked == []

    def test_without_a_limit(self) -> None:
        policy = Policy(b"")
        policy.seconds = None
        with self.ending(policy, echo) as (end, peer):
            assert peer.ask(1, "M", encoded("x")).value == "x"
            assert end.tick(0) == float("inf")

    def waiting(
        self, policy: Policy, *since: float
    ) -> tuple[ServerEnd, list[ServerCall], list[Any]]:
        """An end with calls that arrived at these times and are not served, and the frames that it sends."""
        sent: list[Any] = []

        class Wire:
            name = "test"

            def try_send(self, buffers: Any) -> bool:
                sent.append(buffers)
                return True

        end = ServerEnd(Router(), frame=frame, peer="test", late_policy=policy)
        end.link = Wire()  # type: ignore[assignment]
        jobs: list[Any] = []
        for number, at in enumerate(since):
            data = request("M")
            header = struct.pack(">IIBB", len(data), 2 * number + 1, REQUEST, 0)
            end.receive(memoryview(header + data), jobs)
            # As if it had come then.
            moved = at - jobs[-1].since
            jobs[-1].due += moved
            jobs[-1].late_at += moved
            jobs[-1].since = at
        end._look_at = min(job.due for job in jobs)
        return end, jobs, sent

    def test_the_delay_of_the_thread_is_measured_halfway(self) -> None:
        policy = Policy(b"")
        policy.seconds = 10.0
        end, (call,), sent = self.waiting(policy, 100.0)
        assert call.due == 105.0
        assert end.tick(105.0) == 107.5
        assert end.tick(108.0) == 109.0
        assert end.tick(109.94) == 109.99
        assert end.tick(109.99) == 110.0
        assert sent == []
        assert end.tick(110.25) == float("inf")
        assert policy.delays == pytest.approx([0.0, 0.5, 0.94, 0.0, 0.25])
        assert len(sent) == 1
        assert policy.answers == [("/" + SERVICE + "/M", b"")]

    def test_a_longer_delay_brings_the_answer_forward(self) -> None:
        policy = Policy(b"")
        policy.seconds = 10.0
        end, _, sent = self.waiting(policy, 100.0, 101.0)
        policy.sooner = 2.0
        assert end.tick(106.0) == 107.0
        assert end.tick(107.99) == 108.0
        assert sent == []
        assert end.tick(108.5) == 108.75
        assert len(sent) == 1
        assert end.tick(109.0) == float("inf")
        assert len(sent) == 2

    def test_a_handler_has_half_of_the_time_at_least(self) -> None:
        policy = Policy(b"")
        policy.seconds = 10.0
        policy.sooner = 1000.0
        end, _, sent = self.waiting(policy, 100.0)
        assert end.tick(104.99) == 105.0
        assert sent == []
        assert end.tick(105.0) == float("inf")
        assert len(sent) == 1

    def test_a_thread_that_is_woken_early_has_no_delay(self) -> None:
        policy = Policy(b"")
        policy.seconds = 10.0
        end, _, _ = self.waiting(policy, 100.0)
        assert end.tick(104.0) == 107.0
        assert policy.delays == []

    def test_a_call_that_is_over_measures_as_well(self) -> None:
        policy = Policy(b"")
        policy.seconds = 10.0
        end, _, sent = self.waiting(policy, 100.0)
        end.calls.clear()
        assert end.tick(105.5) == float("inf")
        assert policy.delays == [0.5]
        # It is measured once.
        end.tick(107.0)
        assert policy.delays == [0.5]
        assert sent == []

    def test_a_report_that_fails_keeps_no_answer_back(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        policy = Policy(b"")
        policy.seconds = 10.0
        monkeypatch.setattr(policy, "clock_ran", lambda delay: 1 / 0)
        monkeypatch.setattr(policy, "answered", lambda call, outcome: 1 / 0)
        end, _, sent = self.waiting(policy, 100.0)
        end.tick(111.0)
        assert len(sent) == 1
        assert "cannot report a delay" in caplog.text
        assert "cannot report the late answer" in caplog.text

    def test_the_base_has_no_limit(self) -> None:
        assert LatePolicy().limit() is None
        with pytest.raises(NotImplementedError):
            LatePolicy().answer(None)  # type: ignore[arg-type]
        LatePolicy().finished(None, None)  # type: ignore[arg-type]
        LatePolicy().answered(None, b"")  # type: ignore[arg-type]
        LatePolicy().clock_ran(1.0)
        assert LatePolicy().ahead() == 0


class TestEndingGently:
    def test_calls_that_come_too_late_are_ignored(self) -> None:
        with serving(plain_handlers()) as (server, address), raw_client(address) as peer:
            peer.check(1)
            (connection,) = server._connections
            connection.end.take_no_more()
            peer.send(REQUEST, 3, request("Echo"))
            # Still answered, as it comes after: the one before was not.
            peer.send(REQUEST, 2, request("Echo"))
            assert peer.expect().stream_id == 2
            assert not connection.end.calls

    def test_a_handler_learns_that_its_answer_is_sent(self) -> None:
        latches: list[Latch] = []

        def handler(message: StringValue, context: Any) -> StringValue:
            context.answered = Latch()
            latches.append(context.answered)
            return message

        with raw({"M": method("unary_unary", handler)}) as peer:
            assert peer.ask(1, "M").payload == b""
            assert latches[0].wait(Deadline(LONG))


class TestQuiet:
    def test_until_the_answers_are_sent(self) -> None:
        go = threading.Event()
        entered = threading.Event()

        def wait(message: StringValue, context: Any) -> StringValue:
            entered.set()
            assert go.wait(LONG)
            return message

        handlers = {"Wait": method("unary_unary", wait)}
        with serving(handlers) as (server, address), raw_client(address) as peer:
            peer.send(REQUEST, 1, request("Wait", encoded("x")))
            assert entered.wait(LONG)
            (connection,) = server._connections
            assert len(connection.end.calls) == 1
            assert not connection.end.quiet(Deadline(0.01))
            go.set()
            assert connection.end.quiet(Deadline(LONG))
            assert not connection.end.calls
            assert peer.expect().value == "x"

    @pytest.mark.parametrize("when", ["before it looks", "after it looked"])
    def test_the_last_call_is_settled_while_it_comes(self, when: str) -> None:
        held, told = threading.Event(), threading.Event()

        class Unsettled(set[Any]):
            """Holds up who settles the last call, with it taken off; or who waits, having seen it."""

            def remove(self, call: Any) -> None:
                super().remove(call)
                if when == "before it looks":
                    held.set()
                    assert told.wait(LONG)

            def __len__(self) -> int:
                size = super().__len__()
                if size and when == "after it looked" and threading.current_thread() is waiter:
                    held.set()
                    assert told.wait(LONG)
                return size

        end = ServerEnd(Router(), frame=frame, peer="test")
        end._unsettled = unsettled = Unsettled()
        jobs: list[Any] = []
        end.receive(memoryview(encode_header(REQUEST, 1, 0, 0)), jobs)
        quiet: list[bool] = []
        waiter = threading.Thread(target=lambda: quiet.append(end.quiet(Deadline(LONG))))
        settler = threading.Thread(target=jobs[0].sent)
        first, second = (settler, waiter) if when == "before it looks" else (waiter, settler)
        first.start()
        assert held.wait(LONG)
        second.start()
        second.join(LONG)
        told.set()
        first.join(LONG)
        assert (quiet, set(unsettled)) == ([True], set())


def join(header: bytes, payload: Any) -> list[Any]:
    return [header + bytes(payload)]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 2_097_151, 2_097_152])
def test_encode_success_is_what_protobuf_writes(size: int) -> None:
    payload = b"x" * size
    (data,) = encode_success(7, payload, join)
    assert data[10:] == envelope_pb2.Response(payload=payload).SerializeToString()
    assert data[:10] == len(data[10:]).to_bytes(4, "big") + b"\0\0\0\7\2\0"


def test_encode_error_is_what_protobuf_writes() -> None:
    (data,) = encode_error(7, Status(5, "gone"), join)
    message = envelope_pb2.Response()
    message.status.code = 5
    message.status.message = "gone"
    assert data[10:] == message.SerializeToString()


def test_concurrent_calls_get_their_own_answers() -> None:
    callers, calls = 8, 1000
    with serving(plain_handlers()) as (_, address), connect(address) as channel:
        unary = Calls(channel).unary("Echo")
        wrong: list[str] = []

        def call(caller: int) -> None:
            for number in range(calls):
                value = f"{caller}:{number}:" + "x" * (number % 97 * 50)
                if unary(text(value)).value != value:
                    wrong.append(value)

        threads = [in_thread(lambda c=caller: call(c)) for caller in range(callers)]  # type: ignore[misc]
        for thread in threads:
            thread.join(LONG * 2)
            assert not thread.is_alive()
        assert wrong == []


def test_errors_reach_the_client() -> None:
    with serving(plain_handlers()) as (_, address), connect(address) as channel:
        assert error_of(lambda: Calls(channel).unary("Nope")(text(""))) == (
            Code.UNIMPLEMENTED,
            "method Nope",
        )
