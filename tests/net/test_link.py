"""Links: serving, reading while handlers block, writing, ending. Races are in test_link_races.py."""

from __future__ import annotations

import logging
import math
import os
import queue
import socket
import threading
import time

import pytest

from nri_sync.deadline import Deadline
from nri_sync.errors import ConnectionLost, NRIError, RemoteProtocolError
from nri_sync.net import link as link_module
from nri_sync.net.link import LINGER, Job, Link
from nri_sync.net.receiver import HEADER, Lane, Part, Receiver
from nri_sync.threads import Latch
from tests.net.rig import (
    LONG,
    Hold,
    Line,
    Lines,
    eventually,
    in_thread,
    linked,
    open_descriptors,
    read_exactly,
    running_threads,
)

__all__: list[str] = []


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

    def test_a_handler_that_blocks_holds_up_no_other(self) -> None:
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


class TestTheLane:
    """It serves requests ahead of the receiver, as long as it takes them."""

    def lane_of(self, lines: Lines, taken: list[bytes]) -> Lane:
        link = lines.link

        def lane(view: memoryview, count: int) -> bool | None:
            data = bytes(view[:count])
            if not data.startswith(b"lane ") or not link.workers.appoint_watcher():
                return None
            taken.append(data)
            job = Line(lines, data.decode().rstrip("\n").partition(" ")[2])
            link.token.release()
            return link.answer(job, job.run())

        return lane

    def test_it_takes_some_requests(self) -> None:
        taken: list[bytes] = []
        with linked(run=False) as (lines, peer):
            lines.link.lane = self.lane_of(lines, taken)
            in_thread(lines.link.run)
            for number in range(20):
                peer.send(f"lane {number}")
                assert peer.read() == str(number)
                peer.send(f"other {number}")
                assert peer.read() == f"other {number}"
            assert len(taken) == 20
            assert lines.link.workers.threads == 2

    def test_another_thread_reads_while_it_serves(self) -> None:
        taken: list[bytes] = []
        with linked(run=False) as (lines, peer):
            lines.link.lane = self.lane_of(lines, taken)
            in_thread(lines.link.run)
            peer.send("lane block a")
            assert lines.entered["block a"].wait(LONG)
            peer.send("lane b")
            assert peer.read() == "b"
            peer.send("c")
            assert peer.read() == "c"
            lines.release("a")
            assert peer.read() == "block a"
            peer.send("lane d")
            assert peer.read() == "d"
            assert len(taken) == 3

    def test_its_thread_takes_a_job_that_waits(self) -> None:
        """It has the token after its answer, and a job waits because all other threads are busy."""
        with linked(run=False, max_threads=4) as (lines, peer):
            lines.link.lane = self.lane_of(lines, [])
            in_thread(lines.link.run)
            peer.send("lane block a")
            assert lines.entered["block a"].wait(LONG)
            # The reader and another thread serve b and c, and the fourth is the watcher.
            peer.send("block b", "block c", "d")
            assert lines.entered["block b"].wait(LONG)
            assert lines.entered["block c"].wait(LONG)
            assert eventually(lambda: not lines.link.token.is_held)
            peer.sock.settimeout(LONG / 2)  # b and c block for longer
            lines.release("a")
            assert [peer.read(), peer.read()] == ["block a", "d"]

    @pytest.mark.parametrize("how", ["close", "eof"])
    def test_the_end_while_it_serves(self, how: str) -> None:
        with linked(run=False) as (lines, peer):
            lines.link.lane = self.lane_of(lines, [])
            in_thread(lines.link.run)
            peer.send("lane block a")
            assert lines.entered["block a"].wait(LONG)
            if how == "close":
                lines.link.close()
            else:
                peer.close()
            assert lines.is_lost.wait(LONG)

    def test_it_waits_for_the_rest_of_a_frame(self) -> None:
        with linked(run=False) as (lines, peer):
            serve = self.lane_of(lines, [])
            asked: queue.Queue[bytes] = queue.Queue()

            def lane(view: memoryview, count: int) -> bool | Part | None:
                asked.put(bytes(view[:count]))
                return HEADER if count == 4 else serve(view, count)

            lines.link.lane = lane
            in_thread(lines.link.run)
            # The second one is for the receiver, which gets all bytes.
            for rest, answer in ((b" b\n", "b"), (b"-c\n", "lane-c")):
                peer.sock.sendall(b"lane")
                assert asked.get(timeout=LONG) == b"lane"
                peer.sock.sendall(rest)
                assert asked.get(timeout=LONG) == b"lane" + rest
                assert peer.read() == answer

    @pytest.mark.parametrize("how", ["close", "eof"])
    def test_the_end_while_it_waits_for_the_rest(self, how: str) -> None:
        with linked(run=False) as (lines, peer):
            asked = threading.Event()

            def lane(view: memoryview, count: int) -> bool | Part | None:
                asked.set()
                return HEADER if count else None

            lines.link.lane = lane
            in_thread(lines.link.run)
            peer.sock.sendall(b"lane")
            assert asked.wait(LONG)
            if how == "close":
                lines.link.close()
            else:
                peer.close()
            assert lines.is_lost.wait(LONG)

    def test_its_failure_ends_the_link(self, caplog: pytest.LogCaptureFixture) -> None:
        def lane(view: memoryview, count: int) -> bool | None:
            raise ZeroDivisionError("a bug")

        with linked(run=False) as (lines, peer):
            lines.link.lane = lane
            in_thread(lines.link.run)
            peer.send("one")
            assert lines.is_lost.wait(LONG)
            assert "a bug" in caplog.text


