"""The threads of a Background; most of it is tested through Background itself."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

import pytest

from nri_sync.errors import QueueClosed
from nri_sync.kit.background.agenda import Call, TaskState, Work
from nri_sync.kit.background.pool import Pool
from tests.forked import WARNS, in_child
from tests.plugin.harness import LONG, eventually

__all__: list[str] = []


def make(**options: Any) -> Pool:
    return Pool(**{"threads": 2, "limit": 10, "name": "pool", "on_error": None, **options})


def test_an_idle_thread_takes_the_next_item() -> None:
    pool = make()
    names = []
    for _ in range(3):
        work = Work(Call.of(lambda: threading.current_thread().name, (), {}))
        pool.submit(work)
        names.append(work.future.result(LONG))
        eventually(lambda: not pool.counters().running)
    assert names == ["pool-1"] * 3
    assert pool.close(LONG)


def test_two_that_are_due_at_once_take_two_threads() -> None:
    pool = make()
    both = threading.Barrier(2)
    passed: list[int] = []

    def run() -> None:
        both.wait(LONG)
        passed.append(1)

    tasks = [TaskState(run, every=0.01) for _ in range(2)]
    for task in tasks:
        pool.repeat(task, Call.of(run, (), {}))
    eventually(lambda: len(passed) >= 2)
    for task in tasks:
        pool.stop(task)
    both.abort()
    pool.close(LONG)


def test_an_exception_of_a_callback_does_not_end_the_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = make(threads=1)
    work = Work(Call.of(int, (), {}))

    def callback(_: object) -> None:
        raise SystemExit

    work.future.add_done_callback(callback)
    with caplog.at_level(logging.ERROR):
        pool.submit(work)
        after = Work(Call.of(int, (), {}))
        pool.submit(after)
        assert after.future.result(LONG) == 0
    assert "pool: after int" in caplog.text
    assert pool.close(LONG)


def test_closed() -> None:
    pool = make()
    assert pool.close(LONG)
    with pytest.raises(QueueClosed, match="pool is closed; int came too late"):
        pool.submit(Work(Call.of(int, (), {})))
    with pytest.raises(QueueClosed):
        pool.want(TaskState(int), Call.of(int, (), {}))


@WARNS
def test_a_forked_child_has_an_empty_pool_that_works() -> None:
    pool = make(threads=1)
    begun, go_on = threading.Event(), threading.Event()

    def run() -> None:
        begun.set()
        assert go_on.wait(LONG)

    task = TaskState(run)
    waiting = Work(Call.of(lambda: "parent", (), {}))
    pool.want(task, Call.of(run, (), {}))
    assert begun.wait(LONG)
    pool.want(task, Call.of(run, (), {}))
    pool.submit(waiting)

    def child() -> None:
        assert pool.counters()[3:] == (0, 0, 0)
        work = Work(Call.of(lambda: "child", (), {}))
        pool.submit(work)
        assert work.future.result(LONG) == "child"
        done = threading.Event()
        pool.want(task, Call.of(done.set, (), {}))
        assert done.wait(LONG)
        assert pool.close(LONG)

    in_child(child)
    go_on.set()
    assert waiting.future.result(LONG) == "parent"
    assert pool.close(LONG)


@WARNS
def test_a_job_may_fork_and_go_on_in_the_child() -> None:
    pool = make(threads=1)
    parent = os.getpid()
    ends: list[int] = []

    def forks() -> None:
        pid = os.fork()
        if pid:
            ends.append(os.waitpid(pid, 0)[1])

    def next_job() -> None:
        if os.getpid() != parent:
            os._exit(7)

    def forks_and_returns() -> None:
        forks()
        if os.getpid() != parent:
            # The pool of the child has this thread, which takes the next job when this one has returned.
            pool.submit(Work(Call.of(next_job, (), {})))

    work = Work(Call.of(forks_and_returns, (), {}))
    pool.submit(work)
    work.future.result(LONG)
    assert [os.WEXITSTATUS(status) for status in ends] == [7]
    assert pool.close(LONG)


@WARNS
def test_a_pool_that_is_closed_is_closed_in_a_forked_child() -> None:
    pool = make()
    assert pool.close(LONG)

    def child() -> None:
        assert pool.closed
        assert pool.close(LONG)
        with pytest.raises(QueueClosed):
            pool.submit(Work(Call.of(lambda: None, (), {})))

    in_child(child)
