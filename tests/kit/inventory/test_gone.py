"""The remembered records of removed pods, and the events that add them again."""

from __future__ import annotations

import pytest

from nri_sync.api import PodSandbox
from nri_sync.kit.inventory.gone import Gone
from nri_sync.kit.inventory.records import PodRecord
from tests.memory import reachable

__all__: list[str] = []

FIRST = "run_pod_sandbox"
LATER = "post_update_pod_sandbox"


def record(name: str) -> PodRecord:
    return PodRecord.of(PodSandbox(id=name), None, 1)


@pytest.fixture
def gone() -> Gone[PodRecord]:
    return Gone(FIRST)


class TestGone:
    def test_an_unknown_id_is_admitted(self, gone: Gone[PodRecord]) -> None:
        assert "a" not in gone
        assert gone.record("a") is None
        assert gone.admits("a", LATER, known=False)

    def test_removed(self, gone: Gone[PodRecord]) -> None:
        a = record("a")
        assert gone.admits("a", FIRST, known=False)
        gone.remember([a], "removed")
        assert gone.record("a") is a
        assert [gone.admits("a", event, known=False) for event in (LATER, LATER, FIRST)] == [
            0,
            0,
            1,
        ]
        assert "a" not in gone

    def test_ended_early(self, gone: Gone[PodRecord]) -> None:
        """The outstanding first event is late. One more first event begins a new life."""
        gone.ended("a")
        assert gone.record("a") is None
        events = (LATER, FIRST, LATER, FIRST)
        assert [gone.admits("a", event, known=False) for event in events] == [0, 0, 0, 1]

    def test_removed_while_its_first_event_was_outstanding(self, gone: Gone[PodRecord]) -> None:
        assert gone.admits("a", LATER, known=False)
        gone.remember([record("a")], "removed")
        assert [gone.admits("a", FIRST, known=False) for _ in range(2)] == [0, 1]

    def test_vanished(self, gone: Gone[PodRecord]) -> None:
        gone.remember([record("a"), record("b"), record("c")], "vanished")
        assert not gone.admits("a", LATER, known=False)
        assert gone.admits("a", "create_container", known=False)
        assert gone.admits("b", FIRST, known=False)
        gone.ended("c")
        assert not gone.admits("c", "create_container", known=False)

    def test_listed(self, gone: Gone[PodRecord]) -> None:
        gone.ended("a")
        gone.listed("a")
        assert gone.admits("a", LATER, known=False)
        gone.listed("a")
        gone.remember([record("a")], "removed")
        assert gone.admits("a", FIRST, known=False)

    def test_the_oldest_ends_are_forgotten(self) -> None:
        gone: Gone[PodRecord] = Gone(FIRST, limit=2)
        for name in "abc":
            gone.ended(name)
        gone.remember([record("b")], "removed")
        gone.ended("d")
        assert [name in gone for name in "abcd"] == [False, True, False, True]
        assert gone.record("b") is not None

    def test_memory_is_bounded_for_any_number_of_ends(self, gone: Gone[PodRecord]) -> None:
        def go(numbers: range) -> int:
            for number in numbers:
                assert gone.admits(f"p{number}", LATER, known=False)
                gone.remember([record(f"p{number}")], "removed")
                gone.ended(f"q{number}")
            return len(reachable(gone))

        assert go(range(3000)) == go(range(3000, 6000))
        assert [f"q{number}" in gone for number in (5000, 5999)] == [False, True]