def test_a_logger_that_raises_keeps_no_link_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a link with requests in line logs; the link has to end all the same."""

    def fail(record: logging.LogRecord) -> bool:
        raise ZeroDivisionError("a bug of the filter")

    reported: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: reported.append(args.exc_type))
    logger = logging.getLogger("nri_sync.net")
    with linked(max_threads=3) as (lines, peer):
        peer.send("block a", "block b", "block c")
        assert lines.entered["block a"].wait(LONG)
        logger.addFilter(fail)
        try:
            lines.link.close()
            assert lines.is_lost.wait(LONG)
        finally:
            logger.removeFilter(fail)
    assert reported == [ZeroDivisionError]


class TestDraining:
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
            assert LINGER <= time.monotonic() - began < LONG
            before = lines.link.closing
            lines.link.close()
            assert (before, lines.link.closing) == (False, True)
            lines.link.drain(Deadline(None))

    def test_drain_lingers_to_the_deadline_at_most(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with linked() as (lines, _):
            monkeypatch.setattr(link_module, "LINGER", LONG)
            began = time.monotonic()
            lines.link.drain(Deadline(0.05))
            assert time.monotonic() - began < LONG
            monkeypatch.setattr(link_module, "LINGER", 0.0)
            lines.link.drain(Deadline(None))

    def test_drain_returns_when_the_link_ends(self) -> None:
        with linked() as (lines, _):
            lines.link.send([b"x"])
            drainer = in_thread(lambda: lines.link.drain(Deadline(None)))
            lines.link.close()
            drainer.join(LONG)
            assert not drainer.is_alive()


class Ending(Lines):
    """Notes which thread reads last, and which one ends the link. ``hold`` stops the one that reads."""

    def __init__(self) -> None:
        super().__init__()
        self.hold = Hold()
        self.reader: threading.Thread | None = None
        self.ender: threading.Thread | None = None

    def receive(self, data: memoryview, jobs: list[Job]) -> None:
        self.reader = threading.current_thread()
        super().receive(data, jobs)
        self.hold.wait_here()
        if self.hold.reached.is_set():
            jobs.clear()  # a handler would make the watcher the reader

    def lost(self, cause: NRIError | None) -> None:
        self.ender = threading.current_thread()
        super().lost(cause)


class TestEnding:
    def test_the_peer_closes(self) -> None:
        with linked() as (lines, peer):
            peer.close()
            assert lines.is_lost.wait(LONG)
            (cause,) = lines.lost_causes
            assert isinstance(cause, ConnectionLost)
            assert "peer closed" in str(cause)

    @pytest.mark.parametrize("closer", ["reader", "watcher"])
    def test_nothing_is_closed_while_the_watcher_is_in_epoll(self, closer: str) -> None:
        lines = Ending()
        leave_epoll = Hold()
        with linked(lines, run=False) as (_, peer):
            link = lines.link
            wait = link.token.wait

            def late(timeout: float | None = None) -> int:
                events = wait(timeout)
                leave_epoll.wait_here()
                return events

            link.token.wait = late  # type: ignore[method-assign]
            in_thread(link.run)
            peer.send("a")
            assert peer.read() == "a"
            lines.hold.close()
            leave_epoll.close()
            peer.send("b")
            lines.hold.wait_until_reached()
            peer.close()
            leave_epoll.wait_until_reached()
            if closer == "reader":
                leave_epoll.open()
                assert eventually(lambda: link._watcher_is_back)
            lines.hold.open()
            if closer == "watcher":
                assert eventually(lambda: link.token.is_over and not link.token.is_held)
                assert link.is_open
                leave_epoll.open()
            assert lines.is_lost.wait(LONG)
            assert (lines.ender is lines.reader) == (closer == "reader")

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

    def test_requests_before_the_end_are_served(self) -> None:
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
            assert eventually(lambda: len(lines.link.workers.backlog) == 2)
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

    def test_its_socket_blocks(self) -> None:
        """A thread that reads a socket with a timeout, or one that never blocks, would spin."""
        near, far = socket.socketpair()
        near.settimeout(0)
        with near, far:
            link = Link(near, Lines(), name="rig")
            assert near.gettimeout() is None
            link.abandon()

    def test_abandon_leaves_the_connection_alone(self) -> None:
        near, far = socket.socketpair()
        with near, far:
            lines = Lines()
            before = open_descriptors()
            link = Link(socket.socket(fileno=os.dup(near.fileno())), lines, name="rig")
            link.abandon()
            assert link.closing
            assert open_descriptors() <= before
            far.sendall(b"x")
            assert near.recv(10) == b"x"
            link.close()
            link.wake_by(0)
            with pytest.raises(ConnectionLost):
                link.send([b"x"])

    @pytest.mark.timeout(300)
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


class TestCallersRead:
    """A thread that waits for an answer reads it; otherwise no thread sits in recv()."""

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
            # Only the watcher reads now.
            peer.send("third")
            third.join(LONG)
            assert third_results == [False]

    def test_requests_are_served_by_any_reader(self) -> None:
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
