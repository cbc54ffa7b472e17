"""The number of late and failed answers among the recent answers of a plugin."""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

__all__ = ["AnswerWindow", "Answers"]

# The window moves in this number of steps.
_STEPS = 20


class Answers(NamedTuple):
    """The numbers of answers in a window."""

    total: int = 0
    #: Late answers, which the stub has given in place of a handler.
    late: int = 0
    #: Errors, except refusals by the plugin's policy.
    failed: int = 0

    @property
    def share(self) -> float:
        """The share of late and failed answers; 0 without answers."""
        return (self.late + self.failed) / self.total if self.total else 0.0


class AnswerWindow:
    """Counts the answers of the last ``seconds``, in bounded memory.

    Each call requires a lock that all callers share.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        # The outcomes of each step, with the time at which the step began.
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
