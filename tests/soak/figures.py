"""The figures of a soak: the effects of the faults, by kind, and the resources of the process over time."""

from __future__ import annotations

import dataclasses
import gc
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["Figures", "Sample", "table", "usage"]


class Sample(NamedTuple):
    """The process at one idle moment of the soak."""

    #: Seconds since the beginning.
    at: float
    faults: int
    threads: int
    descriptors: int
    #: The resident memory, in bytes.
    resident: int
    #: The resident memory of the runtime, if it is another process.
    other: int


def usage(began: float, faults: int, other: int) -> Sample:
    """Collect garbage, and take a sample."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Sample(
        at=time.monotonic() - began,
        faults=faults,
        threads=len(os.listdir("/proc/self/task")),
        descriptors=len(os.listdir("/proc/self/fd")) - 1,  # without the descriptor of listdir()
        resident=pages * os.sysconf("SC_PAGE_SIZE"),
        other=other,
    )


@dataclasses.dataclass
class Figures:
    """The figures of one kind of fault."""

    faults: int = 0
    #: Faults whose byte was sent.
    struck: int = 0
    #: The numbers of sessions that could not start, that were lost, and that the plugin has stopped.
    not_started: int = 0
    lost: int = 0
    stopped: int = 0
    #: The duration of the slowest call, in seconds.
    slowest: float = 0.0
    #: The growth of the resident memory, in bytes.
    growth: int = 0


def table(figures: dict[str, Figures]) -> Iterable[str]:
    """The lines of a Markdown table."""
    yield "| fault | injected | struck | not started | lost | stopped | slowest call, s | growth, bytes a fault |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    total = Figures()
    for kind, row in figures.items():
        yield _row(kind, row)
        for name in ("faults", "struck", "not_started", "lost", "stopped", "growth"):
            setattr(total, name, getattr(total, name) + getattr(row, name))
        total.slowest = max(total.slowest, row.slowest)
    yield _row("all", total)


def _row(kind: str, row: Figures) -> str:
    counts = (row.faults, row.struck, row.not_started, row.lost, row.stopped)
    growth = row.growth / row.faults if row.faults else 0.0
    return f"| {kind} | {' | '.join(f'{n:,}' for n in counts)} | {row.slowest:.2f} | {growth:.0f} |"
