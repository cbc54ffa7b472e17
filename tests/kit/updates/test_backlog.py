"""The backlog of an update queue, without its threads."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

from nri_sync import api
from nri_sync.kit.updates.backlog import Backlog, Entry

__all__: list[str] = []


def make(limit: int = 100, batch: int = 10, attempts: int = 3) -> Backlog[str]:
    return Backlog(limit=limit, batch=batch, attempts=attempts, delay=lambda attempt: 10.0**attempt)


def put(
    backlog: Backlog[str], container_id: str, shares: int = 1, session: int = 1
) -> Entry[str] | None:
    update = api.Update(container_id).set_cpu(shares=shares)
    return backlog.accept(update.message, session, lambda: f"handle of {shares}")


def described(batch: list[Entry[str]]) -> list[tuple[str, int]]:
    found = []
    for entry in batch:
        assert entry.update is not None
        assert entry.update.container_id == entry.container_id
        found.append((entry.container_id, entry.update.linux.resources.cpu.shares.value))
    return found


class TestAccepting:
    def test_waiting_updates_of_a_container_are_merged(self) -> None:
        backlog = make()
        first = put(backlog, "a", 1)
        put(backlog, "b", 2)
        assert put(backlog, "a", 3) is first
        assert first is not None
        assert first.handle == "handle of 1"
        assert len(backlog) == 2
        assert described(backlog.pick(0.0)) == [("a", 3), ("b", 2)]
        assert (backlog.tally["put"], backlog.tally["merged"]) == (3, 1)

    def test_messages_are_copied(self) -> None:
        backlog = make()
        update = api.Update("a").set_cpu(shares=1)
        eviction = api.eviction("b", "why")
        backlog.accept(update.message, 1, str)
        backlog.accept(eviction, 1, str)
        update.set_cpu(shares=2)
        eviction.reason = "changed"
        first, second = backlog.pick(0.0)
        assert described([first]) == [("a", 1)]
        assert second.update is None
        assert second.eviction == api.eviction("b", "why")

    def test_an_update_and_an_eviction_go_together(self) -> None:
        backlog = make()
        put(backlog, "a")
        backlog.accept(api.eviction("a", "one"), 1, str)
        backlog.accept(api.eviction("a", "two"), 1, str)
        (entry,) = backlog.pick(0.0)
        assert (entry.update is not None, entry.eviction) == (True, api.eviction("a", "two"))

    def test_a_sent_update_is_not_changed(self) -> None:
        backlog = make()
        put(backlog, "a", 1)
        (sent,) = backlog.pick(0.0)
        behind = put(backlog, "a", 2)
        assert behind is not sent
        assert put(backlog, "a", 3) is behind
        assert backlog.pick(0.0) == []
        assert described([sent]) == [("a", 1)]
        assert backlog.answered([sent], (), 0.0) == ([sent], [])
        assert described(backlog.pick(0.0)) == [("a", 3)]

    def test_no_room(self) -> None:
        backlog = make(limit=2)
        put(backlog, "a")
        put(backlog, "b")
        assert put(backlog, "c") is None
        assert put(backlog, "a", 5) is not None  # merged
        batch = backlog.pick(0.0)
        assert put(backlog, "a") is None  # a second entry
        backlog.answered(batch[:1], (), 0.0)
        assert put(backlog, "a") is not None
        assert (len(backlog), backlog.tally["put"]) == (2, 4)


class TestAnswers:
    def test_batches(self) -> None:
        backlog = make(batch=2)
        for name in "abc":
            put(backlog, name)
        assert [entry.container_id for entry in backlog.pick(0.0)] == ["a", "b"]
        assert [entry.container_id for entry in backlog.pick(0.0)] == ["c"]

    def test_a_refused_update_is_sent_again_later(self) -> None:
        backlog = make(attempts=3)
        put(backlog, "a", 1)
        put(backlog, "b", 2)
        batch = backlog.pick(0.0)
        assert backlog.answered(batch, {"a"}, 0.0) == ([batch[1]], [])
        put(backlog, "a", 9)
        assert (backlog.pick(9.9), backlog.due()) == ([], 10.0)
        assert described(backlog.pick(10.0)) == [("a", 1)]
        assert backlog.answered(batch[:1], {"a"}, 10.0) == ([], [])
        assert backlog.due() == 110.0
        assert backlog.pick(110.0) == batch[:1]
        assert backlog.answered(batch[:1], {"a"}, 110.0) == ([], batch[:1])
        assert backlog.tally["refused"] == 1
        assert described(backlog.pick(110.0)) == [("a", 9)]

    def test_a_lost_update_is_sent_first(self) -> None:
        backlog = make()
        put(backlog, "a", 1)
        batch = backlog.pick(0.0)
        put(backlog, "a", 2)
        put(backlog, "b", 3)
        backlog.lost(batch)
        assert described(backlog.pick(0.0)) == [("a", 1), ("b", 3)]
        assert backlog.tally["refused"] == 0

    def test_updates_that_failed_together_are_sent_one_by_one(self) -> None:
        backlog = make()
        for number, name in enumerate("abc"):
            put(backlog, name, number)
        batch = backlog.pick(0.0)
        backlog.failed_together(batch)
        put(backlog, "d")
        seen = []
        while alone := backlog.pick(0.0):
            seen.append([entry.container_id for entry in alone])
            backlog.answered(alone, {"b"}, 0.0)
        assert seen == [["a"], ["b"], ["c"], ["d"]]
        # It stays alone.
        put(backlog, "e")
        assert [entry.container_id for entry in backlog.pick(10.0)] == ["b"]
        assert [entry.container_id for entry in backlog.pick(10.0)] == ["e"]

    def test_an_update_that_is_sent_alone_does_not_join_others(self) -> None:
        backlog = make()
        for name in "ab":
            put(backlog, name)
        both = backlog.pick(0.0)
        put(backlog, "c")
        backlog.lost(backlog.pick(0.0))
        backlog.failed_together(both)
        put(backlog, "d")
        picked = [[entry.container_id for entry in backlog.pick(0.0)] for _ in range(4)]
        assert picked == [["c"], ["a"], ["b"], ["d"]]


class TestGivingUp:
    def test_a_container_that_is_gone(self) -> None:
        backlog = make()
        put(backlog, "a", 1)
        put(backlog, "b", 2)
        batch = backlog.pick(0.0)
        put(backlog, "a", 3)
        # The runtime will answer the entry in flight.
        assert described(backlog.drop("a")) == [("a", 3)]
        assert backlog.drop("a") == []
        backlog.answered(batch, {"a", "b"}, 0.0)
        put(backlog, "a", 4)
        assert described(backlog.drop("a")) == [("a", 1), ("a", 4)]
        assert described(backlog.pick(10.0)) == [("b", 2)]
        assert backlog.tally["removed"] == 3

    def test_a_waiting_update_is_dropped(self) -> None:
        backlog = make()
        put(backlog, "a", 1)
        assert described(backlog.drop("a")) == [("a", 1)]
        assert (len(backlog), backlog.pick(0.0)) == (0, [])

    def test_a_new_update_does_not_bring_a_dropped_one_back(self) -> None:
        backlog = make()
        put(backlog, "a", 1)
        backlog.lost(backlog.pick(0.0))
        backlog.drop("a")
        put(backlog, "a", 2)
        assert described(backlog.pick(0.0)) == [("a", 2)]
        assert backlog.pick(0.0) == []

    def test_unlisted(self) -> None:
        backlog = make()
        for name in "abcd":
            put(backlog, name, session=1)
        backlog.lost(backlog.pick(0.0)[:2])
        put(backlog, "e", session=1)
        put(backlog, "f", session=2)
        put(backlog, "g", session=1)
        put(backlog, "g", session=2)
        gone = backlog.drop_unlisted({"a", "x"}, 2)
        # c and d are in flight; f and g were put in this session.
        assert {entry.container_id for entry in gone} == {"b", "e"}
        assert {entry.container_id for entry in backlog} == {"a", "c", "d", "f", "g"}

    def test_clear_drops_all_updates(self) -> None:
        backlog = make()
        put(backlog, "a", 1)
        put(backlog, "b", 2)
        batch = backlog.pick(0.0)
        put(backlog, "a", 3)
        backlog.lost(batch[1:])
        left = backlog.clear()
        assert sorted(described(left)) == [("a", 1), ("a", 3), ("b", 2)]
        assert [entry.in_flight for entry in left if entry is batch[0]] == [True]
        # The answer comes too late.
        assert backlog.answered(batch, (), 0.0) == ([], [])
        assert (len(backlog), backlog.due(), backlog.tally["closed"]) == (0, None, 3)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_and_nothing_overtakes(seed: int) -> None:
    chance = random.Random(seed)
    backlog: Backlog[tuple[str, int]] = Backlog(
        limit=30, batch=4, attempts=3, delay=lambda _: chance.random()
    )
    now, number = 0.0, 0
    in_flight: list[Entry[tuple[str, int]]] = []
    reached: dict[str, int] = defaultdict(int)
    decided = []
    handles: set[tuple[str, int]] = set()
    for _ in range(3000):
        now += 0.1
        name = f"c{chance.randrange(12)}"
        step = chance.random()
        if step < 0.5:
            number += 1
            update = api.Update(name).set_cpu(shares=number).message
            entry = backlog.accept(update, 1, lambda name=name, n=number: (name, n))  # type: ignore[misc]
            if entry is not None:
                handles.add(entry.handle)
        elif step < 0.53:
            decided += backlog.drop(name)
        elif not in_flight:
            in_flight = backlog.pick(now)
        else:
            for entry in in_flight:
                assert entry.update is not None
                shares = entry.update.linux.resources.cpu.shares.value
                assert reached[entry.container_id] <= shares
                reached[entry.container_id] = shares
            outcome = chance.random()
            if outcome < 0.2:
                backlog.lost(in_flight)
            elif outcome < 0.4 and len(in_flight) > 1:
                backlog.failed_together(in_flight)
            else:
                failed = {e.container_id for e in in_flight if chance.random() < 0.3}
                for entries in backlog.answered(in_flight, failed, now):
                    decided += entries
            in_flight = []
    tally = backlog.tally
    outcomes = ("merged", "applied", "refused", "removed")
    assert tally["put"] == sum(tally[outcome] for outcome in outcomes) + len(backlog)
    assert min(tally.values()) == tally["closed"] == 0
    decided += backlog.clear()
    assert len(decided) == len(set(decided)) == len(handles)
    assert {entry.handle for entry in decided} == handles
