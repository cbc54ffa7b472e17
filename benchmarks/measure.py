"""Measuring several contestants in turn, and what their results say of each other."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Callable

__all__ = ["Aim", "Case", "Outcome", "measure", "percentiles"]


@dataclass(frozen=True)
class Aim:
    """A ratio of one metric between two contestants, and what it should not exceed."""

    metric: str
    ours: str
    #: ``None``: the metric itself should not exceed it.
    peer: str | None = None
    at_most: float | None = None
    #: Larger is better, and the ratio should be at least that much instead.
    at_least: float | None = None

    def met(self, result: float) -> bool:
        """Whether such a ratio, or metric, is as it should be."""
        return (self.at_most is None or result <= self.at_most) and (
            self.at_least is None or result >= self.at_least
        )


@dataclass(frozen=True)
class Case:
    """One thing to measure: ``run(contestant)`` measures it once, in a fresh process, and returns metrics."""

    name: str
    title: str
    #: The unit of each metric.
    units: Mapping[str, str]
    contestants: Sequence[str]
    run: Callable[[str], Mapping[str, float]]
    aims: Sequence[Aim] = ()
    #: Not more rounds than this, for what takes long.
    rounds: int | None = None
    #: What a reader of the table has to know.
    note: str = ""
    #: A shorter form, for a first look.
    quick: Case | None = None


@dataclass
class Outcome:
    """The results of a case, a list of one value for each round."""

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
        """The median of the ratios of each round: what disturbs a round disturbs both of its sides.

        Of an aim without a peer, the median of the metric.
        """
        if aim.peer is None:
            return self.median(aim.ours, aim.metric)
        pairs = zip(self.values[aim.ours][aim.metric], self.values[aim.peer][aim.metric])
        return statistics.median(ours / peer for ours, peer in pairs)


def measure(case: Case, rounds: int, say: Callable[[str], object]) -> Outcome:
    """Run all contestants in turn, as many rounds as asked or fewer, every other round in reverse order."""
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
    """p50 and p99 in microseconds, and calls per second, of the durations of calls made one by one."""
    ordered = sorted(seconds)
    return {
        "p50": ordered[len(ordered) // 2] * 1e6,
        "p99": ordered[len(ordered) * 99 // 100] * 1e6,
        "rate": len(ordered) / sum(ordered),
    }
