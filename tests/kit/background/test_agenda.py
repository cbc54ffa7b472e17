"""The work of a Background and its order, without threads, and with the time passed in."""

from __future__ import annotations

from typing import Any

from nri_sync.kit.background.agenda import Agenda, Call, TaskState, Work, name_of

__all__: list[str] = []


def call(*args: Any) -> Call:
    return Call.of(print, args, {})


def began(agenda: Agenda, thread: int = 1, now: float = 0.0) -> tuple[Any, ...] | None:
    """Return the arguments of the item that begins."""
    found = agenda.begin(thread, now)
    return None if found is None else found[1].args


def test_work_in_its_order() -> None:
    agenda = Agenda()
    for number in range(3):
        agenda.add(Work(call(number)))
    assert (agenda.queued, agenda.queued_work) == (3, 3)
    assert [began(agenda, thread) for thread in range(4)] == [(0,), (1,), (2,), None]
    assert (agenda.queued_work, agenda.running, agenda.is_done) == (0, 3, False)
    assert not any(agenda.finish(thread, 0.0) for thread in range(3))
    assert agenda.is_done


def test_only_work_that_has_not_begun_is_withdrawn() -> None:
    agenda = Agenda()
    work = Work(call())
    agenda.add(work)
    assert agenda.withdraw(work)
    assert (agenda.queued_work, began(agenda)) == (0, None)
    agenda.add(work)
    began(agenda)
    assert not agenda.withdraw(work)


def test_a_task_runs_once_more_with_the_newest_arguments() -> None:
    agenda, task = Agenda(), TaskState(print)
    agenda.want(task, call(1))
    agenda.want(task, call(2))
    assert began(agenda) == (2,)
    assert task.newest is None
    agenda.want(task, call(3))
    agenda.want(task, call(4))
    assert began(agenda, 2) is None
    assert agenda.finish(1, 0.0)
    assert began(agenda) == (4,)


def test_a_stopped_task_does_not_run() -> None:
    agenda, task = Agenda(), TaskState(print)
    agenda.want(task, call(1))
    agenda.stop(task)
    assert began(agenda) is None
    agenda.want(task, call(2))
    assert began(agenda) is None
    assert agenda.is_done


def test_a_period_begins_at_the_end_of_a_run() -> None:
    agenda, task = Agenda(), TaskState(print, every=10.0)
    agenda.repeat(task, call(1), 100.0)
    assert began(agenda, now=109.0) is None
    assert began(agenda, now=110.0) == (1,)
    assert began(agenda, now=130.0) is None
    agenda.finish(1, 115.0)
    assert agenda.due_at == 125.0
    agenda.stop(task)
    assert began(agenda, now=125.0) is None


def test_jitter_shortens_a_period() -> None:
    agenda = Agenda()
    for _ in range(20):
        agenda.repeat(TaskState(print, every=10.0, jitter=0.5), call(), 0.0)
    assert agenda.due_at is not None
    assert 5.0 <= agenda.due_at < 10.0


def test_a_run_by_request_stands_for_the_turn_that_was_due() -> None:
    agenda, task = Agenda(), TaskState(print, every=10.0)
    agenda.repeat(task, call(1), 0.0)
    agenda.want(task, call(2))
    assert began(agenda, now=1.0) == (2,)
    agenda.finish(1, 2.0)
    assert began(agenda, now=11.0) is None
    assert began(agenda, now=12.0) == (2,)


def test_a_closed_agenda_finishes_ready_work_and_nothing_becomes_due() -> None:
    agenda, task = Agenda(), TaskState(print, every=10.0)
    agenda.repeat(task, call(1), 0.0)
    agenda.add(Work(call(2)))
    agenda.close()
    assert began(agenda, now=20.0) == (2,)
    assert began(agenda, 2, now=20.0) is None
    agenda.finish(1, 20.0)
    assert agenda.is_done
    agenda.repeat(task, call(1), 20.0)
    assert agenda.due_at is None


def test_abandoned() -> None:
    agenda, task, work = Agenda(), TaskState(print), Work(call())
    agenda.want(task, call())
    began(agenda)
    agenda.want(task, call())
    agenda.add(work)
    assert agenda.abandon(here=2) == ([work], [task])
    agenda.finish(1, 0.0)
    assert agenda.is_done
    agenda.want(task, call())
    began(agenda, 2)
    assert agenda.abandon(here=2) == ([], [])


def test_cancelled_work_cancels_its_future() -> None:
    work = Work(call())
    work.cancel()
    assert work.future.cancelled()


def test_names() -> None:
    assert name_of(test_names) == "test_names"
    assert name_of(call().context.run) == "Context.run"
