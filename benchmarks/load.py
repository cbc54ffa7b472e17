"""Load on the runtime side, ours next to the Go implementation's: many plugins, containers and creations.

``make load``, or ``python -m benchmarks.load [--plugins N] [--containers N] [--creations N] [--write FOLDER]``.

The runtime is a separate process, so that its memory and CPU time can be measured. The plugins are another
process, with the stub of the Go implementation for both sides. They connect one after the other, as fast as they
can.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks import report
from benchmarks.measure import Aim, Case, Outcome, measure
from benchmarks.peers import CONTAINER, GO_RUNTIME, OURS, POD, as_json, runtime_side
from benchmarks.process import cpu_seconds, status
from tests.interop.gopeer import Peer

__all__ = ["load", "main"]

# A time limit that no step reaches, in seconds.
_LONG = 900.0


def load(kind: str, plugins: int, containers: int, creations: int) -> Mapping[str, float]:
    """One run; returns its figures."""
    state = {"make_pods": containers // 2, "make_containers": containers, "make_size": 1000}
    with runtime_side(kind, **state, request_timeout_ms=int(_LONG * 1000)) as process, Peer(
        "stubplugin", "-socket", process.socket_path, "-name", "load", "-idx", "00",
        "-count", str(plugins), "-env", "1", "-events", "createcontainer",
    ) as fleet:  # fmt: skip
        empty, cpu = status(process.pid, "VmRSS"), cpu_seconds(process.pid)
        begin = time.perf_counter()
        fleet.call("start", timeout=_LONG)
        for number in range(plugins):
            process.wait_event("connected", _LONG, name=f"{number:02d}-load{number}")
        synchronized = time.perf_counter() - begin
        cpu_synchronized = cpu_seconds(process.pid)
        peak = status(process.pid, "VmHWM")
        settled = status(process.pid, "VmRSS")
        request = {"pod": as_json(POD), "container": as_json(CONTAINER)}
        result = process.call(
            "bench",
            op="CreateContainer",
            request=request,
            count=creations,
            warmup=10,
            timeout=_LONG,
        )
        cpu_created = cpu_seconds(process.pid)
        return {
            "all synchronized": synchronized,
            "CPU of that": cpu_synchronized - cpu,
            "creation, p50": result["p50_us"] / 1e3,
            "creation, p99": result["p99_us"] / 1e3,
            "CPU of a creation": (cpu_created - cpu_synchronized) / (creations + 10) * 1e3,
            "memory before": empty / 1024,
            "most memory while synchronizing": peak / 1024,
            "memory after": settled / 1024,
            "most memory in all": status(process.pid, "VmHWM") / 1024,
        }


def _case(plugins: int, containers: int, creations: int) -> Case:
    units = {
        "all synchronized": "s",
        "CPU of that": "s",
        "creation, p50": "ms",
        "creation, p99": "ms",
        "CPU of a creation": "ms",
        "memory before": "MB",
        "most memory while synchronizing": "MB",
        "memory after": "MB",
        "most memory in all": "MB",
    }
    compared = ("all synchronized", "creation, p50", "creation, p99", "most memory in all")
    return Case(
        "load",
        f"{plugins} plugins, {containers:,} containers known to each, {creations:,} creations through all",
        units,
        (OURS, GO_RUNTIME),
        lambda kind: load(kind, plugins, containers, creations),
        [Aim(metric, OURS, GO_RUNTIME) for metric in compared],
    )


def _page(outcome: Outcome, rounds: int) -> str:
    lines = [
        "# Load on the runtime side",
        "",
        "Written by `make load`; do not edit. A runtime in a separate process, ours or the reference;",
        "plugins on the stub of the reference in another. They connect one after the other, as fast as they",
        "get in; each gets all pods and containers (of 1 kB), and adds a variable to every container",
        "that is created. The numbers are medians over the rounds, with half of the range between the",
        "quartiles; the two take turns. A ratio is the median of the ratios of the rounds.",
        "",
        f"Machine: {report.machine()}. Rounds: {rounds}.",
        "",
        f"## {outcome.case.title}",
        "",
        *report.columns(outcome),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load")
    parser.add_argument("--plugins", type=int, default=100)
    parser.add_argument("--containers", type=int, default=10_000)
    parser.add_argument("--creations", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side (default: 3)")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write load.md there")
    options = parser.parse_args()
    case = _case(options.plugins, options.containers, options.creations)
    outcome = measure(case, options.rounds, lambda line: print(line, file=sys.stderr, flush=True))
    print(f"\n{case.title}\n", *report.columns(outcome), sep="\n")
    if options.write is not None:
        (options.write / "load.md").write_text(_page(outcome, options.rounds))


if __name__ == "__main__":
    main()
