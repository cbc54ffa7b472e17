"""The races of a link, each forced: some thread is held at the worst place while others go on."""

from __future__ import annotations

import contextlib
import functools
import math
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Callable

import pytest

from nri_sync.deadline import Deadline
from nri_sync.errors import ConnectionLost
from nri_sync.net.link import Buffer, Link
from nri_sync.threads import Latch
from tests.net.rig import (
    LONG,
    Hold,
    Line,
    Lines,
    Peer,
    eventually,
    in_thread,
    linked,
    open_descriptors,
)

__all__: list[str] = []


class Held(Link):
    """A link with holds, around public methods of its parts."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.watcher_woken = Hold()
        self.before_next = Hold()
        self.after_next = Hold()
        self.before_release = Hold()
        self.after_appoint = Hold()
        self.in_finish: Callable[[], object] = lambda: None
        around(self.token, "wait", after=self.watcher_woken)
        around(self.token, "release", before=self.before_release)
        around(self.workers, "next_task", before=self.before_next, after=self.after_next)
        around(self.workers, "appoint_watcher", after=self.after_appoint)

    def open_all(self) -> None:
        for hold in vars(self).values():
            if isinstance(hold, Hold):
                hold.open()

    def close_descriptors(self) -> None:
        self.in_finish()
        super().close_descriptors()


def around(part: object, name: str, before: Hold | None = None, after: Hold | None = None) -> None:
    """Put holds before and after a method of an object."""
    method = getattr(part, name)

    def held(*arguments: Any) -> Any:
        if before is not None:
            before.wait_here()
        result = method(*arguments)
        if after is not None:
            after.wait_here()
        return result

    setattr(part, name, held)


class Rig:
    def __init__(self, lines: Lines, link: Held, peer: Peer) -> None:
        self.lines = lines
        self.link = link
        self.peer = peer

    def block(self, name: str) -> None:
        """Have a handler block."""
        self.peer.send(f"block {name}")
        assert self.lines.entered[f"block {name}"].wait(LONG)

    def expect(self, *answers: str) -> None:
        assert sorted(self.peer.read() for _ in answers) == sorted(answers)

    def someone_reads(self, text: str = "") -> None:
        """Wait until a thread sits in recv(); ``text`` is the beginning of a line that brings it there."""
        self.peer.sock.sendall(text.encode())
        assert eventually(lambda: self.link.token.is_held)


def rig_of(**options: Any) -> Iterator[Rig]:
    with linked(kind=Held, **options) as (lines, peer):
        assert isinstance(lines.link, Held)
        try:
            yield Rig(lines, lines.link, peer)
        finally:
            lines.link.open_all()


@pytest.fixture
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    yield from rig_of(**getattr(request, "param", {}))


callers_read = pytest.mark.parametrize("rig", [{"callers_read": True}], indirect=True)
three_threads = pytest.mark.parametrize("rig", [{"max_threads": 3}], indirect=True)


class TestTheWatcherIsLate:
    """It woke, but another thread takes the token first, and reads the bytes that woke it."""

    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        for rig in rig_of():
            rig.block("a")
            rig.link.watcher_woken.close()
            rig.peer.send("b")
            rig.link.watcher_woken.wait_until_reached()
            rig.lines.release("a")
            # Both by the thread that served the first.
            assert [rig.peer.read(), rig.peer.read()] == ["block a", "b"]
            yield rig

    def test_the_reader_goes_on_without_it(self, rig: Rig) -> None:
        for number in range(10):
            rig.peer.send(str(number))
            rig.expect(str(number))

    def test_it_reads_when_the_reader_serves(self, rig: Rig) -> None:
        rig.someone_reads()
        rig.link.watcher_woken.open()
        rig.block("c")
        rig.peer.send("d")
        rig.expect("d")
        rig.lines.release("c")
        rig.expect("block c")

    def test_it_finds_nothing_to_read(self, rig: Rig) -> None:
        # It takes the token while the reader serves, and must not miss the next message.
        rig.block("c")
        rig.link.watcher_woken.open()
        rig.someone_reads()
        rig.lines.release("c")
        rig.expect("block c")
        rig.peer.send("d")
        rig.expect("d")

    @pytest.mark.parametrize("opened", ["before", "after"])
    @pytest.mark.parametrize("how", ["close", "eof", "bad"])
    def test_the_link_ends(self, rig: Rig, how: str, opened: str) -> None:
        if opened == "before":
            rig.link.watcher_woken.open()
        rig.someone_reads()
        if how == "close":
            rig.link.close()
        elif how == "eof":
            rig.peer.sock.shutdown(socket.SHUT_WR)
        else:
            rig.peer.send("bad")
        if opened == "after":
            # The reader must not close descriptors that the watcher still uses.
            assert eventually(lambda: rig.link.token.is_over)
            assert not rig.lines.is_lost.is_set()
            rig.link.watcher_woken.open()
        assert rig.lines.is_lost.wait(LONG)

    def test_the_timer_goes_on(self, rig: Rig) -> None:
        # The reader gets no job, so the watcher gets no token.
        rig.link.watcher_woken.open()
        rig.lines.answers["pong"] = Latch()
        rig.peer.send("pong")
        assert rig.lines.answers["pong"].wait(Deadline(LONG))
        rig.someone_reads()
        ticked = threading.Event()
        due = time.monotonic() + 0.02

        def tick(now: float) -> float:
            if now < due:
                return due
            ticked.set()
            return math.inf

        rig.lines.on_tick = tick
        rig.link.wake_by(due)
        assert ticked.wait(LONG)


class TestParking:
    """A thread is about to sit down, or about to get up."""

    @three_threads
    def test_a_job_gets_in_line_before_it_sits_down(self, rig: Rig) -> None:
        rig.block("a")
        rig.block("b")
        rig.someone_reads("c")
        rig.link.before_next.close()
        rig.lines.release("a")
        rig.expect("block a")
        rig.link.before_next.wait_until_reached()
        rig.peer.send("c")
        assert eventually(lambda: len(rig.link.workers.backlog) == 1)
        rig.link.before_next.open()
        rig.expect("cc")

    @three_threads
    def test_a_job_comes_after_it_sat_down(self, rig: Rig) -> None:
        rig.block("a")
        rig.block("b")
        rig.someone_reads("c")
        rig.lines.release("a")
        rig.expect("block a")
        assert eventually(lambda: rig.link.workers.idle == 1)
        rig.peer.send("c")
        rig.expect("cc")

    @pytest.mark.parametrize("rig", [{"callers_read": True, "max_threads": 3}], indirect=True)
    def test_another_takes_the_job_in_line_first(self, rig: Rig) -> None:
        rig.block("a")
        rig.block("b")
        rig.peer.send("c")
        assert eventually(
            lambda: len(rig.link.workers.backlog) == 1 and rig.link.workers.is_watched
        )
        # The thread of "a" gets the reading back, sees "c" in line, and is about to take it.
        rig.link.after_appoint.close()
        rig.lines.release("a")
        rig.link.after_appoint.wait_until_reached()
        rig.lines.release("b")
        rig.expect("block a", "block b", "c")
        rig.link.after_appoint.open()
        rig.peer.send("d")
        rig.expect("d")

    def watch_while_held(self, rig: Rig) -> None:
        """Bring about that an idle thread is appointed watcher, and held before it watches."""
        rig.block("a")
        rig.peer.send("b")
        rig.expect("b")
        rig.lines.release("a")
        rig.expect("block a")
        assert eventually(lambda: rig.link.workers.idle == 1)
        rig.block("c")
        rig.link.after_next.close()
        rig.peer.send("d")
        rig.link.after_next.wait_until_reached()
        rig.expect("d")

    @pytest.mark.parametrize("how", ["close", "eof", "bad"])
    def test_the_link_ends_before_the_new_watcher_watches(self, rig: Rig, how: str) -> None:
        self.watch_while_held(rig)
        if how == "close":
            rig.link.close()
        elif how == "eof":
            rig.peer.sock.shutdown(socket.SHUT_WR)
        else:
            rig.peer.send("bad")
        assert eventually(lambda: rig.link.token.is_over)
        assert not rig.lines.is_lost.is_set()
        rig.link.after_next.open()
        assert rig.lines.is_lost.wait(LONG)

    def test_a_message_comes_before_the_new_watcher_watches(self, rig: Rig) -> None:
        self.watch_while_held(rig)
        rig.block("e")
        # Two threads serve "c" and "e"; no thread reads until the watcher watches.
        rig.peer.send("f")
        rig.link.after_next.open()
        rig.expect("f")

    @pytest.mark.parametrize("rig", [{"max_threads": 1}], indirect=True)
    def test_a_job_of_another_thread_while_no_thread_serves(self, rig: Rig) -> None:
        # Neither reader nor watcher would come for it, so it must not wait in line for them.
        rig.peer.send("a")
        rig.expect("a")
        assert eventually(lambda: rig.link.workers.threads == 2)
        rig.link.dispatch(Line(rig.lines, "b"))
        rig.expect("b")


class TestTheEnd:
    def test_others_use_the_link_while_its_descriptors_are_closed(self, rig: Rig) -> None:
        failures: list[BaseException] = []
        threads: list[threading.Thread] = []

        def use(function: Callable[[], object]) -> None:
            try:
                function()
            except ConnectionLost:
                pass
            except BaseException as error:
                failures.append(error)

        def in_finish() -> None:
            link = rig.link
            uses: list[Callable[[], object]] = [
                link.close,
                lambda: link.close(ConnectionLost("late")),
                lambda: link.send([b"x"]),
                lambda: link.send([b"x"], Deadline(LONG)),
                lambda: link.try_send([b"x"]),
                lambda: link.wake_by(0.0),
                lambda: link.drain(Deadline(LONG)),
                lambda: link.dispatch(Line(rig.lines, "late")),
                link.begin_reading,
            ]
            for function in uses:
                threads.append(in_thread(lambda f=function: use(f)))  # type: ignore[misc]

        rig.link.in_finish = in_finish
        rig.link.close()
        assert rig.lines.is_lost.wait(LONG)
        for thread in threads:
            thread.join(LONG)
            assert not thread.is_alive()
        assert failures == []
        assert rig.lines.refused == ["late"]
        assert rig.lines.lost_causes == [None]

    def test_a_writer_is_in_the_way(self, rig: Rig) -> None:
        writer = in_thread(lambda: rig.link.try_send([b"x" * (8 << 20)]))
        writer.join(LONG)
        assert rig.link.writer.is_busy
        rig.peer.sock.shutdown(socket.SHUT_WR)
        assert rig.lines.is_lost.wait(LONG)

    def test_a_handler_ends_at_the_same_time(self, rig: Rig) -> None:
        rig.block("a")
        rig.link.watcher_woken.close()
        rig.peer.sock.shutdown(socket.SHUT_WR)
        rig.link.watcher_woken.wait_until_reached()
        rig.lines.release("a")
        # The thread of the handler finds the token free, and the end.
        assert eventually(lambda: rig.link.token.is_over)
        assert rig.peer.read() == "block a"
        rig.link.watcher_woken.open()
        assert rig.lines.is_lost.wait(LONG)


class TestCallers:
    def ask(self, rig: Rig, question: str) -> threading.Thread:
        done = rig.lines.answers[question] = Latch()

        def call() -> None:
            message: Sequence[Buffer] = [question.encode() + b"\n"]
            if rig.link.begin_reading():
                assert rig.link.try_send(message)
                rig.link.read_until(done, Deadline(LONG))
            else:
                rig.link.send(message)
            assert done.wait(Deadline(LONG))

        thread = in_thread(call)
        assert rig.peer.read() == question
        return thread

    @callers_read
    def test_an_answer_comes_while_the_reader_leaves(self, rig: Rig) -> None:
        first = self.ask(rig, "first")
        second = self.ask(rig, "second")
        rig.link.before_release.close()
        rig.peer.send("first")
        rig.link.before_release.wait_until_reached()
        rig.peer.send("second")
        rig.link.before_release.open()
        first.join(LONG)
        second.join(LONG)
        assert not first.is_alive()
        assert not second.is_alive()

    @callers_read
    def test_a_caller_reads_the_bytes_that_woke_the_watcher(self, rig: Rig) -> None:
        rig.link.watcher_woken.close()
        rig.peer.send("one")
        rig.link.watcher_woken.wait_until_reached()
        caller = self.ask(rig, "ask")
        rig.expect("one")
        rig.peer.send("ask")
        caller.join(LONG)
        assert not caller.is_alive()
        rig.link.watcher_woken.open()
        rig.peer.send("two")
        rig.expect("two")

    @callers_read
    def test_the_end_in_a_caller_while_the_watcher_is_late(self, rig: Rig) -> None:
        rig.link.watcher_woken.close()
        rig.peer.send("one")
        rig.link.watcher_woken.wait_until_reached()
        caller = self.ask(rig, "ask")
        rig.lines.answers["ask"].set()  # no thread waits for the answer
        rig.peer.sock.shutdown(socket.SHUT_WR)
        caller.join(LONG)
        assert not caller.is_alive()
        assert eventually(lambda: rig.link.token.is_over or not rig.link.token.is_held)
        rig.link.watcher_woken.open()
        assert rig.lines.is_lost.wait(LONG)


@pytest.fixture
def hasty_switching() -> Iterator[None]:
    """Threads change places as often as the interpreter can make them."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


