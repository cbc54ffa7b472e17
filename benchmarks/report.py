"""Writes the results as a page of the documentation, with plots."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.measure import Case, Outcome

__all__ = ["columns", "machine", "page", "plots", "summary", "table"]


def machine() -> str:
    """A short description of the machine."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    # Distributions and container images build Python with profile-guided optimization; a plain build has none.
    build = "the distribution's" if sys.base_prefix == "/usr" else "not the distribution's"
    return (
        f"{os.cpu_count()} logical cores of {model}, Linux {platform.release()}, "
        f"{platform.python_implementation()} {platform.python_version()} ({build}); "
        f"load average at the end {os.getloadavg()[0]:.1f}"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(outcome: Outcome) -> list[str]:
    """Medians, spreads and ratios of a case, as Markdown."""
    case = outcome.case
    heads = _heads(case)
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name in case.contestants:
        cells = [_cell(outcome, name, metric) for metric in case.units]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines + _aims(outcome)


def columns(outcome: Outcome) -> list[str]:
    """Like table(), but with a row for each metric, for cases with many metrics."""
    case = outcome.case
    lines = [f"| | {' | '.join(case.contestants)} |", "|---" * (len(case.contestants) + 1) + "|"]
    for head, metric in zip(_heads(case), case.units):
        cells = [_cell(outcome, name, metric) for name in case.contestants]
        lines.append(f"| {head} | {' | '.join(cells)} |")
    return lines + _aims(outcome)


def _heads(case: Case) -> list[str]:
    return [f"{metric} ({unit})" if unit else metric for metric, unit in case.units.items()]


def _cell(outcome: Outcome, contestant: str, metric: str) -> str:
    median, spread = outcome.median(contestant, metric), outcome.spread(contestant, metric)
    return f"{_number(median)} ± {_number(spread)}"


def _aims(outcome: Outcome) -> list[str]:
    lines = []
    for aim in outcome.case.aims:
        result = outcome.result(aim)
        if aim.peer is None:
            shown = f"{aim.metric}, {aim.ours}: **{_number(result)}**"
        else:
            shown = f"{aim.metric}, {aim.ours} / {aim.peer}: **{result:.2f}**"
        met = "met" if aim.met(result) else "not met"
        if aim.at_most is not None:
            shown += f" (aim: at most {aim.at_most}, {met})"
        if aim.at_least is not None:
            shown += f" (aim: at least {aim.at_least}, {met})"
        lines += ["", shown]
    return lines


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    """All ratios and figures that have an aim, in one table."""
    lines = ["| case | figure | result | aim | met |", "|---|---|---|---|---|"]
    for outcome in outcomes:
        for aim in outcome.case.aims:
            if aim.at_most is None and aim.at_least is None:
                continue
            result = outcome.result(aim)
            bound = (
                f"at most {aim.at_most:g}"
                if aim.at_most is not None
                else f"at least {aim.at_least:g}"
            )
            unit = outcome.case.units[aim.metric]
            figure = f"{aim.metric}, {aim.ours}"
            if aim.peer is None:
                shown = f"{_number(result)} {unit}".rstrip()
            else:
                figure, shown = f"{figure} / {aim.peer}", f"{result:.2f}"
            met = "yes" if aim.met(result) else "no"
            lines.append(f"| {outcome.case.name} | {figure} | {shown} | {bound} | {met} |")
    return lines


def page(outcomes: Sequence[Outcome], rounds: int, pictures: Iterable[str]) -> str:
    """The whole page."""
    lines = [
        "# Measurements",
        "",
        "Written by `make bench`; do not edit. Every contestant is measured in turn, in fresh processes, and",
        "the numbers are medians over the rounds, with half of the range between the quartiles. A ratio is",
        "the median of the ratios of the rounds. Absolute numbers mean little on a shared machine.",
        "",
        f"Machine: {machine()}. Rounds: {rounds}, unless a case says otherwise.",
        "",
    ]
    lines += ["## Aims", "", *summary(outcomes), ""]
    for picture in pictures:
        lines += [f"![{picture}]({picture})", ""]
    for outcome in outcomes:
        lines += [f"## {outcome.case.title}", "", *table(outcome), ""]
        notes = [outcome.case.note] if outcome.case.note else []
        if outcome.rounds != rounds:
            notes.append(f"Rounds: {outcome.rounds}.")
        if notes:
            lines += [" ".join(notes), ""]
    return "\n".join(lines)


def plots(outcomes: Sequence[Outcome], folder: Path) -> list[str]:
    """Draw the latencies; returns the names of the pictures. Needs matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "nri_sync"
    from matplotlib import pyplot

    names = []
    for metric, file_name in (("p50", "latency-p50.svg"), ("p99", "latency-p99.svg")):
        cases = [outcome for outcome in outcomes if metric in outcome.case.units]
        if not cases:
            continue
        figure, axes = pyplot.subplots(figsize=(9, 0.9 + 0.75 * len(cases)))
        labels = []
        position = 0.0
        colours: dict[str, str] = {}
        for outcome in reversed(cases):
            for name in reversed(outcome.case.contestants):
                colour = colours.setdefault(name, f"C{len(colours)}")
                axes.barh(
                    position,
                    outcome.median(name, metric),
                    xerr=outcome.spread(name, metric),
                    color=colour,
                )
                labels.append((position, f"{outcome.case.name}: {name}"))
                position += 1
            position += 0.6
        axes.set_yticks([at for at, _ in labels], [text for _, text in labels], fontsize=7)
        axes.set_xscale("log")
        axes.set_xlabel(f"{metric} in microseconds, median of the rounds")
        figure.tight_layout()
        figure.savefig(folder / file_name, metadata={"Date": None})
        pyplot.close(figure)
        names.append(file_name)
    return names
