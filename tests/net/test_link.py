"""Links: serving, reading while handlers block, writing, ending. Races are in test_link_races.py."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import threading
import time
from typing import Any

import pytest

from nri_sync.deadline import Deadline
from nri_sync.errors import ConnectionLost, NoThread, NRIError, RemoteProtocolError
from nri_sync.net import link as link_module
from nri_sync.net.link import Job, Link, Receiver
from nri_sync.threads import Latch, spawn
from tests.net.rig import (
    LONG,
    Lines,
    Peer,
    eventually,
    in_thread,
    linked,
    open_descriptors,
    running_threads,
)

__all__: list[str] = []

# Far more than the buffers of a socket hold.
BIG = 8 * 1024 * 1024


def fill(link: Link) -> int:
    """Send until the peer's buffer is full; returns how many bytes that took."""
    filled = 0
    while link.try_send([b"." * 4096]):
        filled += 4096
    return filled


def read_exactly(peer: Peer, length: int) -> bytes:
    data = peer.file.read(length)
    assert data is not None
    return data


class TestServing:
    def test_one_after_the_other(self) -> None:
        with linked() as (_, peer):
            for number in range(100):
                peer.send(f"line {number}")
                assert peer.read() == f"line {number}"

    def test_byte_by_byte(self) -> None:
        with linked() as (_, peer):
            for byte in b"one\ntwo\n":
                peer.sock.sendall(bytes([byte]))
            assert {peer.read(), peer.read()} == {"one", "two"}

    def test_a_handler_that_blocks_holds_up_nobody(self) -> None:
        with linked() as (lines, peer):
            peer.send("block a")
            assert lines.entered["block a"].wait(LONG)
            for number in range(20):
                peer.send(f"line {number}")
                assert peer.read() == f"line {number}"
            lines.release("a")
            assert peer.read() == "block a"

    def test_many_handlers_block_at_once(self) -> None:
        with linked() as (lines, peer):
            names = [f"block {number}" for number in range(30)]
            for name in names:
                peer.send(name)
            for name in names:
                assert lines.entered[name].wait(LONG)
            for number in reversed(range(30)):
                lines.release(str(number))
                assert peer.read() == f"block {number}"

    def test_many_requests_in_one_read_run_at_once(self) -> None:
        lines = Lines()
        barrier = threading.Barrier(10)

        def handle(text: str) -> list[bytes]:
            barrier.wait(LONG)
            return [text.encode(), b"\n"]

        lines.handle = handle  # type: ignore[method-assign]
        with linked(lines) as (_, peer):
            sent = [f"line {number}" for number in range(10)]
            peer.send(*sent)
            assert sorted(peer.read() for _ in sent) == sorted(sent)

    def test_an_answer_is_delivered_while_a_handler_runs(self) -> None:
        # As when a handler calls the peer, which answers before it gets its own answer.
        lines = Lines()
        answer = lines.answers["pong"] = Latch()

        def handle(text: str) -> list[bytes]:
            lines.link.send([b"ping\n"])
            assert answer.wait(Deadline(LONG))
            return [b"done\n"]

        lines.handle = handle  # type: ignore[method-assign]
        with linked(lines) as (_, peer):
            peer.send("go")
            assert peer.read() == "ping"
            peer.send("pong")
            assert peer.read() == "done"

    def test_without_an_answer(self) -> None:
        with linked() as (lines, peer):
            peer.send("quiet 1", "quiet 2", "loud")
            assert peer.read() == "loud"
            assert eventually(lambda: all(job.was_sent.is_set() for job in lines.jobs))
            assert len(lines.jobs) == 3

    def test_a_job_that_raises_costs_no_thread(self, caplog: pytest.LogCaptureFixture) -> None:
        lines = Lines()

        def handle(text: str) -> list[bytes]:
            if text == "answer":
                return [b"answer\n"]
            raise SystemExit(text)

        lines.handle = handle  # type: ignore[method-assign]
        with linked(lines, max_threads=3) as (_, peer):
            for _ in range(5):
                peer.send("1", "2", "3", "4")
            peer.send("answer")
            assert peer.read() == "answer"
            assert eventually(lambda: all(job.was_sent.is_set() for job in lines.jobs))
        assert caplog.text.count("a job failed") == 20

    def test_threads_are_named_after_the_link(self) -> None:
        with linked() as (lines, peer):
            peer.send("block a")
            assert lines.entered["block a"].wait(LONG)
            names = {thread.name for thread in threading.enumerate()}
            assert {"rig", "rig-1"} <= names
            assert all(t.daemon for t in threading.enumerate() if t.name.startswith("rig"))

    def test_idle_threads_are_few(self) -> None:
        with linked() as (lines, peer):
            names = [f"block {number}" for number in range(40)]
            peer.send(*names)
            for name in names:
                assert lines.entered[name].wait(LONG)
            for number in range(40):
                lines.release(str(number))
            assert sorted(peer.read() for _ in names) == sorted(names)
            # A reader, a sentinel, and what is kept for the next burst.
            few = 2 + link_module._IDLE_THREADS
            assert eventually(lambda: lines.link._threads <= few)
            peer.send("still there")
            assert peer.read() == "still there"

    def test_a_socket_with_a_timeout_does_not_time_out(self) -> None:
        near, far = socket.socketpair()
        near.settimeout(0.001)
        lines = Lines()
        link = lines.link = Link(near, lines, name="rig")
        in_thread(link.run)
        with far:
            assert not lines.is_lost.wait(0.05)
            link.close()
            assert lines.is_lost.wait(LONG)

    def test_jobs_and_receivers_are_to_be_written(self) -> None:
        for method in (Job().run, Job().refuse, lambda: Receiver().lost(None)):
            with pytest.raises(NotImplementedError):
                method()
        with pytest.raises(NotImplementedError):
            Receiver().receive(memoryview(b""), [])
        assert Receiver().tick(0) == math.inf
        assert Job().due == math.inf