class Random(Lines):
    """Handlers that do, at random, all that a handler may."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)

    def handle(self, text: str) -> Sequence[Buffer]:
        action = self.random.randrange(12)
        if action == 0:
            self.link.dispatch(Line(self, f"{text} again"))
        elif action == 1:
            with contextlib.suppress(ConnectionLost):
                self.link.send([f"note {text}\n".encode()])
        elif action == 2:
            self.link.try_send([b"note " + b"x" * 300_000 + b"\n"])
        elif action == 3:
            self.link.wake_by(time.monotonic() + self.random.random() / 1000)
        elif action == 4:
            return [b"note ", b"y" * 500_000, b"\n", text.encode(), b"\n"]
        elif action == 5:
            return [f"note {text}\n{text}\n".encode()]
        return super().handle(text)


REQUESTS = [f"request {number}" for number in range(60)]
QUESTIONS = [f"question {number}" for number in range(20)]


@pytest.mark.usefixtures("hasty_switching")
@pytest.mark.parametrize("callers_read", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_at_random(seed: int, callers_read: bool) -> None:
    """In any order of events, each request is answered exactly once, and the end comes once."""
    descriptors = open_descriptors()
    dice = random.Random(seed)
    for number in range(10):
        lines = Random(dice.randrange(1 << 30))
        lines.answers.update((question, Latch()) for question in QUESTIONS)
        options: dict[str, Any] = {
            "callers_read": callers_read,
            "max_threads": dice.choice([3, 4, 64]),
        }
        with linked(lines, **options) as (_, peer):
            callers = [in_thread(functools.partial(_ask, lines, q)) for q in QUESTIONS]
            if number % 2:
                _cut_off(lines, peer, dice)
            else:
                _talk(peer)
            for caller in callers:
                caller.join(LONG)
                assert not caller.is_alive()
    assert open_descriptors() <= descriptors


def _talk(peer: Peer) -> None:
    """Send all requests, answer all questions, get all answers."""

    def send() -> None:
        for request in REQUESTS:
            peer.send(request)

    sender = in_thread(send)
    received: list[str] = []
    while len(received) < len(REQUESTS) + len(QUESTIONS):
        line = peer.read()
        assert line
        if line in QUESTIONS:
            peer.send(line)
        if line in QUESTIONS or line in REQUESTS:
            received.append(line)
    assert sorted(received) == sorted(REQUESTS + QUESTIONS)
    sender.join(LONG)


def _cut_off(lines: Lines, peer: Peer, dice: random.Random) -> None:
    """Send some requests, and then one side ends the connection."""
    for request in REQUESTS[: dice.randrange(len(REQUESTS))]:
        peer.send(request)
    if dice.random() < 0.5:
        lines.link.close()
    else:
        peer.sock.shutdown(socket.SHUT_RDWR)
    assert lines.is_lost.wait(LONG)


def _ask(lines: Lines, question: str) -> None:
    """As a client does: when the link is over, another thread ends the wait."""
    done = lines.answers[question]
    message = [question.encode() + b"\n"]
    try:
        if lines.link.begin_reading():
            if lines.link.try_send(message):
                lines.link.read_until(done, Deadline(LONG))
            else:
                lines.link.end_reading()
                lines.link.send(message)
        else:
            lines.link.send(message)
    except ConnectionLost:
        return
    assert eventually(lambda: done.is_set() or lines.is_lost.is_set())
