"""The counters of a stub."""

from __future__ import annotations

import threading

import pytest

from nri_sync.plugin.counters import Counters, Tally
from tests.forked import WARNS, in_child
from tests.net.rig import in_thread
from tests.plugin.harness import LONG

__all__: list[str] = []


def test_starts_with_zeros() -> None:
    assert Tally().snapshot() == Counters()
    assert set(Counters()) == {0}


@pytest.mark.parametrize("name", Counters._fields)
def test_counts_each(name: str) -> None:
    tally = Tally()
    tally.add(name)
    tally.add(name)
    assert tally.snapshot() == Counters(**{name: 2})


def test_counts_late_replies_by_event() -> None:
    tally = Tally()
    tally.add_late("CreateContainer")
    tally.add_late("CreateContainer")
    tally.add_late("StopContainer")
    assert tally.snapshot() == Counters(late_replies=3)
    found = tally.late_by_event()
    assert found == {"CreateContainer": 2, "StopContainer": 1}
    tally.add_late("StopContainer")
    assert found["StopContainer"] == 1


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError):
        Tally().add("typo")


@pytest.mark.parametrize(("sessions", "restarts"), [(0, 0), (1, 0), (2, 1), (10, 9)])
def test_restarts_are_the_sessions_after_the_first(sessions: int, restarts: int) -> None:
    assert Counters(sessions=sessions).restarts == restarts


def test_a_snapshot_does_not_change() -> None:
    tally = Tally()
    before = tally.snapshot()
    tally.add("updates")
    assert before.updates == 0


def test_a_forked_child_counts_on_under_a_lock_of_its_own() -> None:
    tally = Tally()
    tally.add("requests")
    tally.add_late("CreateContainer")
    tally._lock.acquire()  # as another thread held it when the process was forked
    tally._after_fork_in_child()
    tally.add("requests")
    assert tally.snapshot() == Counters(requests=2, late_replies=1)
    assert tally.late_by_event() == {"CreateContainer": 1}


def test_no_count_is_lost_between_threads() -> None:
    tally = Tally()
    barrier = threading.Barrier(4)

    def count() -> None:
        barrier.wait(LONG)
        for _ in range(500):
            tally.add("requests")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert tally.snapshot().requests == 2000


@WARNS
def test_a_forked_child_counts_though_a_thread_of_the_parent_was_counting() -> None:
    counting, go_on = threading.Event(), threading.Event()

    class SlowName(str):
        """A thread that counts it waits in the middle, with the lock."""

        def __hash__(self) -> int:
            counting.set()
            assert go_on.wait(LONG)
            return super().__hash__()

    tally = Tally()
    thread = in_thread(lambda: tally.add(SlowName("sessions")))
    assert counting.wait(LONG)

    def check() -> None:
        tally.add("sessions")
        assert tally.snapshot().sessions == 1

    try:
        in_child(check)
    finally:
        go_on.set()
        thread.join(LONG)
    assert tally.snapshot().sessions == 1
