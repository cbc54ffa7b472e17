"""A picture of a soak: memory, threads and descriptors over its faults."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path

from tests.soak.figures import Sample

__all__ = ["draw"]


def draw(
    runs: dict[str, Sequence[Sample]], path: Path, *, dashed: Container[str] = frozenset()
) -> None:
    """Write a picture of the runs, each with its name; some with dashed lines. Needs matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "nri_sync"
    figure, rows = pyplot.subplots(3, 1, sharex=True, figsize=(8, 7), layout="constrained")
    for name, samples in runs.items():
        faults = [sample.faults for sample in samples]
        style = "--" if name in dashed else "-"
        rows[0].plot(faults, [sample.resident / 1e6 for sample in samples], style, label=name)
        rows[1].plot(faults, [sample.threads for sample in samples], style)
        rows[2].plot(faults, [sample.descriptors for sample in samples], style)
    for row, label in zip(rows, ("resident memory, MB", "threads", "descriptors")):
        row.set_ylabel(label)
        row.set_ylim(bottom=0)
        row.grid(alpha=0.3)
    rows[0].legend()
    rows[2].set_xlabel("faults")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
