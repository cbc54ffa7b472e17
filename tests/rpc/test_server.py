"""The server's end of a connection, with peers of all kinds, which send plain bytes."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import logging
import resource
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import pytest

from nri_sync.codes import StatusCode
from nri_sync.deadline import Deadline
from nri_sync.flood import AT_ONCE, records
from nri_sync.rpc import envelope_pb2
from nri_sync.rpc import server as server_module
from nri_sync.rpc.inbox import Holdings, cost
from nri_sync.rpc.router import Router
from nri_sync.rpc.server import ServerEnd
from nri_sync.rpc.server_call import ServerCall
from nri_sync.threads import Latch
from nri_sync.ttrpc import connect
from nri_sync.ttrpc.connection import frame
from nri_sync.wire.streams import State
from nri_sync.wire.ttrpc import MESSAGE_MAX, Message, encode_header
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
    RESPONSE,
    SERVICE,
    Calls,
    RawPeer,
    StringValue,
    encoded,
    eventually,
    in_thread,
    method,
    plain_handlers,
    raw,
    raw_client,
    request,
    serving,
    text,
)

__all__: list[str] = []


class TestBadPeers:
    """Each peer gets an error, and all other calls go on."""

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

    def test_data_on_a_stream_that_is_answered(self) -> None:
        with raw() as peer:
            peer.send(REQUEST, 1, request("Total"), REMOTE_OPEN)
            peer.send(DATA, 1, encoded("a"))
            peer.send(DATA, 1, b"", REMOTE_CLOSED | NO_DATA)
            assert peer.expect().value == "a"
            stream_ids = iter(range(3, 100_000, 2))

            def is_refused() -> bool:
                # Until the server has noticed that its answer is sent, it ignores the message.
                peer.send(DATA, 1, encoded("b"))
                stream_id = next(stream_ids)
                peer.send(REQUEST, stream_id, request("Echo", encoded("c")))
                found = []
                while stream_id not in found:
                    answer = peer.expect()
                    found.append(answer.stream_id)
                    assert answer.stream_id > 1 or answer.status[0] == INVALID_ARGUMENT
                return 1 in found

            assert eventually(is_refused)

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
    def test_unknown_flags(self, flags: int) -> None:
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


class TestWholeMessages:
    """The two shortcuts for a request that comes alone."""

    @staticmethod
    def make() -> tuple[ServerEnd, ServerCall]:
        end = ServerEnd(Router(), frame=frame, peer="test")
        return end, ServerCall(end, 1, request("M"), State.UNARY)

    def test_a_message_that_is_wrong_is_answered(self) -> None:
        (end, _), jobs = self.make(), list[Any]()
        end.receive_message(Message(REQUEST, 2, 0, 0, b""), jobs)
        assert b"stream id 2 is even" in b"".join(b"".join(job.run()) for job in jobs)

    def test_a_message_to_ignore_is_not_answered(self) -> None:
        (end, _), jobs = self.make(), list[Any]()
        end.receive_message(Message(RESPONSE, 1, 0, 0, b""), jobs)
        assert jobs == []

    def test_a_call_begins_once(self) -> None:
        end, call = self.make()
        assert end.begin(call) is True
        assert end.calls == {1: call}
        end.calls.clear()
        assert end.begin(call) is False
        assert end.calls == {}

    def test_no_call_begins_at_the_end(self) -> None:
        end, call = self.make()
        end.stop_accepting()
        assert end.begin(call) is False
        assert end.calls == {}


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

    def test_streams_that_wait_for_a_thread_count_with_their_messages(
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


class TestEndingGently:
    def test_calls_that_come_too_late_are_ignored(self) -> None:
        with serving(plain_handlers()) as (server, address), raw_client(address) as peer:
            peer.check(1)
            (connection,) = server._connections
            connection.end.stop_accepting()
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
            assert not connection.end.wait_idle(Deadline(0.01))
            go.set()
            assert connection.end.wait_idle(Deadline(LONG))
            assert not connection.end.calls
            assert peer.expect().value == "x"

    @pytest.mark.parametrize("when", ["before it looks", "after it looked"])
    def test_the_last_call_is_settled_while_it_comes(self, when: str) -> None:
        held, told = threading.Event(), threading.Event()

        class Unsettled(set[Any]):
            """Holds up the thread that has removed the last call, or the waiting thread that has seen the call."""

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
        end._unsent = unsettled = Unsettled()
        jobs: list[Any] = []
        end.receive(memoryview(encode_header(REQUEST, 1, 0, 0)), jobs)
        quiet: list[bool] = []
        waiter = threading.Thread(target=lambda: quiet.append(end.wait_idle(Deadline(LONG))))
        settler = threading.Thread(target=jobs[0].sent)
        first, second = (settler, waiter) if when == "before it looks" else (waiter, settler)
        first.start()
        assert held.wait(LONG)
        second.start()
        second.join(LONG)
        told.set()
        first.join(LONG)
        assert (quiet, set(unsettled)) == ([True], set())


@pytest.mark.parametrize("kind", ["Refuse", "Fail", "Wrong"])
def test_requests_without_end_fill_no_log(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    # A refusal, a bug of the handler, and an answer that cannot be encoded are logged each. A peer can cause any
    # number of them.
    count = AT_ONCE + 300

    def refuse(message: StringValue, context: Any) -> StringValue:
        context.abort(StatusCode.FAILED_PRECONDITION, "not now")
        raise AssertionError

    def fail(message: StringValue, context: Any) -> StringValue:
        raise ValueError("a bug")

    handlers = {
        "Refuse": method("unary_unary", refuse),
        "Fail": method("unary_unary", fail),
        "Wrong": method("unary_unary", lambda message, context: object()),
    }
    began = time.monotonic()
    with raw(handlers) as peer:
        for stream_id in range(1, 2 * count, 2):
            peer.send(REQUEST, stream_id, request(kind))
            assert peer.expect().status[0] != 0
    records.log_left_out()
    seconds = time.monotonic() - began
    lines = [r for r in caplog.records if r.name == "nri_sync.ttrpc"]
    each = [r for r in lines if "over 1000 records at once" not in r.message]
    left_out = [r for r in each if "more records like" in r.message]
    assert len(lines) <= AT_ONCE + 1 + 2 * (seconds + 1)
    logged = len(each) - len(left_out)
    assert logged + sum(int(r.message.split()[0]) for r in left_out) == count
    assert all(r.exc_info for r in each if r not in left_out) == (kind != "Refuse")


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


def test_messages_count_from_before_their_call_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    # A message waits for a thread, and for the handler from then on. It counts all the time.
    monkeypatch.setattr(server_module, "Holdings", functools.partial(Holdings, stall=0.0))
    end = ServerEnd(Router(), frame=frame, peer="test")
    monkeypatch.setattr(end, "run_elsewhere", lambda callbacks: None)
    data = bytes(MESSAGE_MAX)
    largest = 0
    jobs: list[Any] = []
    inboxes: list[Any] = []
    for stream_id in range(1, 101, 2):
        end.receive_message(Message(REQUEST, stream_id, REMOTE_OPEN, 0, b""), jobs)
        inboxes.append(end.calls[stream_id].inbox)
        for _ in range(3):
            end.receive_message(Message(DATA, stream_id, 0, len(data), data), jobs)
            largest = max(largest, sum(inbox.held for inbox in inboxes))
        if stream_id in end.calls:
            end.calls[stream_id].begun = True
    # Room for one message is left, and 14 have 64 bytes more each.
    assert largest == 14 * cost(data) < 60 * 1024 * 1024
    assert len(end.calls) == 4


def test_messages_that_were_not_taken_do_not_wait_for_the_answer() -> None:
    handlers = {"Ignore": method("stream_unary", lambda requests, context: next(requests))}
    end = ServerEnd(Router({SERVICE: handlers}), frame=frame, peer="test")
    jobs: list[Any] = []
    first = request("Ignore")
    end.receive_message(Message(REQUEST, 1, REMOTE_OPEN, len(first), first), jobs)
    for _ in range(10):
        end.receive_message(Message(DATA, 1, 0, 12, encoded("0123456789")), jobs)
    (call,) = jobs
    assert call.inbox.held > 0
    assert call.run()
    assert call.inbox.held == 0


@contextmanager
def _memory() -> Iterator[Callable[[], int]]:
    """Returns the bytes that were allocated since, at most at one time."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.slow
