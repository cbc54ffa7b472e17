"""The client's end of a connection, with servers of all kinds, which send plain bytes."""

from __future__ import annotations

import functools
import logging
import queue
import threading
import time
from typing import Any

import grpc
import pytest

from nri_sync import threads
from nri_sync.deadline import Deadline
from nri_sync.errors import LocalProtocolError, NoThread
from nri_sync.rpc import client as client_module
from nri_sync.rpc.client import ClientEnd
from nri_sync.rpc.client_call import ClientCall
from nri_sync.rpc.inbox import Holdings, Inbox
from nri_sync.rpc.status import Status
from nri_sync.ttrpc import Channel, multicallable
from nri_sync.wire.streams import ClientStreams, State
from nri_sync.wire.ttrpc import MESSAGE_MAX
from tests.ttrpc.rig import (
    DATA,
    LONG,
    NO_DATA,
    REMOTE_CLOSED,
    REMOTE_OPEN,
    REQUEST,
    RESPONSE,
    SERVICE,
    Calls,
    RawPeer,
    StringValue,
    end_time,
    error_of,
    eventually,
    in_thread,
    raw_server,
    text,
)

__all__: list[str] = []

Code = grpc.StatusCode


def works(calls: Calls, peer: RawPeer) -> bool:
    """That the connection still works."""
    future = calls.unary("Works").future(text("x"), timeout=LONG)
    # Messages of earlier calls come first.
    while (message := peer.expect()).type != REQUEST or message.request.method != "Works":
        pass
    peer.respond(message.stream_id, text("yes").SerializeToString())
    return bool(future.result().value == "yes")


