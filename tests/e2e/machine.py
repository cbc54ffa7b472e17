"""What tests could leave behind on a machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

__all__ = ["Machine"]

# Where runtimes and network plugins have something by default.
PLACES = ("/run", "/run/containerd", "/run/crio", "/var/lib", "/var/lib/cni", "/opt", "/etc")


class Machine(NamedTuple):
    """A snapshot."""

    mounts: frozenset[str]
    cgroups: frozenset[str]
    places: frozenset[str]
    children: frozenset[str]

    @classmethod
    def now(cls) -> Machine:
        places: set[str] = set()
        for place in PLACES:
            with contextlib.suppress(FileNotFoundError):
                places.update(str(path) for path in Path(place).iterdir())
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        return cls(
            frozenset(line.split()[1] for line in mounts),
            frozenset(str(path) for path in Path("/sys/fs/cgroup").glob("*/*/")),
            frozenset(places),
            frozenset(_runtimes()),
        )

    def beyond(self, before: Machine) -> list[str]:
        """What there is that was not there before; of directories, only what is of these tests' kind."""
        found = [f"mount {mount}" for mount in self.mounts - before.mounts]
        found += [f"cgroup {group}" for group in self.cgroups - before.cgroups]
        found += [
            path
            for path in self.places - before.places
            if any(word in path for word in ("containerd", "cni", "runc", "crio", "nri"))
        ]
        found += [f"process {process}" for process in self.children - before.children]
        return sorted(found)


def _runtimes() -> set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            program = os.readlink(path / "exe")
            if "/.cache/e2e/" in program or program.endswith("/probe"):
                found.add(f"{path.name} {program}")
    return found
