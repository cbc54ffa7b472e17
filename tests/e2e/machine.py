"""What tests could leave behind on a machine: traces of their own runtimes, and files where others keep theirs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["cgroups", "mounts", "processes", "shared_files"]

CGROUPS = Path("/sys/fs/cgroup")
# Where runtimes and network plugins have something by default.
SHARED = ("/run", "/run/containerd", "/run/crio", "/var/lib", "/var/lib/cni", "/opt", "/etc")


def mounts(root: Path) -> list[str]:
    """The mounts below a directory."""
    table = Path("/proc/self/mounts").read_text().splitlines()
    places = [line.split()[1] for line in table]
    return [place for place in places if place.startswith(f"{root}/")]


def cgroups(name: str) -> list[Path]:
    """The cgroups of that name at the top, one in each hierarchy."""
    return [path for path in [CGROUPS / name, *CGROUPS.glob(f"*/{name}")] if path.exists()]


def processes(root: Path, groups: Iterable[Path]) -> list[int]:
    """Those with the directory in their arguments, and those in the cgroups; not this one."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(root).encode() in (path / "cmdline").read_bytes():
                found.add(int(path.name))
    for group in groups:
        for procs in group.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                found.update(int(pid) for pid in procs.read_text().split())
    return sorted(found - {os.getpid()})


def shared_files() -> set[str]:
    """What is in the directories that runtimes share, unless they are configured as here."""
    found: set[str] = set()
    for place in SHARED:
        with contextlib.suppress(FileNotFoundError):
            found.update(str(path) for path in Path(place).iterdir())
    return found