class TestRequests:
    def test_the_bytes(self) -> None:
        with raw_server() as (channel, peer):
            future = Calls(channel).unary("Echo").future(text("hi"))
            expected = b"\x0a\x0ctest.Service\x12\x04Echo\x1a\x04\x0a\x02hi"
            message = peer.expect()
            assert message == (1, REQUEST, 0, expected)
            peer.send(RESPONSE, 1, b"\x12\x04\x0a\x02ho")
            assert future.result(LONG).value == "ho"

    def test_ids_are_odd_and_grow(self) -> None:
        with raw_server() as (channel, peer):
            futures = [Calls(channel).unary("Echo").future(text("x")) for _ in range(5)]
            assert [peer.expect().stream_id for _ in futures] == [1, 3, 5, 7, 9]

    def test_ids_grow_in_the_order_of_sending(self) -> None:
        with raw_server() as (channel, peer):
            unary = Calls(channel).unary("Echo")

            def call() -> None:
                for _ in range(100):
                    unary.future(text("x" * 100))

            threads = [in_thread(call) for _ in range(8)]
            ids = [peer.expect().stream_id for _ in range(800)]
            assert ids == sorted(ids)
            for thread in threads:
                thread.join(LONG)

    def test_the_deadline_and_metadata_are_sent(self) -> None:
        with raw_server() as (channel, peer):
            unary = Calls(channel).unary("Echo")
            metadata = (("a", "1"), ("a", "2"), ("Key", "v"))
            unary.future(text("x"), timeout=LONG, metadata=metadata)
            request = peer.expect().request
            assert 0 < request.timeout_nano <= LONG * 1e9
            assert [(pair.key, pair.value) for pair in request.metadata] == list(metadata)

    def test_an_empty_request(self) -> None:
        with raw_server() as (channel, peer):
            Calls(channel).unary("/a.b.C/D").future(text(""))
            assert peer.expect().data == b"\x0a\x05a.b.C\x12\x01D"

    def test_binary_metadata_is_refused(self) -> None:
        with raw_server() as (channel, _), pytest.raises(ValueError, match="'k-bin' is bytes"):
            Calls(channel).unary("Echo")(text("x"), metadata=(("k-bin", b"v"),))

    @pytest.mark.parametrize("value", [5, None])
    def test_metadata_that_is_no_text_is_refused(self, value: Any) -> None:
        with raw_server() as (channel, _), pytest.raises(TypeError, match="'k' is"):
            Calls(channel).unary("Echo")(text("x"), metadata=(("k", value),))

    def test_an_oversized_request_stays_here(self) -> None:
        with raw_server() as (channel, peer):
            code, details = error_of(lambda: Calls(channel).unary("Echo")(text("x" * MESSAGE_MAX)))
            assert code is Code.RESOURCE_EXHAUSTED
            assert str(MESSAGE_MAX) in details
            assert works(Calls(channel), peer)

    def test_the_ids_are_used_up(self) -> None:
        causes: queue.SimpleQueue[Any] = queue.SimpleQueue()
        states: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with raw_server(on_close=causes.put) as (channel, peer):
            channel.subscribe(states.put)
            assert states.get(timeout=LONG) is grpc.ChannelConnectivity.READY
            channel.end.streams.next_id = 0xFFFFFFFF
            future = Calls(channel).unary("Echo").future(text("x"))
            assert peer.expect().stream_id == 0xFFFFFFFF
            for call in (lambda: Calls(channel).unary("Echo")(text("x")),) * 2:
                code, details = error_of(call)
                assert code is Code.UNAVAILABLE
                assert "used up" in details
            # When the last call is done, the connection ends, and on_close is called.
            peer.respond(0xFFFFFFFF, b"")
            assert future.result(LONG).value == ""
            cause = causes.get(timeout=LONG)
            assert isinstance(cause, LocalProtocolError)
            assert "used up" in str(cause)
            assert states.get(timeout=LONG) is grpc.ChannelConnectivity.SHUTDOWN

    def test_the_last_call_is_dropped_when_the_ids_are_used_up(self) -> None:
        causes: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with raw_server(on_close=causes.put) as (channel, peer):
            channel.end.streams.next_id = 0xFFFFFFFF
            future = Calls(channel).unary("Echo").future(text("x"))
            assert peer.expect().stream_id == 0xFFFFFFFF
            del future
            assert "used up" in str(causes.get(timeout=LONG))

    @pytest.mark.parametrize("timeout", [0, -1, 0.0])
    def test_no_time_at_all(self, timeout: float) -> None:
        with raw_server() as (channel, peer):
            unary = Calls(channel).unary("Echo")
            assert error_of(lambda: unary(text("x"), timeout=timeout))[0] is Code.DEADLINE_EXCEEDED
            assert works(Calls(channel), peer)

    def test_something_unforeseen_while_sending(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with raw_server() as (channel, peer):
            with monkeypatch.context() as patch:
                patch.setattr(channel.end, "frame", lambda header, data: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    Calls(channel).unary("Echo")(text("x"))
            assert not channel.end.calls
            assert works(Calls(channel), peer)


class TestResponses:
    def answered(self, answer: Any, kind: str = "unary") -> tuple[Any, bool]:
        """How a call ends that the server answers with ``answer(peer)``; whether the next one works."""
        with raw_server() as (channel, peer):
            calls = Calls(channel)
            future = getattr(calls, kind)("M").future(text("x"), timeout=LONG)
            assert peer.expect().stream_id == 1
            answer(peer)
            try:
                outcome: Any = future.result(LONG).value
            except grpc.RpcError as error:
                outcome = error.code()
            return outcome, works(calls, peer)

    @pytest.mark.parametrize(
        ("data", "outcome"),
        [
            (b"\x12\x03\x0a\x01y", "y"),
            (b"", ""),
            # A status that says OK is success, and the payload counts.
            (b"\x0a\x02\x08\x00\x12\x03\x0a\x01y", "y"),
            (b"\x0a\x00\x12\x03\x0a\x01y", "y"),
            (b"\x0a\x02\x08\x05", Code.NOT_FOUND),
            # The status comes first: beside it the payload may be anything.
            (b"\x0a\x02\x08\x05\x12\x01\xff", Code.NOT_FOUND),
            (b"\x0a\x02\x08\x63", Code.UNKNOWN),
            (b"\xff", Code.INTERNAL),
            (b"\x12\x01\xff", Code.INTERNAL),
            (b"\x12\x03\x0a\x01\xff", Code.INTERNAL),
        ],
    )
    def test_envelopes(self, data: bytes, outcome: Any) -> None:
        assert self.answered(lambda peer: peer.send(RESPONSE, 1, data)) == (outcome, True)

    @pytest.mark.parametrize("flags", [0, 0xFF])
    def test_flags_do_not_matter(self, flags: int) -> None:
        data = b"\x12\x03\x0a\x01y"
        assert self.answered(lambda peer: peer.send(RESPONSE, 1, data, flags)) == ("y", True)

    @pytest.mark.parametrize("type", [0, REQUEST, DATA, 4, 255])
    def test_other_types_fail_the_call(self, type: int) -> None:
        assert self.answered(lambda peer: peer.send(type, 1, b"x")) == (Code.INTERNAL, True)

    def test_an_oversized_response(self) -> None:
        data = b"x" * (MESSAGE_MAX + 1)
        outcome = self.answered(lambda peer: peer.send(RESPONSE, 1, data))
        assert outcome == (Code.RESOURCE_EXHAUSTED, True)

    def test_responses_without_a_request(self, caplog: pytest.LogCaptureFixture) -> None:
        def answer(peer: RawPeer) -> None:
            for stream_id in (0, 2, 3, 99):
                peer.send(RESPONSE, stream_id, b"")
            for _ in range(3):
                peer.respond(1, text("y").SerializeToString())

        assert self.answered(answer) == ("y", True)
        warnings = [r.message for r in caplog.records if r.levelno == logging.WARNING]
        assert len(warnings) == 2
        # Those on stream 1 are late: the peer cannot know the end of a call.
        assert "4 messages were ignored in all" in warnings[1]

    def test_messages_of_a_stream_that_was_left_are_no_warnings(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        with raw_server() as (channel, peer):
            calls = Calls(channel)
            stream = calls.stream("Count")(text("x"))
            stream_id = peer.expect().stream_id
            stream.cancel()
            for _ in range(3):
                peer.send(DATA, stream_id, text("y").SerializeToString())
            peer.respond(stream_id, b"")
            assert works(calls, peer)
        late = [r for r in caplog.records if f"ignored on stream {stream_id}" in r.message]
        assert len(late) == 4
        assert [r.message for r in caplog.records if r.levelno > logging.DEBUG] == []

    def test_a_late_answer_is_ignored(self) -> None:
        with raw_server() as (channel, peer):
            calls = Calls(channel)
            future = calls.unary("M").future(text("x"), timeout=LONG)
            request = peer.expect()
            end_time(future)
            assert error_of(future.result)[0] is Code.DEADLINE_EXCEEDED
            peer.respond(request.stream_id, b"")
            assert works(calls, peer)

    @pytest.mark.parametrize("on_thread", [False, True])
    def test_a_deadline_ends_the_wait(self, on_thread: bool) -> None:
        with raw_server() as (channel, peer):
            calls = Calls(channel)
            codes: list[Any] = []
            began = time.monotonic()

            def call() -> None:
                codes.append(error_of(lambda: calls.unary("M")(text("x"), timeout=0.05))[0])

            if on_thread:
                in_thread(call).join(LONG)
            else:
                call()
            assert codes == [Code.DEADLINE_EXCEEDED]
            assert time.monotonic() - began >= 0.05
            assert works(calls, peer)

    def test_garbage_is_one_message_or_another(self) -> None:
        with raw_server() as (channel, peer):
            peer.sock.sendall(b"\0\0\0\2\0\0\0\7\xff\xffab" * 1000)
            assert works(Calls(channel), peer)


class TestStreams:
    def test_requests_and_one_response(self) -> None:
        with raw_server() as (channel, peer):
            future = Calls(channel).collect("M").future(iter([text("a"), text("b")]))
            first = peer.expect()
            assert (first.type, first.flags) == (REQUEST, REMOTE_OPEN | NO_DATA)
            assert first.request.payload == b""
            assert peer.expect() == (1, DATA, 0, b"\x0a\x01a")
            assert peer.expect() == (1, DATA, 0, b"\x0a\x01b")
            assert peer.expect() == (1, DATA, REMOTE_CLOSED | NO_DATA, b"")
            peer.respond(1, b"\x0a\x02ab")
            assert future.result(LONG).value == "ab"

    def test_responses(self) -> None:
        with raw_server() as (channel, peer):
            responses = Calls(channel).stream("M")(text("x"))
            request = peer.expect()
            assert (request.type, request.flags) == (REQUEST, REMOTE_CLOSED)
            peer.send(DATA, 1, b"\x0a\x01a")
            assert next(responses).value == "a"
            peer.send(DATA, 1, b"")
            assert next(responses).value == ""
            peer.send(DATA, 1, b"", NO_DATA)
            peer.send(DATA, 1, b"\x0a\x01b", REMOTE_CLOSED)
            assert [message.value for message in responses] == ["b"]
            assert responses.code() is Code.OK

    def test_an_error_after_some(self) -> None:
        with raw_server() as (channel, peer):
            responses = Calls(channel).stream("M")(text("x"))
            peer.expect()
            peer.send(DATA, 1, b"\x0a\x01a")
            peer.respond(1, code=5, details="gone")
            assert next(responses).value == "a"
            assert error_of(lambda: next(responses)) == (Code.NOT_FOUND, "gone")
            assert error_of(lambda: next(responses)) == (Code.NOT_FOUND, "gone")

    def test_a_final_response_with_a_payload(self) -> None:
        with raw_server() as (channel, peer):
            responses = Calls(channel).stream("M")(text("x"))
            peer.expect()
            peer.respond(1, b"\x0a\x01a")
            assert [message.value for message in responses] == ["a"]

    def test_a_stream_in_answer_to_one_that_wants_one_response(self) -> None:
        with raw_server() as (channel, peer):
            future = Calls(channel).collect("M").future(iter([text("a")]))
            peer.expect()
            peer.send(DATA, 1, b"x")
            assert error_of(future.result)[0] is Code.INTERNAL
            assert works(Calls(channel), peer)

    def test_a_message_that_cannot_be_decoded(self) -> None:
        with raw_server() as (channel, peer):
            responses = Calls(channel).stream("M")(text("x"))
            peer.expect()
            peer.send(DATA, 1, b"\xff")
            peer.send(DATA, 1, b"\x0a\x01a")
            assert error_of(lambda: next(responses))[0] is Code.INTERNAL
            assert error_of(lambda: next(responses))[0] is Code.INTERNAL
            assert works(Calls(channel), peer)

    def test_an_oversized_request(self) -> None:
        with raw_server() as (channel, peer):
            requests = iter([text("a"), text("x" * (MESSAGE_MAX + 1)), text("b")])
            future = Calls(channel).collect("M").future(requests)
            assert error_of(future.result)[0] is Code.RESOURCE_EXHAUSTED
            assert peer.expect().type == REQUEST
            assert peer.expect().data == b"\x0a\x01a"
            assert works(Calls(channel), peer)

    @pytest.mark.parametrize("last", [DATA, RESPONSE])
    def test_a_consumer_that_stalls_loses_the_stream(
        self, last: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(multicallable, "Inbox", lambda: Inbox(limit=300))
        stalls = functools.partial(Holdings, longest=0.02)
        monkeypatch.setattr(client_module, "Holdings", stalls)
        with raw_server() as (channel, peer):
            responses = Calls(channel).stream("M")(text("x"))
            peer.expect()
            inbox = responses._call.inbox
            data = text("x" * 100).SerializeToString()
            peer.send(DATA, 1, data)
            if last == DATA:
                peer.send(DATA, 1, data)
            else:
                peer.respond(1, data * 2)
            assert responses.code() is Code.RESOURCE_EXHAUSTED
            # No bound counts the messages of a stream that has ended.
            assert eventually(lambda: inbox.held == 0)
            assert error_of(lambda: next(responses))[0] is Code.RESOURCE_EXHAUSTED
            assert works(Calls(channel), peer)
        (record,) = [record for record in caplog.records if "not taken" in record.getMessage()]
        assert record.levelno == logging.WARNING
        assert f"/{SERVICE}/M: the responses were not taken: stream 1 " in record.getMessage()

    def _a_full_stream(self, calls: Calls, peer: RawPeer) -> Any:
        """A stream of three messages, with room for one. The reading waits."""
        responses = calls.stream("M")(text("x"))
        peer.expect()
        for _ in range(3):
            peer.send(DATA, 1, text("x" * 100).SerializeToString())
        peer.send(DATA, 1, b"", REMOTE_CLOSED | NO_DATA)
        assert eventually(lambda: responses._call.inbox.waits_for_room)
        return responses

    @pytest.fixture
    def no_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A stream that holds up another call is lost at once."""
        monkeypatch.setattr(multicallable, "Inbox", lambda: Inbox(limit=200))
        limited = functools.partial(Holdings, stall=0.0, longest=LONG)
        monkeypatch.setattr(client_module, "Holdings", limited)

    @pytest.mark.usefixtures("no_time")
    def test_a_stream_that_is_the_only_call_is_kept(self) -> None:
        with raw_server() as (channel, peer):
            responses = self._a_full_stream(Calls(channel), peer)
            assert [message.value for message in responses] == ["x" * 100] * 3
            assert responses.code() is Code.OK

    @pytest.mark.parametrize("wait", [False, True])
    @pytest.mark.usefixtures("no_time")
    def test_a_stream_that_is_full_is_lost_when_another_call_begins(self, wait: bool) -> None:
        with raw_server() as (channel, peer):
            calls = Calls(channel)
            responses = self._a_full_stream(calls, peer)
            echo = calls.unary("Echo")
            answers: list[StringValue] = []

            def ask() -> None:
                answers.append(echo(text("x")) if wait else echo.future(text("x")).result())

            caller = in_thread(ask)
            peer.respond(peer.expect().stream_id, text("y").SerializeToString())
            caller.join(LONG / 2)
            assert [answer.value for answer in answers] == ["y"]
            assert responses.code() is Code.RESOURCE_EXHAUSTED

    def test_the_stream_that_holds_most_is_lost_for_the_others(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            client_module, "Holdings", functools.partial(Holdings, limit=20_000, stall=0.02)
        )
        with raw_server() as (channel, peer):
            calls = Calls(channel)
            large, small = [calls.stream("M")(text("x")) for _ in range(2)]
            assert [peer.expect().stream_id for _ in range(2)] == [1, 3]
            data = text("x" * 6000).SerializeToString()
            # The peer has ended the large one, and its messages have not been taken.
            peer.send(DATA, 1, data)
            peer.send(DATA, 1, data, REMOTE_CLOSED)
            for _ in range(2):
                peer.send(DATA, 3, data)
            peer.send(DATA, 3, b"", REMOTE_CLOSED | NO_DATA)
            assert large.code() is Code.RESOURCE_EXHAUSTED
            assert [message.value for message in small] == ["x" * 6000] * 2
            assert small.code() is Code.OK
            assert works(calls, peer)

    def test_a_caller_does_not_wait_for_the_consumers_of_streams(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A caller that reads its answer itself would miss its deadline, or would be the consumer itself.
        blocked: list[threading.Thread] = []

        class Seen(Holdings):
            def _wait_for_room(self, *args: Any, **options: Any) -> Inbox | None:
                blocked.append(threading.current_thread())
                return super()._wait_for_room(*args, **options)

        monkeypatch.setattr(client_module, "Holdings", functools.partial(Seen, stall=LONG))
        with raw_server() as (channel, peer):
            calls = Calls(channel)
            answers: list[StringValue] = []
            caller = in_thread(lambda: answers.append(calls.unary("Echo")(text("x"))))
            asked = peer.expect().stream_id
            # The stream begins while the caller reads.
            responses = calls.stream("M")(text("x"))
            stream_id = peer.expect().stream_id
            data = text("x" * (1024 * 1024)).SerializeToString()
            for _ in range(16):
                peer.send(DATA, stream_id, data)
            assert eventually(lambda: responses._call.inbox.waits_for_room)
            assert blocked
            assert caller not in blocked
            responses.cancel()
            peer.respond(asked, text("y").SerializeToString())
            caller.join(LONG)
            assert [answer.value for answer in answers] == ["y"]

    def test_close_does_not_wait_for_a_stalled_consumer(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(multicallable, "Inbox", lambda: Inbox(limit=100))
        monkeypatch.setattr(client_module, "Holdings", functools.partial(Holdings, longest=LONG))
        lost = threading.Event()
        with raw_server(on_close=lambda cause: lost.set()) as (channel, peer):
            responses = Calls(channel).stream("M")(text("x"))
            peer.expect()
            for _ in range(3):
                peer.send(DATA, 1, text("x" * 100).SerializeToString())
            assert eventually(lambda: responses._call.inbox.waits_for_room)
            began = time.monotonic()
            channel.close()
            assert lost.wait(LONG)
            assert time.monotonic() - began < LONG / 2

    def test_the_end_of_the_data_cannot_be_sent_twice(self) -> None:
        with raw_server() as (channel, _):
            end = channel.end
            call = end.start("/a/b", b"", state=_open_state(), deadline=Deadline(None))
            assert end.send_data(call, b"", last=True)
            with pytest.raises(LocalProtocolError):
                end.send_data(call, b"", last=True)
            assert end.finish(call, Status(1, ""))
            assert not end.send_data(call, b"x")
            assert not end.finish(call, Status(1, ""))

    def test_the_reading_waits_while_all_streams_hold_too_much(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limited = functools.partial(Holdings, limit=20_000, stall=LONG)
        monkeypatch.setattr(client_module, "Holdings", limited)
        with raw_server() as (channel, peer):
            calls = Calls(channel)
            one, _ = [calls.stream("M")(text("x")) for _ in range(2)]
            assert [peer.expect().stream_id for _ in range(2)] == [1, 3]
            data = text("x" * 6000).SerializeToString()
            # There is room for three.
            for stream_id in (1, 3, 1, 3):
                peer.send(DATA, stream_id, data)
            answered = threading.Event()
            probe = calls.unary("Echo").future(text("x"))
            probe.add_done_callback(lambda _: answered.set())
            peer.respond(peer.expect().stream_id)
            assert not answered.wait(0.2)
            assert next(one).value == "x" * 6000
            assert answered.wait(LONG)


def _open_state() -> Any:
    return State.OPEN


class TestAPeerThatDoesNotRead:
    def fill(self, channel: Channel) -> None:
        while channel.end.link.try_send([b"\0\0\0\0\0\0\0\0\0\0" * 400]):
            pass

    def test_a_call_gives_up_at_its_deadline(self) -> None:
        with raw_server() as (channel, _):
            self.fill(channel)
            unary = Calls(channel).unary("M")
            assert error_of(lambda: unary(text("x"), timeout=0.05))[0] is Code.DEADLINE_EXCEEDED
            future = unary.future(text("x"), timeout=0.05)
            assert future.code() is Code.DEADLINE_EXCEEDED

    def test_a_thread_of_its_own_gives_up_too(self) -> None:
        # One that would read the answer itself, and must let others read while it cannot write.
        with raw_server() as (channel, _):
            self.fill(channel)
            codes: list[Any] = []
            unary = Calls(channel).unary("M")
            in_thread(
                lambda: codes.append(error_of(lambda: unary(text("x"), timeout=0.05))[0])
            ).join(LONG)
            assert codes == [Code.DEADLINE_EXCEEDED]
            assert not channel.end.link.token.is_held

    def test_waiting_behind_another_call(self) -> None:
        with raw_server() as (channel, peer):
            self.fill(channel)
            unary = Calls(channel).unary("M")
            first = in_thread(lambda: unary.future(text("x")))
            assert eventually(channel.end._send_lock.locked)
            assert error_of(lambda: unary(text("x"), timeout=0.05))[0] is Code.DEADLINE_EXCEEDED
            peer.close()
            first.join(LONG)

    def test_data_of_a_stream_gives_up_at_the_deadline(self) -> None:
        with raw_server() as (channel, peer):
            gate = threading.Event()

            def requests() -> Any:
                assert gate.wait(LONG)
                yield text("a")
                yield text("b")

            future = Calls(channel).collect("M").future(requests(), timeout=LONG)
            assert peer.expect().type == REQUEST
            self.fill(channel)
            end_time(future, 0.05)
            gate.set()
            assert future.code() is Code.DEADLINE_EXCEEDED

    def test_the_connection_ends_while_data_is_sent(self) -> None:
        with raw_server() as (channel, peer):

            def requests() -> Any:
                while True:
                    yield text("x" * 1000)

            future = Calls(channel).collect("M").future(requests())
            assert peer.expect().type == REQUEST
            peer.close()
            assert future.code() is Code.UNAVAILABLE


class TestTheEnd:
    def test_pending_and_later_calls_fail(self) -> None:
        lost = threading.Event()
        causes: list[Any] = []

        def on_close(cause: Any) -> None:
            causes.append(cause)
            lost.set()

        with raw_server(on_close=on_close) as (channel, peer):
            unary = Calls(channel).unary("M")
            futures = [unary.future(text("x")) for _ in range(3)]
            codes: list[Any] = []
            blocked = in_thread(lambda: codes.append(error_of(lambda: unary(text("x")))))
            for _ in range(4):
                peer.expect()
            peer.close()
            for future in futures:
                code, details = error_of(future.result)
                assert code is Code.UNAVAILABLE
                assert "peer closed" in details
            blocked.join(LONG)
            assert [code for code, _ in codes] == [Code.UNAVAILABLE]
            assert lost.wait(LONG)
            assert "peer closed" in str(causes[0])
            assert error_of(lambda: unary(text("x")))[0] is Code.UNAVAILABLE
            thread_codes: list[Any] = []
            in_thread(lambda: thread_codes.append(error_of(lambda: unary(text("x"))))).join(LONG)
            assert thread_codes[0][0] is Code.UNAVAILABLE

    def test_answers_that_came_before_the_end_count(self) -> None:
        for _ in range(20):
            with raw_server() as (channel, peer):
                future = Calls(channel).unary("M").future(text("x"))
                peer.expect()
                peer.respond(1, b"\x0a\x01y")
                peer.close()
                assert future.result(LONG).value == "y"

    def test_truncated(self) -> None:
        with raw_server() as (channel, peer):
            future = Calls(channel).unary("M").future(text("x"))
            peer.expect()
            peer.sock.sendall(b"\0\0\0\5\0\0")
            peer.close()
            assert error_of(future.result)[0] is Code.UNAVAILABLE

    def test_close_cancels(self) -> None:
        causes: list[Any] = []
        with raw_server(on_close=causes.append) as (channel, peer):
            unary = Calls(channel).unary("M")
            future = unary.future(text("x"))
            codes: list[Any] = []
            blocked = in_thread(lambda: codes.append(error_of(lambda: unary(text("x")))))
            for _ in range(2):
                peer.expect()
            channel.close()
            channel.close()
            blocked.join(LONG)
            for code, details in [error_of(future.result), *codes]:
                assert (code, details) == (Code.CANCELLED, "the channel was closed")
            assert error_of(lambda: unary(text("x")))[0] is Code.CANCELLED
            assert peer.receive() is None
        assert causes == [None]

    def test_callbacks_of_calls_that_end_with_the_connection(self) -> None:
        for how in ("close", "eof"):
            called: list[threading.Event] = []
            with raw_server() as (channel, peer):
                for _ in range(20):
                    event = threading.Event()
                    called.append(event)
                    future = Calls(channel).unary("M").future(text("x"))
                    future.add_done_callback(lambda _, e=event: e.set())
                if how == "close":
                    channel.close()
                else:
                    peer.close()
                assert all(event.wait(LONG) for event in called)

    def test_a_callback_that_finds_no_thread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*arguments: object) -> None:
            raise NoThread("can't start new thread")

        with raw_server() as (channel, peer):
            future = Calls(channel).unary("M").future(text("x"))
            called = threading.Event()
            future.add_callback(called.set)
            peer.expect()
            monkeypatch.setattr(threads, "spawn", refuse)
            peer.respond(1, b"")
            assert called.wait(LONG)

    def test_a_deadline_races_with_the_answer(self) -> None:
        with raw_server() as (channel, peer):

            def answer() -> None:
                while (message := peer.receive()) is not None:
                    try:
                        peer.respond(message.stream_id, b"\x0a\x01y")
                    except OSError:
                        return

            server = in_thread(answer)
            unary = Calls(channel).unary("M")
            outcomes: list[Any] = []
            for number in range(200):
                future = unary.future(text("x"), timeout=number / 200_000)
                error = future.exception(LONG)
                outcomes.append("y" if error is None else error.code())
            assert set(outcomes) <= {"y", Code.DEADLINE_EXCEEDED}
            assert not channel.end.calls
            channel.close()
            server.join(LONG)


def test_on_done_is_called_once() -> None:
    with raw_server() as (channel, peer):
        done: list[ClientCall] = []
        call = channel.end.start(f"/{SERVICE}/M", b"", deadline=Deadline(None), on_done=done.append)
        assert done == []
        peer.respond(peer.expect().stream_id, b"x")
        channel.end.wait(call)
        assert eventually(lambda: done == [call])
        assert call.status == Status(0, "")
        assert call.payload == b"x"


def test_late_data_without_a_call_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    end = ClientEnd(frame=lambda header, data: [header + bytes(data)], name="x")
    end.streams = ClientStreams()
    end.streams.open(State.OPEN)
    end.receive(memoryview(b"\0\0\0\0\0\0\0\1\3\0"), [])
    assert [(r.levelno, r.message) for r in caplog.records] == [
        (logging.DEBUG, "x: ignored on stream 1: late data")
    ]
    assert end.ignored == 0


def test_the_message_type_is_that_of_the_test() -> None:
    assert StringValue(value="y").SerializeToString() == b"\x0a\x01y"
