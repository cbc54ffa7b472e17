"""The number of late and failed answers among the recent answers of a plugin."""

from __future__ import annotations

from nri_sync.kit.health.answers import Answers, AnswerWindow
from tests.memory import reachable

__all__: list[str] = []


def test_answers_are_counted_by_outcome() -> None:
    window = AnswerWindow(100)
    assert window.answers(0) == Answers()
    assert window.answers(0).share == 0
    for outcome in ("ok", "late", "error", "rejected", "late"):
        window.add(outcome, 1.0)
    assert window.answers(2.0) == Answers(total=5, late=2, failed=1)
    assert window.answers(2.0).share == 0.6


def test_old_answers_are_forgotten() -> None:
    window = AnswerWindow(100)
    window.add("late", 0)
    window.add("ok", 60)
    assert window.answers(99.9) == Answers(2, 1, 0)
    assert window.answers(100) == Answers(1, 0, 0)
    assert window.answers(160) == Answers()
    window.add("error", 1000)
    assert window.answers(1000) == Answers(1, 0, 1)


def test_the_window_does_not_grow() -> None:
    window = AnswerWindow(10)
    for number in range(10_000):
        window.add("ok", number * 0.01)
    # 21 steps, each of some objects.
    assert len(reachable(window)) <= 21 * 10
    assert 900 <= window.answers(99.99).total <= 1000
