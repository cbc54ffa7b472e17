"""``python -m tests.soak [--minutes N] [--faults N] [--seed N] [--runtime ours|go|both] [--kinds KIND ...]``

Prints the seed first, a line every minute, and the figures by kind. The runtimes share the minutes. ``--samples
FILE`` writes the memory, threads and descriptors as comma-separated values, ``--plot FILE`` as a picture. A
violation of an invariant ends the soak, and the output names the fault.
"""

from __future__ import annotations

import argparse
import csv
import logging
import platform
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from nri_sync.testing import FAULT_KINDS
from tests.soak.figures import Sample, table
from tests.soak.harness import Soak, check_memory, soaking
from tests.soak.plot import draw
from tests.soak.runtimes import RUNTIMES

__all__ = ["main"]

# Seconds between two lines of output.
_REPORT = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="for all runtimes together")
    parser.add_argument(
        "--faults", type=int, default=sys.maxsize, help="end after so many with each"
    )
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--runtime", choices=(*RUNTIMES, "both"), default="both")
    parser.add_argument("--kinds", nargs="+", choices=FAULT_KINDS, default=FAULT_KINDS)
    parser.add_argument("--samples", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    options = parser.parse_args()
    # The ends of thousands of sessions are logged, but not printed.
    logger = logging.getLogger("nri_sync")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    runs: dict[str, Sequence[Sample]] = {}
    runtimes = list(RUNTIMES) if options.runtime == "both" else [options.runtime]
    for runtime in runtimes:
        name = f"Python {platform.python_version()}, runtime {runtime}"
        print(f"{name}, seed {options.seed}", flush=True)
        end = time.monotonic() + options.minutes * 60 / len(runtimes)
        with (
            tempfile.TemporaryDirectory(prefix="nri") as directory,
            soaking(runtime, Path(directory), options.seed) as soak,
        ):
            runs[name] = soak.samples
            _run(soak, options.kinds, options.faults, end)
    if options.samples is not None:
        _write(runs, options.samples)
    if options.plot is not None:
        draw(runs, options.plot)


def _run(soak: Soak, kinds: Sequence[str], faults: int, end: float) -> None:
    due = 0.0

    def going(so_far: int) -> bool:
        nonlocal due
        now = time.monotonic()
        if now >= due:
            due = now + _REPORT
            print(_line(soak.samples[-1]), flush=True)
        return so_far < faults and now < end

    try:
        soak.run(kinds, going)
    finally:
        print(*table(soak.figures), sep="\n", flush=True)
        print(f"{len(soak.refusals)} starts repeated", *soak.refusals[:20], sep="\n", flush=True)
        print(f"{soak.offsets:,} offsets; {_line(soak.samples[-1])}", flush=True)
    check_memory(soak.samples)


def _line(sample: Sample) -> str:
    other = f", {sample.other / 1e6:.1f} MB in the runtime's process" if sample.other else ""
    return (
        f"{sample.at:.0f} s: {sample.faults:,} faults, {sample.threads} threads,"
        f" {sample.descriptors} descriptors, {sample.resident / 1e6:.1f} MB{other}"
    )


def _write(runs: dict[str, Sequence[Sample]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", *Sample._fields])
        for name, samples in runs.items():
            writer.writerows([name, *sample] for sample in samples)


if __name__ == "__main__":
    main()
