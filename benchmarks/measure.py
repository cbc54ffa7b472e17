"""Measures several contestants in turn, and compares their results."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Callable

__all__ = ["Aim", "Case", "Outcome", "measure", "percentiles"]


@dataclass(frozen=True)
class Aim:
    """A ratio of one metric between two contestants, with its limit."""

    metric: str
    ours: str
    #: ``None``: the limit is for the metric itself.
    peer: str | None = None
    at_most: float | None = None
    #: The lower limit, for metrics whose larger values are better.
    at_least: float | None = None

    def met(self, result: float) -> bool:
        """Whether a ratio or metric is within the limit."""
        return (self.at_most is None or result <= self.at_most) and (
            self.at_least is None or result >= self.at_least
        )


@dataclass(frozen=True)
class Case:
    """One case: ``run(contestant)`` measures it once, in a fresh process, and returns the metrics."""

    name: str
    title: str
    #: The unit of each metric.
    units: Mapping[str, str]
    contestants: Sequence[str]
    run: Callable[[str], Mapping[str, float]]
    aims: Sequence[Aim] = ()
    #: The maximum number of rounds, for a case that takes long.
    rounds: int | None = None
    #: An explanation for readers of the table.
    note: str = ""
    #: A shorter form, for ``--quick``.
    quick: Case | None = None


@dataclass
class Outcome:
    """The results of a case: for each contestant and metric, a list with one value for each round."""

    case: Case
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def median(self, contestant: str, metric: str) -> float:
        return statistics.median(self.values[contestant][metric])

    def spread(self, contestant: str, metric: str) -> float:
        """Half of the range between the quartiles."""
        values = self.values[contestant][metric]
        if len(values) < 2:
            return 0.0
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return (high - low) / 2

    @property
    def rounds(self) -> int:
        return len(self.values[self.case.contestants[0]][next(iter(self.case.units))])

    def result(self, aim: Aim) -> float:
        """The median of the rounds' ratios. A disturbance of one round affects both sides of its ratio.

        For an aim without a peer, the median of the metric.
        """
        if aim.peer is None:
            return self.median(aim.ours, aim.metric)
        pairs = zip(self.values[aim.ours][aim.metric], self.values[aim.peer][aim.metric])
        return statistics.median(ours / peer for ours, peer in pairs)


def measure(case: Case, rounds: int, say: Callable[[str], object]) -> Outcome:
    """Run all contestants in turn, at most ``rounds`` times. Every other round runs in reverse order."""
    outcome = Outcome(
        case, {name: {metric: [] for metric in case.units} for name in case.contestants}
    )
    for number in range(min(case.rounds or rounds, rounds)):
        order = list(case.contestants) if number % 2 == 0 else list(reversed(case.contestants))
        for contestant in order:
            result = case.run(contestant)
            for metric in case.units:
                outcome.values[contestant][metric].append(result[metric])
            shown = ", ".join(f"{m} {result[m]:.4g} {case.units[m]}" for m in case.units)
            say(f"{case.name}, round {number + 1}, {contestant}: {shown}")
    return outcome


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50 and p99 in microseconds, and calls per second, from the durations of sequential calls."""
    ordered = sorted(seconds)
    return {
        "p50": ordered[len(ordered) // 2] * 1e6,
        "p99": ordered[len(ordered) * 99 // 100] * 1e6,
        "rate": len(ordered) / sum(ordered),
    }