class TestLimits:
    def test_jobs_beyond_the_threads_wait_in_line(self) -> None:
        with linked(max_threads=3) as (lines, peer):
            peer.send("block a", "block b")
            for name in ("block a", "block b"):
                assert lines.entered[name].wait(LONG)
            peer.send("c", "d", "e")
            assert eventually(lambda: len(lines.jobs) == 5)
            assert not lines.entered["c"].is_set()
            lines.release("a")
            assert [peer.read() for _ in range(4)] == ["block a", "c", "d", "e"]
            lines.release("b")
            assert peer.read() == "block b"

    @pytest.mark.parametrize("limit", [{"max_backlog": 2}, {"max_backlog_bytes": 3}])
    def test_the_line_is_bounded(
        self, limit: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        with linked(max_threads=3, **limit) as (lines, peer):
            peer.send("block a", "block b")
            for name in ("block a", "block b"):
                assert lines.entered[name].wait(LONG)
            peer.send("c", "d", "e2", "f2")
            assert {peer.read(), peer.read()} == {"refused e2", "refused f2"}
            lines.release("a")
            assert [peer.read() for _ in range(3)] == ["block a", "c", "d"]
        assert lines.refused == ["e2", "f2"]
        # One warning, however many there are.
        assert [r.message for r in caplog.records if r.levelno >= logging.WARNING] == [
            "rig: too many requests at once, one was refused"
        ]

    def test_what_a_job_in_line_gets_later_counts(self) -> None:
        with linked(max_threads=3, max_backlog_bytes=100) as (lines, peer):
            peer.send("block a", "block b")
            for name in ("block a", "block b"):
                assert lines.entered[name].wait(LONG)
            waiting, running = Job(), Job()
            assert lines.link.hold(waiting, 40)
            lines.link.dispatch(waiting)
            assert lines.link.hold(waiting, 60)
            assert not lines.link.hold(waiting, 1)
            # One that is served, or not in line yet, does not count.
            assert lines.link.hold(running, 1000)
            lines.release("a")
            lines.release("b")
            assert [peer.read(), peer.read()]
            assert eventually(lambda: not waiting.in_line)
            assert lines.link.hold(waiting, 1000)

    def test_a_flood_that_is_read_is_answered_in_full(self) -> None:
        count = 5000
        with linked(max_threads=4, max_backlog=50) as (lines, peer):
            sender = in_thread(lambda: peer.send(*(f"line {n}" for n in range(count))))
            answers = [peer.read() for _ in range(count)]
            sender.join(LONG)
            numbers = sorted(int(answer.rpartition(" ")[2]) for answer in answers)
            assert numbers == list(range(count))
            assert sum(answer.startswith("refused") for answer in answers) == len(lines.refused)
            assert not lines.is_lost.is_set()

    def test_a_flood_that_is_not_read_ends_the_link(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(link_module, "_PATIENCE", 0.05)
        with linked(max_threads=4, max_backlog=10) as (lines, peer):

            def flood() -> None:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    while True:
                        peer.send(*(f"line {number}" for number in range(1000)))

            flooder = in_thread(flood)
            assert lines.is_lost.wait(LONG)
            flooder.join(LONG)
            assert not flooder.is_alive()
            (cause,) = lines.lost_causes
            assert isinstance(cause, RemoteProtocolError)
            assert "floods" in str(cause)
            assert lines.link._threads <= 4

    def test_no_new_thread_at_all(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(*arguments: object) -> None:
            raise NoThread("can't start new thread")

        monkeypatch.setattr(link_module, "spawn", refuse)
        with linked() as (_, peer):
            # The only thread must go on reading, so it serves nobody.
            peer.send("one", "two")
            assert [peer.read(), peer.read()] == ["refused one", "refused two"]
            monkeypatch.undo()
            peer.send("three")
            assert peer.read() == "three"
        assert "can't start new thread" in caplog.text

    def test_no_more_threads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*arguments: object) -> None:
            raise NoThread("out of memory")

        with linked() as (lines, peer):
            peer.send("block a")
            assert lines.entered["block a"].wait(LONG)
            monkeypatch.setattr(link_module, "spawn", refuse)
            peer.send("b", "c")
            # Reader and handler are all there is: what comes waits for the handler to be done.
            assert eventually(lambda: len(lines.link._backlog) == 2)
            lines.release("a")
            assert sorted(peer.read() for _ in range(3)) == ["b", "block a", "c"]
            assert lines.refused == []


class TestWriting:
    def test_reading_goes_on_while_a_large_answer_is_not_read(self) -> None:
        with linked() as (lines, peer):
            peer.send(f"big {BIG}")
            assert eventually(lines.link._write_lock.locked)
            peer.send("block a")
            assert lines.entered["block a"].wait(LONG)
            lines.release("a")
            assert len(peer.read()) == BIG
            assert peer.read() == "block a"

    def test_messages_are_never_mixed(self) -> None:
        with linked() as (lines, peer):
            size = 200_000

            def send(letter: bytes) -> None:
                for _ in range(20):
                    lines.link.send([letter * size, b"\n"])

            threads = [in_thread(lambda c=letter: send(c)) for letter in (b"a", b"b", b"c")]  # type: ignore[misc]
            received = [peer.read() for _ in range(60)]
            for thread in threads:
                thread.join(LONG)
            assert sorted(received) == sorted(c * size for c in "abc" * 20)

    def test_try_send(self) -> None:
        with linked() as (lines, peer):
            assert lines.link.try_send([b"one\n"])
            assert peer.read() == "one"

    def test_try_send_sends_nothing_where_it_would_block(self) -> None:
        with linked() as (lines, peer):
            filled = fill(lines.link)
            assert not lines.link.try_send([b"other\n"])
            read_exactly(peer, filled)
            lines.link.send([b"last\n"])
            assert peer.read() == "last"

    def test_try_send_gives_way_to_another_writer(self) -> None:
        with linked() as (lines, peer):
            with lines.link._write_lock:
                assert not lines.link.try_send([b"one\n"])
            lines.link.send([b"two\n"])
            assert peer.read() == "two"

    def test_what_try_send_begins_another_thread_finishes(self) -> None:
        with linked() as (lines, peer):
            assert lines.link.try_send([b"x" * BIG, b"\n", b"y\n"])
            assert len(peer.read()) == BIG
            assert peer.read() == "y"

    def test_a_deadline_that_has_nothing_begun(self) -> None:
        with linked() as (lines, peer):
            filled = fill(lines.link)
            with pytest.raises(TimeoutError, match="does not read"):
                lines.link.send([b"one\n"], Deadline(0.01))
            read_exactly(peer, filled)
            lines.link.send([b"two\n"], Deadline(LONG))
            assert peer.read() == "two"

    def test_a_deadline_in_the_middle(self) -> None:
        with linked() as (lines, peer):
            with pytest.raises(TimeoutError):
                lines.link.send([b"x" * BIG, b"\n"], Deadline(0.01))
            with pytest.raises(TimeoutError, match="in the way"):
                lines.link.send([b"one\n"], Deadline(0.01))
            assert len(peer.read()) == BIG
            lines.link.send([b"two\n"], Deadline(1e9))
            assert peer.read() == "two"

    def test_a_deadline_after_a_beginning_that_came_late(self) -> None:
        is_waiting, is_over = threading.Event(), threading.Event()

        class OnDemand(Deadline):
            asked = 0

            def remaining(self) -> float:
                self.asked += 1
                if self.asked == 2:  # first by send(), then by what waits for the peer
                    is_waiting.set()
                return 0.0 if is_over.is_set() else 0.01

        errors: list[Exception] = []

        def send() -> None:
            try:
                lines.link.send([b"x" * BIG, b"\n"], OnDemand(LONG))
            except Exception as error:
                errors.append(error)

        with linked() as (lines, peer):
            filled = fill(lines.link)
            sender = in_thread(send)
            assert is_waiting.wait(LONG)
            read_exactly(peer, filled)
            assert read_exactly(peer, 1) == b"x", "the frame is half written"
            is_over.set()
            sender.join(LONG)
            assert [type(error) for error in errors] == [TimeoutError]
            # Another thread writes the rest, and nothing comes between.
            assert peer.read() == "x" * (BIG - 1)
            lines.link.send([b"two\n"], Deadline(LONG))
            assert peer.read() == "two"

    def test_nobody_left_to_finish_what_was_begun(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*arguments: object) -> None:
            raise NoThread("can't start new thread")

        with linked() as (lines, peer):
            peer.send("one")
            assert peer.read() == "one"
            monkeypatch.setattr(link_module, "spawn", refuse)
            assert eventually(lambda: lines.link.try_send([b"x" * BIG]))
            assert lines.is_lost.wait(LONG)
            (cause,) = lines.lost_causes
            assert isinstance(cause, ConnectionLost)
            assert "no thread was left" in str(cause)

    def test_after_the_end(self) -> None:
        with linked() as (lines, _):
            lines.link.close()
            assert lines.is_lost.wait(LONG)
            with pytest.raises(ConnectionLost):
                lines.link.send([b"x"])
            with pytest.raises(ConnectionLost):
                lines.link.send([b"x"], Deadline(0))
            assert lines.link.try_send([b"x"])

    def test_an_answer_after_the_end_is_dropped(self) -> None:
        with linked() as (lines, peer):
            peer.send("block a")
            assert lines.entered["block a"].wait(LONG)
            peer.close()
            assert lines.is_lost.wait(LONG)
            lines.release("a")
            assert lines.jobs[0].was_sent.wait(LONG)

    def test_close_wakes_a_writer(self) -> None:
        with linked() as (lines, _):
            began = threading.Event()
            failures: list[Exception] = []

            def write() -> None:
                began.set()
                try:
                    lines.link.send([b"x" * BIG])
                except ConnectionLost as error:
                    failures.append(error)

            writer = in_thread(write)
            assert began.wait(LONG)
            assert eventually(lines.link._write_lock.locked)
            lines.link.close()
            writer.join(LONG)
            assert len(failures) == 1
            assert lines.is_lost.wait(LONG)
            assert lines.lost_causes == [None]

    def test_drain_waits_until_the_peer_has_read(self) -> None:
        with linked() as (lines, peer):
            lines.link.send([b"x" * 1000])
            began = time.monotonic()
            lines.link.drain(Deadline(0.05))
            assert time.monotonic() - began >= 0.05
            read_exactly(peer, 1000)
            lines.link.drain(Deadline(None), linger=False)
            began = time.monotonic()
            lines.link.drain(Deadline(LONG))
            assert link_module._LINGER <= time.monotonic() - began < LONG
            before = lines.link.closing
            lines.link.close()
            assert (before, lines.link.closing) == (False, True)
            lines.link.drain(Deadline(None))

    def test_drain_returns_when_the_link_ends(self) -> None:
        with linked() as (lines, _):
            lines.link.send([b"x"])
            drainer = in_thread(lambda: lines.link.drain(Deadline(None)))
            lines.link.close()
            drainer.join(LONG)
            assert not drainer.is_alive()


class TestEnding:
    def test_the_peer_closes(self) -> None:
        with linked() as (lines, peer):
            peer.close()
            assert lines.is_lost.wait(LONG)
            (cause,) = lines.lost_causes
            assert isinstance(cause, ConnectionLost)
            assert "peer closed" in str(cause)

    def test_half_closed_counts_as_closed(self) -> None:
        with linked() as (lines, peer):
            peer.sock.shutdown(socket.SHUT_WR)
            assert lines.is_lost.wait(LONG)

    @pytest.mark.parametrize("how", ["close", "shutdown"])
    def test_hung_up_as_soon_as_the_peer_has(self, how: str) -> None:
        """Whether or not the reader has come to see that."""
        for _ in range(20):
            with linked() as (lines, peer):
                assert not lines.link.hung_up
                peer.close() if how == "close" else peer.sock.shutdown(socket.SHUT_WR)
                seen = [lines.link.hung_up]
                assert lines.is_lost.wait(LONG)
                assert [*seen, lines.link.hung_up] == [True, True]

    def test_hung_up_by_this_side(self) -> None:
        with linked() as (lines, _):
            lines.link.close()
            assert lines.link.hung_up
            assert lines.is_lost.wait(LONG)

    def test_what_came_before_the_end_is_served(self) -> None:
        with linked() as (lines, peer):
            peer.send("one", "two")
            peer.close()
            assert lines.is_lost.wait(LONG)
            assert eventually(lambda: all(lines.entered[name].is_set() for name in ("one", "two")))

    def test_the_peer_closes_with_data_unread(self) -> None:
        # The kernel reports a reset then.
        with linked() as (lines, peer):
            lines.link.send([b"x"])
            peer.close()
            assert lines.is_lost.wait(LONG)
            (cause,) = lines.lost_causes
            assert isinstance(cause, ConnectionLost)

    def test_close_gives_no_cause(self) -> None:
        with linked() as (lines, _):
            lines.link.close()
            lines.link.close(ConnectionLost("later"))
            assert lines.is_lost.wait(LONG)
            assert lines.lost_causes == [None]

    def test_the_first_cause_counts(self) -> None:
        with linked() as (lines, peer):
            cause = ConnectionLost("first")
            lines.link.close(cause)
            lines.link.close()
            peer.close()
            assert lines.is_lost.wait(LONG)
            assert lines.lost_causes == [cause]

    def test_close_in_a_handler(self) -> None:
        lines = Lines()

        def handle(text: str) -> list[bytes]:
            lines.link.close()
            return [b"never\n"]

        lines.handle = handle  # type: ignore[method-assign]
        with linked(lines) as (_, peer):
            peer.send("go")
            assert lines.is_lost.wait(LONG)
            assert lines.lost_causes == [None]
            assert peer.read() == ""

    def test_close_before_run(self) -> None:
        with linked(run=False) as (lines, _):
            lines.link.close()
            lines.link.run()
            assert lines.is_lost.wait(LONG)

    def test_close_in_receive(self) -> None:
        lines = Lines()
        receive = lines.receive

        def close_and_receive(data: memoryview, jobs: list[Job]) -> None:
            lines.link.close()
            receive(data, jobs)

        lines.receive = close_and_receive  # type: ignore[method-assign]
        with linked(lines) as (_, peer):
            peer.send("one")
            assert lines.is_lost.wait(LONG)

    def test_a_protocol_error_comes_after_the_jobs_before_it(self) -> None:
        with linked() as (lines, peer):
            peer.send("one", "bad", "two")
            assert lines.is_lost.wait(LONG)
            (cause,) = lines.lost_causes
            assert type(cause) is NRIError
            assert lines.entered["one"].wait(LONG)
            assert [job.text for job in lines.jobs] == ["one"]

    def test_a_bug_of_the_receiver_ends_the_link(self, caplog: pytest.LogCaptureFixture) -> None:
        with linked() as (lines, peer):
            peer.send("crash")
            assert lines.is_lost.wait(LONG)
            (cause,) = lines.lost_causes
            assert isinstance(cause, RemoteProtocolError)
            assert "a bug" in caplog.text

    def test_jobs_that_wait_are_given_up(self, caplog: pytest.LogCaptureFixture) -> None:
        with linked(max_threads=3) as (lines, peer):
            peer.send("block a", "block b")
            for name in ("block a", "block b"):
                assert lines.entered[name].wait(LONG)
            peer.send("c", "d")
            assert eventually(lambda: len(lines.link._backlog) == 2)
            peer.close()
            assert lines.is_lost.wait(LONG)
            assert lines.refused == ["c", "d"]
            assert all(job.was_sent.is_set() for job in lines.jobs[2:])
            assert "2 requests were still waiting" in caplog.text

    def test_a_job_that_comes_after_the_end_is_refused(self) -> None:
        with linked() as (lines, _):
            lines.link.close()
            assert lines.is_lost.wait(LONG)
            jobs: list[Job] = []
            lines.receive(memoryview(b"late\n"), jobs)
            lines.link.dispatch(jobs[0])
            assert lines.refused == ["late"]
            assert lines.jobs[0].was_sent.is_set()
            assert not lines.entered["late"].is_set()

    def test_abandon_leaves_the_connection_alone(self) -> None:
        near, far = socket.socketpair()
        with near, far:
            lines = Lines()
            before = open_descriptors()
            link = Link(socket.socket(fileno=os.dup(near.fileno())), lines, name="rig")
            link.abandon()
            assert open_descriptors() <= before
            far.sendall(b"x")
            assert near.recv(10) == b"x"
            link.close()
            link.wake_by(0)
            with pytest.raises(ConnectionLost):
                link.send([b"x"])

    def test_nothing_is_left_of_many_connections(self) -> None:
        def connect_and_close(number: int) -> None:
            with linked() as (lines, peer):
                if number % 3:
                    peer.send("one", "two")
                    peer.read()
                if number % 2:
                    peer.close()
                else:
                    lines.link.close()

        connect_and_close(1)
        assert eventually(lambda: running_threads() == len(threading.enumerate()))
        descriptors, threads = open_descriptors(), running_threads()
        for number in range(2000):
            connect_and_close(number)
        assert open_descriptors() <= descriptors
        assert eventually(lambda: running_threads() <= threads)


class TestClock:
    def test_ticks_when_it_is_due(self) -> None:
        lines = Lines()
        ticks: list[float] = []
        ticked = threading.Event()
        due = time.monotonic() + 0.05

        def tick(now: float) -> float:
            if now < due:
                return due
            ticks.append(now)
            ticked.set()
            return math.inf

        lines.on_tick = tick
        # Nobody asks for it: run() does.
        with linked(lines):
            assert ticked.wait(LONG)
            assert len(ticks) == 1
            assert ticks[0] >= due

    @pytest.mark.parametrize("callers_read", [False, True])
    def test_an_earlier_time_wakes_it(self, callers_read: bool) -> None:
        lines = Lines()
        ticked = threading.Event()
        due = [time.monotonic() + 1000]

        def tick(now: float) -> float:
            if now >= due[0]:
                ticked.set()
                return math.inf
            return due[0]

        lines.on_tick = tick
        with linked(lines, callers_read=callers_read):
            due[0] = time.monotonic() + 0.02
            lines.link.wake_by(due[0])
            assert ticked.wait(LONG)

    def test_a_time_far_off(self) -> None:
        with linked() as (lines, peer):
            lines.on_tick = lambda now: 1e300
            lines.link.wake_by(1e300)
            peer.send("one")
            assert peer.read() == "one"

    @pytest.mark.parametrize("blocked", [0, 1, 2])
    def test_every_job_that_is_read_is_seen_to(self, blocked: int) -> None:
        # Also when all threads are busy, and the job waits in line.
        lines = Lines()
        ticked = threading.Event()

        def tick(now: float) -> float:
            if now >= lines.due:
                ticked.set()
                return math.inf
            return lines.due

        with linked(lines, max_threads=3) as (_, peer):
            for number in range(blocked):
                peer.send(f"block {number}")
                assert lines.entered[f"block {number}"].wait(LONG)
            lines.due = time.monotonic() + 0.02
            lines.on_tick = tick
            peer.send("block last")
            assert ticked.wait(LONG)

    def test_goes_on_while_an_answer_is_read_and_a_handler_blocks(self) -> None:
        # The sentinel becomes the reader, finds no job, and waits for more.
        lines = Lines()
        lines.answers["pong"] = Latch()
        ticked = threading.Event()
        lines.due = math.inf

        def tick(now: float) -> float:
            if now >= lines.due:
                ticked.set()
                return math.inf
            return lines.due

        lines.on_tick = tick
        with linked(lines) as (_, peer):
            lines.due = time.monotonic() + 0.1
            peer.send("block a")
            assert lines.entered["block a"].wait(LONG)
            peer.send("pong")
            assert lines.answers["pong"].wait(Deadline(LONG))
            assert ticked.wait(LONG)

    @pytest.mark.parametrize("busy", [False, True])
    def test_what_is_due_from_the_start(self, busy: bool) -> None:
        """The first sentinel sees to it, whether it waits all the time or becomes the reader before."""
        lines = Lines()
        lines.answers["pong"] = Latch()
        ticked = threading.Event()
        due = time.monotonic() + 0.1

        def tick(now: float) -> float:
            if now >= due:
                ticked.set()
                return math.inf
            return due

        lines.on_tick = tick
        with linked(lines) as (_, peer):
            if busy:
                peer.send("block a")
                assert lines.entered["block a"].wait(LONG)
                peer.send("pong")
                assert lines.answers["pong"].wait(Deadline(LONG))
            assert ticked.wait(LONG)

    def test_an_end_needs_no_clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        spawned: list[str] = []

        def spawning(name: str, *arguments: Any) -> None:
            spawned.append(name)
            spawn(name, *arguments)

        monkeypatch.setattr(link_module, "spawn", spawning)
        for _ in range(20):
            lines = Lines()
            lines.on_tick = lambda now: now + 1000
            with linked(lines):
                lines.link.close()
                assert lines.is_lost.wait(LONG)
        assert spawned
        assert not [name for name in spawned if name.endswith("-clock")]

    def test_what_was_due_from_the_start_needs_no_clock_when_it_was_over_in_time(self) -> None:
        lines = Lines()
        lines.on_tick = lambda now: now + 1000
        with linked(lines) as (_, peer):
            peer.send("one")
            assert peer.read() == "one"
            assert not lines.link._has_clock

    def test_what_is_due_after_the_first_look_needs_no_clock_before_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(link_module, "_FIRST_LOOK", 3600.0)
        lines = Lines()
        lines.on_tick = lambda now: now + 9000
        with linked(lines) as (_, peer):
            peer.send("one")
            assert peer.read() == "one"
            lines.link.wake_by(time.monotonic() + 7200)
            assert not lines.link._has_clock
            lines.link.wake_by(time.monotonic() + 1800)
            assert lines.link._has_clock

    @pytest.mark.parametrize("early", [False, True])
    def test_what_is_due_after_the_first_look_is_seen_to(
        self, early: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where something that was due before it has started the clock."""
        monkeypatch.setattr(link_module, "_FIRST_LOOK", 0.1)
        lines = Lines()
        begin = time.monotonic()
        left = [begin + 0.3, begin + 0.5]
        over = threading.Event()

        def tick(now: float) -> float:
            while left and left[0] <= now:
                left.pop(0)
            if not left:
                over.set()
            return left[0] if left else math.inf

        lines.on_tick = tick
        with linked(lines):
            if early:
                left.insert(0, begin)
            lines.link.wake_by(left[0])
            assert over.wait(LONG)

    @pytest.mark.parametrize("callers_read", [False, True])
    def test_where_nothing_is_due_nobody_looks(self, callers_read: bool) -> None:
        with linked(callers_read=callers_read) as (lines, peer):
            peer.send("one")
            assert peer.read() == "one"
            assert (lines.link._first_due, lines.link._has_clock) == (math.inf, False)

    def test_survives_a_failure(self, caplog: pytest.LogCaptureFixture) -> None:
        lines = Lines()
        ticks: list[float] = []
        ticked = threading.Event()

        def tick(now: float) -> float:
            ticks.append(now)
            if len(ticks) == 1:
                raise ZeroDivisionError("a bug")
            ticked.set()
            return math.inf

        with linked(lines):
            lines.on_tick = tick
            lines.link.wake_by(0)
            assert eventually(lambda: "a bug" in caplog.text)
            lines.link.wake_by(0)
            assert ticked.wait(LONG)

    def test_no_thread_for_it(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(*arguments: object) -> None:
            raise NoThread("can't start new thread")

        lines = Lines()
        ticked = threading.Event()
        with linked(lines) as (_, peer):
            peer.send("one")
            assert peer.read() == "one"
            monkeypatch.setattr(link_module, "spawn", refuse)
            lines.link.wake_by(time.monotonic() + 1000)
            assert "no thread to watch the clock" in caplog.text
            monkeypatch.undo()

            def tick(now: float) -> float:
                ticked.set()
                return math.inf

            lines.on_tick = tick
            lines.link.wake_by(time.monotonic() + 1000)
            assert ticked.wait(LONG)


class TestCallersRead:
    """One who waits for an answer reads it, and nobody sits reading otherwise."""

    def ask(self, lines: Lines, question: str, deadline: Deadline) -> bool:
        """Send and wait, as a client does; whether this thread could read."""
        link = lines.link
        message = [question.encode() + b"\n"]
        if link.begin_reading():
            if link.try_send(message):
                link.read_until(lines.answers[question], deadline)
                return True
            link.end_reading()
        link.send(message)
        lines.answers[question].wait(deadline)
        return False

    def asking(
        self, lines: Lines, question: str, deadline: Deadline | None = None
    ) -> tuple[threading.Thread, list[bool]]:
        lines.answers[question] = Latch()
        results: list[bool] = []
        thread = in_thread(
            lambda: results.append(self.ask(lines, question, deadline or Deadline(LONG)))
        )
        return thread, results

    def test_a_caller_reads_its_own_answer(self) -> None:
        with linked(callers_read=True) as (lines, peer):
            for number in range(50):
                thread, results = self.asking(lines, f"ask {number}")
                assert peer.read() == f"ask {number}"
                peer.send(f"ask {number}")
                thread.join(LONG)
                assert results == [True]
                assert lines.answers[f"ask {number}"].is_set()

    def test_not_on_the_main_thread(self) -> None:
        with linked(callers_read=True) as (lines, _):
            assert not lines.link.begin_reading()

    def test_not_on_a_link_that_reads_all_the_time(self) -> None:
        with linked() as (lines, _):
            answers: list[bool] = []
            in_thread(lambda: answers.append(lines.link.begin_reading())).join(LONG)
            assert answers == [False]

    def test_not_after_the_end(self) -> None:
        with linked(callers_read=True) as (lines, _):
            lines.link.close()
            assert lines.is_lost.wait(LONG)
            answers: list[bool] = []
            in_thread(lambda: answers.append(lines.link.begin_reading())).join(LONG)
            assert answers == [False]

    def test_the_first_caller_reads_for_the_second_and_then_hands_over(self) -> None:
        with linked(callers_read=True) as (lines, peer):
            first, first_results = self.asking(lines, "first")
            assert peer.read() == "first"
            second, second_results = self.asking(lines, "second")
            assert peer.read() == "second"
            third, third_results = self.asking(lines, "third")
            assert peer.read() == "third"
            peer.send("second")
            second.join(LONG)
            assert second_results == [False]
            assert first.is_alive()
            peer.send("first")
            first.join(LONG)
            assert first_results == [True]
            # Nobody but the sentinel reads now.
            peer.send("third")
            third.join(LONG)
            assert third_results == [False]

    def test_requests_are_served_whoever_reads_them(self) -> None:
        with linked(callers_read=True) as (lines, peer):
            peer.send("one", "two")
            assert {peer.read(), peer.read()} == {"one", "two"}
            thread, _ = self.asking(lines, "ask")
            assert peer.read() == "ask"
            peer.send("three", "block four", "five")
            assert {peer.read(), peer.read()} == {"three", "five"}
            lines.release("four")
            assert peer.read() == "block four"
            peer.send("ask")
            thread.join(LONG)
            assert not thread.is_alive()

    @pytest.mark.parametrize("how", ["close", "eof", "bad"])
    def test_the_end_while_a_caller_reads(self, how: str) -> None:
        with linked(callers_read=True) as (lines, peer):
            thread, results = self.asking(lines, "ask")
            assert peer.read() == "ask"
            if how == "close":
                lines.link.close()
            elif how == "eof":
                peer.close()
            else:
                peer.send("bad")
            assert lines.is_lost.wait(LONG)
            thread.join(LONG)
            assert results == [True]
            assert not lines.answers["ask"].is_set()
            assert (lines.lost_causes == [None]) == (how == "close")

    def test_the_end_before_run(self) -> None:
        # A caller may be faster than the thread that is to run the link.
        with linked(callers_read=True, run=False) as (lines, peer):
            thread, results = self.asking(lines, "ask")
            assert peer.read() == "ask"
            peer.close()
            assert lines.is_lost.wait(LONG)
            thread.join(LONG)
            assert results == [True]
            lines.link.run()

    def test_an_answer_before_run(self) -> None:
        with linked(callers_read=True, run=False) as (lines, peer):
            thread, results = self.asking(lines, "ask")
            assert peer.read() == "ask"
            peer.send("ask")
            thread.join(LONG)
            assert results == [True]
            in_thread(lines.link.run)
            peer.send("one")
            assert peer.read() == "one"

    def test_a_deadline(self) -> None:
        with linked(callers_read=True) as (lines, peer):
            thread, results = self.asking(lines, "ask", Deadline(0.02))
            thread.join(LONG)
            assert results == [True]
            # Others read again.
            assert peer.read() == "ask"
            peer.send("one")
            assert peer.read() == "one"

    def test_a_failure_of_the_receiver_in_a_caller(self) -> None:
        class Unforeseen(BaseException):
            pass

        lines = Lines()
        receive = lines.receive

        def fail_once(data: memoryview, jobs: list[Job]) -> None:
            lines.receive = receive  # type: ignore[method-assign]
            raise Unforeseen

        with linked(lines, callers_read=True) as (_, peer):
            caught: list[BaseException] = []

            def ask() -> None:
                try:
                    self.ask(lines, "ask", Deadline(LONG))
                except Unforeseen as error:
                    caught.append(error)

            lines.answers["ask"] = Latch()
            lines.receive = fail_once  # type: ignore[method-assign]
            thread = in_thread(ask)
            assert peer.read() == "ask"
            peer.send("lost")
            thread.join(LONG)
            assert len(caught) == 1
            peer.send("one")
            assert peer.read() == "one"

    def test_many_callers(self) -> None:
        with linked(callers_read=True) as (lines, peer):
            count, callers = 200, 8
            questions = [f"ask {number}" for number in range(count * callers)]
            lines.answers.update((question, Latch()) for question in questions)

            def call(first: int) -> None:
                for question in questions[first::callers]:
                    self.ask(lines, question, Deadline(LONG))
                    assert lines.answers[question].wait(Deadline(LONG))

            threads = [in_thread(lambda n=n: call(n)) for n in range(callers)]  # type: ignore[misc]
            for _ in questions:
                peer.send(peer.read())
            for thread in threads:
                thread.join(LONG)
                assert not thread.is_alive()
            assert all(latch.is_set() for latch in lines.answers.values())
