"""The timer: calls on time, one thread, no call missed."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from nri_sync import threads
from nri_sync.errors import NoThread
from nri_sync.net import link as link_module
from nri_sync.net.timer import Timer
from tests.net.rig import LONG, Hold, Lines, eventually, linked

__all__: list[str] = []


class Agenda:
    """Times that are due, in order; each is taken off by the tick that comes for it."""

    def __init__(self, *due: float) -> None:
        self.due = list(due)
        self.ticks: list[float] = []
        self.is_empty = threading.Event()

    def tick(self, now: float) -> float:
        self.ticks.append(now)
        while self.due and self.due[0] <= now:
            self.due.pop(0)
        if self.due:
            return self.due[0]
        self.is_empty.set()
        return math.inf


@pytest.fixture
def make() -> Iterator[Callable[[Callable[[float], float]], Timer]]:
    made: list[Timer] = []

    def make_timer(tick: Callable[[float], float]) -> Timer:
        made.append(Timer(tick, name="rig"))
        return made[-1]

    yield make_timer
    for timer in made:
        timer.stop()
        timer.stop()
    assert eventually(lambda: not [t for t in threading.enumerate() if t.name == "rig-timer"])


Make = Callable[[Callable[[float], float]], Timer]


class TestTicks:
    def test_when_it_is_due(self, make: Make) -> None:
        due = time.monotonic() + 0.05
        agenda = Agenda(due)
        make(agenda.tick).wake_by(due)
        assert agenda.is_empty.wait(LONG)
        assert agenda.ticks[-1] >= due
        # The thread looks once when it starts.
        assert len(agenda.ticks) <= 2

    def test_again_at_the_time_that_a_tick_returns(self, make: Make) -> None:
        begin = time.monotonic()
        agenda = Agenda(begin, begin + 0.02, begin + 0.04)
        make(agenda.tick).wake_by(begin)
        assert agenda.is_empty.wait(LONG)
        assert agenda.ticks[-1] >= begin + 0.04

    def test_an_earlier_time_wakes_it(self, make: Make) -> None:
        agenda = Agenda(time.monotonic() + 1000)
        timer = make(agenda.tick)
        timer.wake_by(agenda.due[0])
        assert eventually(lambda: len(agenda.ticks) == 1)
        agenda.due = [time.monotonic() + 0.02]
        timer.wake_by(agenda.due[0])
        assert agenda.is_empty.wait(LONG)

    def test_a_later_time_does_not(self, make: Make) -> None:
        agenda = Agenda(time.monotonic() + 1000)
        timer = make(agenda.tick)
        timer.wake_by(agenda.due[0])
        assert eventually(lambda: timer.due == agenda.due[0] and len(agenda.ticks) == 1)
        timer.wake_by(agenda.due[0])
        timer.wake_by(agenda.due[0] + 1)
        timer.wake_by(math.inf)
        assert (timer.due, len(agenda.ticks)) == (agenda.due[0], 1)

    def test_a_time_far_off(self, make: Make) -> None:
        ticked = threading.Event()

        def tick(now: float) -> float:
            ticked.set()
            return 1e300

        timer = make(tick)
        timer.wake_by(1e300)
        assert ticked.wait(LONG)
        assert eventually(lambda: timer.due == 1e300)

    def test_after_a_failure(self, make: Make, caplog: pytest.LogCaptureFixture) -> None:
        ticked = threading.Event()
        failures = [ZeroDivisionError("a bug")]

        def tick(now: float) -> float:
            if failures:
                raise failures.pop()
            ticked.set()
            return math.inf

        timer = make(tick)
        timer.wake_by(0)
        assert eventually(lambda: "a bug" in caplog.text and timer.due == math.inf)
        timer.wake_by(0)
        assert ticked.wait(LONG)


class TestTheThread:
    def test_is_started_when_a_time_is_known(self, make: Make) -> None:
        timer = make(Agenda().tick)
        timer.wake_by(math.inf)
        assert not timer.is_running
        timer.wake_by(time.monotonic() + 1000)
        assert timer.is_running

    def test_is_one(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        spawned: list[str] = []
        spawn = threads.spawn

        def spawning(name: str, *arguments: Any) -> object:
            spawned.append(name)
            return spawn(name, *arguments)

        monkeypatch.setattr(threads, "spawn", spawning)
        agenda = Agenda()
        timer = make(agenda.tick)
        for number in range(200):
            timer.wake_by(time.monotonic() - number)
        assert agenda.is_empty.wait(LONG)
        assert spawned == ["rig-timer"]

    def test_ends_with_the_timer(self, make: Make) -> None:
        agenda = Agenda(time.monotonic() + 1000)
        timer = make(agenda.tick)
        timer.wake_by(agenda.due[0])
        timer.stop()
        assert eventually(lambda: not [t for t in threading.enumerate() if t.name == "rig-timer"])

    def test_is_not_started_after_the_end(self, make: Make) -> None:
        timer = make(Agenda().tick)
        timer.stop()
        timer.wake_by(0)
        assert not timer.is_running

    def test_no_thread_for_it(
        self, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(*arguments: object) -> None:
            raise NoThread("can't start new thread")

        agenda = Agenda(time.monotonic())
        timer = make(agenda.tick)
        monkeypatch.setattr(threads, "spawn", refuse)
        timer.wake_by(agenda.due[0])
        assert "no thread for the timer" in caplog.text
        assert not timer.is_running
        monkeypatch.undo()
        timer.wake_by(agenda.due[0])
        assert agenda.is_empty.wait(LONG)


class TestRaces:
    def test_a_time_is_added_during_a_tick(self, make: Make) -> None:
        ticked = threading.Event()
        looking, announced = threading.Event(), threading.Event()
        due = [math.inf]

        def tick(now: float) -> float:
            seen = due[0]
            if seen == math.inf:
                # The tick has found nothing; only now a time is added.
                looking.set()
                assert announced.wait(LONG)
            elif now >= seen:
                ticked.set()
                return math.inf
            return seen

        timer = make(tick)
        timer.wake_by(0.0)
        assert looking.wait(LONG)
        soon = time.monotonic() + 0.02
        due[0] = soon
        timer.wake_by(soon)
        announced.set()
        assert ticked.wait(LONG)

    def test_it_is_stopped_during_a_tick(self, make: Make) -> None:
        hold = Hold()
        hold.close()

        def tick(now: float) -> float:
            hold.wait_here()
            return now + 1000

        timer = make(tick)
        timer.wake_by(0.0)
        hold.wait_until_reached()
        timer.stop()
        hold.open()
        # The fixture waits for the end of the thread.


class TestInALink:
    """The receiver's tick() is called in time, while other threads read and serve."""

    def test_for_a_time_that_the_receiver_has_from_the_start(self) -> None:
        lines = Lines()
        agenda = Agenda(time.monotonic() + 0.02)
        lines.on_tick = agenda.tick
        with linked(lines):
            assert agenda.is_empty.wait(LONG)

    @pytest.mark.parametrize("callers_read", [False, True])
    def test_for_a_time_that_comes_later(self, callers_read: bool) -> None:
        lines = Lines()
        agenda = Agenda()
        lines.on_tick = agenda.tick
        with linked(lines, callers_read=callers_read):
            agenda.is_empty.clear()
            agenda.due = [time.monotonic() + 0.02]
            lines.link.wake_by(agenda.due[0])
            assert agenda.is_empty.wait(LONG)

    @pytest.mark.parametrize("callers_read", [False, True])
    def test_no_thread_while_nothing_is_due(self, callers_read: bool) -> None:
        with linked(callers_read=callers_read) as (lines, peer):
            peer.send("one")
            assert peer.read() == "one"
            assert not lines.link.timer.is_running

    @pytest.mark.parametrize("blocked", [0, 1, 2])
    def test_for_every_job(self, blocked: int) -> None:
        # Also when all threads are busy, and the job waits in line.
        lines = Lines()
        agenda = Agenda()
        with linked(lines, max_threads=3) as (_, peer):
            for number in range(blocked):
                peer.send(f"block {number}")
                assert lines.entered[f"block {number}"].wait(LONG)
            lines.due = time.monotonic() + 0.02
            agenda.due = [lines.due]
            agenda.is_empty.clear()
            lines.on_tick = agenda.tick
            peer.send("block last")
            assert agenda.is_empty.wait(LONG)

    def test_while_a_reader_gets_no_job_and_a_handler_blocks(self) -> None:
        # The watcher becomes the reader, gets no job, and waits for more bytes.
        lines = Lines()
        lines.answers["pong"] = threads.Latch()
        agenda = Agenda()
        with linked(lines) as (_, peer):
            lines.due = time.monotonic() + 0.1
            agenda.due = [lines.due]
            lines.on_tick = agenda.tick
            peer.send("block a")
            assert lines.entered["block a"].wait(LONG)
            peer.send("pong")
            assert agenda.is_empty.wait(LONG)

    @pytest.mark.parametrize(
        "how", ["nothing", "the end", "the end of the peer", "bytes", "a request at once"]
    )
    def test_a_new_link_does_without_it(self, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(link_module, "TIMER_DELAY", 3600.0)
        noted = threading.Event()

        class Noted(link_module.Link):
            def wake_by(self, due: float) -> None:
                super().wake_by(due)
                noted.set()

        lines = Lines()
        lines.on_tick = lambda now: now + 1000
        with linked(lines, kind=Noted) as (_, peer):
            # A link that ends before it has noted its first time starts the timer, and stops it.
            assert noted.wait(LONG)
            if how == "bytes":
                peer.send("one")
                assert peer.read() == "one"
            elif how == "the end":
                lines.link.close()
                assert lines.is_lost.wait(LONG)
            elif how == "the end of the peer":
                peer.close()
                assert lines.is_lost.wait(LONG)
            elif how == "a request at once":
                peer.send("block a")
                assert lines.entered["block a"].wait(LONG)
                peer.send("b")
                assert peer.read() == "b"
                lines.release("a")
            assert lines.link.timer.is_running == (how == "a request at once")

    def test_a_new_link_starts_it_soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(link_module, "TIMER_DELAY", 0.02)
        lines = Lines()
        lines.on_tick = lambda now: now + 1000
        with linked(lines) as (_, peer):
            assert eventually(lambda: lines.link.timer.is_running)
            peer.send("one")
            assert peer.read() == "one"

    def test_a_new_link_starts_it_in_time_for_a_job(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(link_module, "TIMER_DELAY", 3600.0)
        lines = Lines()
        agenda = Agenda(time.monotonic() + 1000)
        lines.on_tick = agenda.tick
        with linked(lines) as (_, peer):
            lines.due = time.monotonic() + 0.02
            agenda.due = [lines.due]
            peer.send("block a")
            assert agenda.is_empty.wait(LONG)

    @pytest.mark.parametrize("end", ["time", "bytes"])
    def test_the_watcher_of_a_new_link_stands_in_for_it(
        self, end: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(link_module, "TIMER_DELAY", 1.0 if end == "time" else 3600.0)
        lines = Lines()
        looks: list[float] = []

        def tick(now: float) -> float:
            looks.append(now)
            return math.inf

        lines.on_tick = tick
        with linked(lines) as (_, peer):
            started = looks[0]
            lines.due = time.monotonic() + 5000
            peer.send("block a")
            assert lines.entered["block a"].wait(LONG)
            if end == "bytes":
                assert not lines.link.timer.is_running
                peer.send("b")
                assert peer.read() == "b"
            # Once more when the reader finds the next request after the timer has looked.
            assert eventually(lambda: len(looks) >= 2)
            assert end == "bytes" or looks[1] >= started + 1.0
            lines.release("a")

    def test_the_end_of_the_link_stops_it(self) -> None:
        lines = Lines()
        lines.on_tick = lambda now: now + 1000
        with linked(lines):
            lines.link.wake_by(0)
            assert lines.link.timer.is_running
            lines.link.close()
            assert lines.is_lost.wait(LONG)
            lines.link.wake_by(0)
        assert eventually(lambda: not [t for t in threading.enumerate() if t.name == "rig-timer"])
