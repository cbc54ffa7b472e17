"""Counters that Linux keeps of a process."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cpu_seconds", "status", "switches"]


def status(pid: int, field: str) -> int:
    return _field(Path(f"/proc/{pid}/status"), field)


def _field(path: Path, field: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise KeyError(field)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def switches(pid: int) -> dict[int, int]:
    """The number of context switches of each thread, voluntary or not. A thread that runs at all has one."""
    return {
        int(task.name): _field(task / "status", "voluntary_ctxt_switches")
        + _field(task / "status", "nonvoluntary_ctxt_switches")
        for task in Path(f"/proc/{pid}/task").iterdir()
    }
