"""The workers: a task goes to an idle thread, a new one or the backlog, and no job is forgotten."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from nri_sync import threads
from nri_sync.errors import NoThread, RemoteProtocolError
from nri_sync.net import link as link_module
from nri_sync.net.workers import IDLE_THREADS, READ, WATCH, Job, Task, Workers
from nri_sync.net.writer import Buffer
from tests.net.rig import LONG, Hold, Line, eventually, in_thread, linked

__all__: list[str] = []


class Held(Job):
    """A job that runs until it is released."""

    def __init__(self, size: int = 0) -> None:
        self.size = size
        self.runs, self.release = threading.Event(), threading.Event()

    def run(self) -> Sequence[Buffer]:
        self.runs.set()
        assert self.release.wait(LONG)
        return ()


class Rig:
    """Workers whose jobs do nothing else than to wait."""

    def __init__(self, **limits: int) -> None:
        limits = {"max_threads": 4, "max_backlog": 2, "max_backlog_bytes": 100, **limits}
        self.refused: list[Job] = []
        self.roles: list[Task] = []
        self.workers = Workers(self.work, self.refused.append, name="rig", **limits)

    def work(self, task: Task | None) -> None:
        while task is not None:
            if isinstance(task, Job):
                task.run()
            else:
                self.roles.append(task)
            task = self.workers.next_task()

    def submit(self, count: int, size: int = 0) -> list[Held]:
        jobs = [Held(size) for _ in range(count)]
        for job in jobs:
            self.workers.submit(job)
        return jobs


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.workers.end()
    assert rig.workers.end() == []
    # The thread that calls Link.run() counts, though there is none here.
    assert eventually(lambda: rig.workers.threads == 1)


class TestWorkers:
    def test_a_new_thread_and_then_the_idle_one(self, rig: Rig) -> None:
        for _ in range(3):
            (job,) = rig.submit(1)
            assert job.runs.wait(LONG)
            job.release.set()
            assert eventually(lambda: rig.workers.idle == 1)
        assert rig.workers.threads == 2

    def test_the_backlog_and_then_a_refusal(self, rig: Rig) -> None:
        running = rig.submit(3)
        assert all(job.runs.wait(LONG) for job in running)
        waiting = rig.submit(2)
        assert list(rig.workers.backlog) == waiting
        assert rig.submit(1) == rig.refused
        running[0].release.set()
        assert waiting[0].runs.wait(LONG)
        assert not waiting[1].runs.is_set()
        for job in [*running, *waiting]:
            job.release.set()
        assert waiting[1].runs.wait(LONG)
        assert rig.workers.take() is None

    def test_the_bytes_of_the_backlog(self, rig: Rig) -> None:
        running = rig.submit(3, 1000)
        (first,) = rig.submit(1, 60)
        assert rig.submit(1, 41) == rig.refused
        (second,) = rig.submit(1, 40)
        assert list(rig.workers.backlog) == [first, second]
        # A job that runs does not count.
        assert rig.workers.take() is first
        (third,) = rig.submit(1, 60)
        assert list(rig.workers.backlog) == [second, third]
        assert rig.workers.end() == [second, third]
        for job in running:
            job.release.set()

    def test_one_watcher(self, rig: Rig) -> None:
        assert rig.workers.appoint_watcher()
        assert rig.workers.appoint_watcher()
        assert eventually(lambda: rig.roles == [WATCH])
        rig.workers.is_watched = False
        assert rig.workers.appoint_watcher()
        assert eventually(lambda: rig.roles == [WATCH, WATCH])
        assert READ not in rig.roles

    def test_no_thread_for_a_watcher(self, rig: Rig) -> None:
        running = rig.submit(3)
        assert not rig.workers.appoint_watcher()
        assert not rig.workers.is_watched
        for job in running:
            job.release.set()

    def test_the_end(self, rig: Rig) -> None:
        running = rig.submit(3)
        waiting = rig.submit(2)
        assert rig.workers.end() == waiting
        assert rig.submit(1) == rig.refused
        assert not rig.workers.appoint_watcher()
        for job in running:
            job.release.set()

    def test_a_forked_child_has_none_of_them(self, rig: Rig) -> None:
        running = rig.submit(3)
        rig.submit(1)
        for job in running:
            assert job.runs.wait(LONG)
        with rig.workers._lock:  # as a thread that the child does not have
            rig.workers.after_fork_in_child()
            assert not rig.workers.backlog
            assert rig.submit(1) == rig.refused
        for job in running:
            job.release.set()


class TestInALink:
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
        monkeypatch.setattr(link_module, "PATIENCE", 0.05)
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
            assert lines.link.workers.threads <= 4

    def test_no_new_thread_at_all(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(*arguments: object) -> None:
            raise NoThread("can't start new thread")

        monkeypatch.setattr(threads, "spawn", refuse)
        with linked() as (_, peer):
            # The only thread must go on reading, so it serves no request.
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
            monkeypatch.setattr(threads, "spawn", refuse)
            peer.send("b", "c")
            # There are the reader and the handler only: a new request waits until the handler is done.
            assert eventually(lambda: len(lines.link.workers.backlog) == 2)
            lines.release("a")
            assert sorted(peer.read() for _ in range(3)) == ["b", "block a", "c"]
            assert lines.refused == []

    def test_idle_threads_are_few(self) -> None:
        with linked() as (lines, peer):
            names = [f"block {number}" for number in range(40)]
            peer.send(*names)
            for name in names:
                assert lines.entered[name].wait(LONG)
            for number in range(40):
                lines.release(str(number))
            assert sorted(peer.read() for _ in names) == sorted(names)
            # A reader, a watcher, and the idle threads for the next burst.
            few = 2 + IDLE_THREADS
            assert eventually(lambda: lines.link.workers.threads <= few)
            peer.send("still there")
            assert peer.read() == "still there"


def answers_of_two_jobs(hold: Hold) -> set[str]:
    """Dispatch one job on a thread that stops at ``hold`` as it starts a worker, and a second job meanwhile."""
    with linked() as (lines, peer):
        other = in_thread(lambda: lines.link.dispatch(Line(lines, "one")), "dispatcher")
        hold.wait_until_reached()
        peer.send("two")
        assert eventually(lambda: len(lines.link.workers.backlog) == 1)
        hold.open()
        answers = {peer.read(), peer.read()}
        other.join(LONG)
    return answers


class TestNoThreads:
    def test_two_fail_to_start_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Each counts as a thread until it has failed, and would come for the job of the other.
        hold = Hold()
        hold.close()

        def refuse(name: str, *arguments: object) -> None:
            if threading.current_thread().name == "dispatcher":
                hold.wait_here()
            raise NoThread("can't start new thread")

        monkeypatch.setattr(threads, "spawn", refuse)
        assert answers_of_two_jobs(hold) == {"refused one", "refused two"}

    def test_one_that_starts_comes_for_the_job_of_the_other(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hold = Hold()
        hold.close()
        spawn = threads.spawn

        def start_late(name: str, *arguments: Any) -> None:
            if threading.current_thread().name == "dispatcher":
                hold.wait_here()
                spawn(name, *arguments)
            else:
                raise NoThread("can't start new thread")

        monkeypatch.setattr(threads, "spawn", start_late)
        assert answers_of_two_jobs(hold) == {"one", "two"}

    def test_no_thread_serves_that_would_take_a_job(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*arguments: object) -> None:
            raise NoThread("can't start new thread")

        with linked() as (lines, peer):
            # A reader and a watcher, which wait for the peer.
            assert eventually(
                lambda: lines.link.workers.is_watched and lines.link.workers.threads == 2
            )
            monkeypatch.setattr(threads, "spawn", refuse)
            lines.link.dispatch(Line(lines, "one"))
            assert peer.read() == "refused one"

    def test_a_thread_sits_down_while_another_fails_to_start(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hold = Hold()

        def refuse(name: str, *arguments: object) -> None:
            hold.wait_here()
            raise NoThread("can't start new thread")

        with linked() as (lines, peer):
            peer.send("block a")
            assert lines.entered["block a"].wait(LONG)
            peer.send("b")
            assert peer.read() == "b"
            assert eventually(lambda: lines.link.workers.threads == 3)
            monkeypatch.setattr(threads, "spawn", refuse)
            hold.close()
            other = in_thread(lambda: lines.link.dispatch(Line(lines, "c")))
            hold.wait_until_reached()
            lines.release("a")
            assert peer.read() == "block a"
            assert eventually(lambda: lines.link.workers.idle == 1)
            hold.open()
            assert peer.read() == "c"
            other.join(LONG)


def test_a_hold_holds() -> None:
    hold = Hold()
    hold.wait_here()
    assert not hold.reached.is_set()
    hold.close()
    thread = in_thread(hold.wait_here)
    hold.wait_until_reached()
    assert thread.is_alive()
    hold.open()
    thread.join(LONG)
    assert not thread.is_alive()