class TestMemoryOfStreams:
    """The bounds of docs/ttrpc.md, by the memory that is allocated."""

    def test_calls_that_wait_for_a_thread(self) -> None:
        # 1.5 GB in 100 calls, whose handlers cannot begin.
        entered, go_on = threading.Event(), threading.Event()

        def total(requests: Any, context: Any) -> Any:
            entered.set()
            assert go_on.wait(LONG)
            return text(str(sum(1 for _ in requests)))

        handlers = {"Total": method("stream_unary", total)}
        content = StringValue(value="x" * (15 * 1024 * 1024 // 4)).SerializeToString()
        with raw(handlers, max_threads_per_connection=1) as peer, _memory() as most:
            for stream_id in range(1, 201, 2):
                peer.send(REQUEST, stream_id, request("Total"), REMOTE_OPEN)
                if stream_id == 1:
                    assert entered.wait(LONG)
                else:
                    for _ in range(4):
                        peer.send(DATA, stream_id, content)
                peer.send(DATA, stream_id, b"", REMOTE_CLOSED | NO_DATA)
            # 64 MiB, one message that arrives, and two copies of it in this test.
            assert most() < 77 * 1024 * 1024
            go_on.set()
            # Three calls fit, since 4 MiB are left for handlers that have taken all. The others are refused, and
            # the rest of their messages was dropped. The end of the last call may come when there is room again.
            answers = [peer.expect().status[0] for _ in range(100)]
            assert 95 <= answers.count(RESOURCE_EXHAUSTED) <= 96
            assert answers.count(RESOURCE_EXHAUSTED) + answers.count(0) == 100

    def test_tiny_messages(self) -> None:
        # On twelve streams whose handlers take none.
        go_on = threading.Event()
        begun = [threading.Event() for _ in range(12)]

        def total(requests: Any, context: Any) -> Any:
            begun[int(dict(context.invocation_metadata())["number"])].set()
            assert go_on.wait(10 * LONG)
            return text("")

        sent = 0
        over = threading.Event()

        def send() -> None:
            nonlocal sent
            with contextlib.suppress(OSError):
                for number in itertools.cycle(range(12)):
                    if over.is_set():
                        break
                    message = struct.pack(">IIBB", 2, 2 * number + 1, DATA, 0) + b"\n\0"
                    peer.sock.sendall(message * 1000)
                    sent += 1000

        with raw({"Total": method("stream_unary", total)}) as peer:
            peer.sock.settimeout(10 * LONG)
            for number in range(12):
                metadata = [envelope_pb2.KeyValue(key="number", value=str(number))]
                peer.send(REQUEST, 2 * number + 1, request("Total", metadata=metadata), REMOTE_OPEN)
                assert begun[number].wait(LONG)
            gc.collect()
            before = _resident()
            sender = in_thread(send)
            try:
                # The connection is not read for a second while the streams hold 64 MiB together; then one ends.
                assert peer.expect().status[0] == RESOURCE_EXHAUSTED
                assert 950_000 <= sent < 1_200_000
                assert _resident() - before < 90 * 1024 * 1024
            finally:
                over.set()
                go_on.set()
                peer.sock.shutdown(socket.SHUT_RDWR)
                sender.join(LONG)
                assert not sender.is_alive()


def _resident() -> int:
    """Bytes of memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
