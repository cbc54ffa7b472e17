"""How many of the recent answers of a plugin were late or failed."""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

__all__ = ["AnswerWindow", "Answers"]

# The window moves by this part of it.
_STEPS = 20


class Answers(NamedTuple):
    """The answers of a window."""

    total: int = 0
    #: Those that the stub has given in the place of a handler.
    late: int = 0
    #: Those that were errors, without the refusals of the plugin's policy.
    failed: int = 0

    @property
    def share(self) -> float:
        """The part of them that was late or failed; 0 without answers."""
        return (self.late + self.failed) / self.total if self.total else 0.0


class AnswerWindow:
    """Counts the answers of the last ``seconds``, in memory that does not grow.

    Each call requires a lock that all callers share.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        # Each with the time that it began at.
        self._steps: deque[tuple[float, Counter[str]]] = deque()

    def add(self, outcome: str, now: float) -> None:
        """Count an answer: ``"late"``, ``"error"``, or any other."""
        if not self._steps or now - self._steps[-1][0] >= self.seconds / _STEPS:
            self._forget(now)
            self._steps.append((now, Counter()))
        self._steps[-1][1][outcome] += 1

    def answers(self, now: float) -> Answers:
        self._forget(now)
        found: Counter[str] = Counter()
        for _, outcomes in self._steps:
            found.update(outcomes)
        return Answers(sum(found.values()), found["late"], found["error"])

    def _forget(self, now: float) -> None:
        while self._steps and now - self._steps[0][0] >= self.seconds:
            self._steps.popleft()
