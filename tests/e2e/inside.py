"""The real properties of a container, read on the host from its process, not from a request."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import time
from pathlib import Path

from tests.e2e.cri import Container

__all__ = ["CGROUP2", "UNLIMITED", "Inside"]

CGROUPS = Path("/sys/fs/cgroup")
CGROUP2 = (CGROUPS / "cgroup.controllers").exists()

_IOPRIO_GET = {"x86_64": 252, "aarch64": 31}
_IOPRIO_WHO_PROCESS = 1

START_TIMEOUT = 20.0
UNLIMITED = -1


class Inside:
    """A running container."""

    def __init__(self, container: Container) -> None:
        self.pid = container.pid
        self.proc = Path("/proc") / str(self.pid)
        # The runtime reports the start when the process is about to execute the program.
        give_up = time.monotonic() + START_TIMEOUT
        while not self._is_the_program():
            if time.monotonic() > give_up:
                raise TimeoutError(f"process {self.pid} has not become the probe")
            time.sleep(0.005)

    def _is_the_program(self) -> bool:
        with contextlib.suppress(OSError):
            # The process gets its environment last.
            return os.readlink(self.proc / "exe").endswith("/probe") and "PATH" in self.env
        return False

    @property
    def env(self) -> dict[str, str]:
        entries = (self.proc / "environ").read_text().split("\0")
        return dict(entry.partition("=")[::2] for entry in entries if entry)

    @property
    def args(self) -> list[str]:
        return (self.proc / "cmdline").read_text().split("\0")[:-1]

    def path(self, path: str) -> Path:
        """The host's path of a file in the container."""
        return self.proc / "root" / path.lstrip("/")

    @property
    def mounts(self) -> dict[str, set[str]]:
        """The options of each mount, by its target."""
        lines = (self.proc / "mounts").read_text().splitlines()
        return {line.split()[1]: set(line.split()[3].split(",")) for line in lines}

    def limits(self, name: str) -> list[str]:
        """The soft and hard limit, as in /proc/PID/limits."""
        for line in (self.proc / "limits").read_text().splitlines():
            if line.startswith(name):
                return line[len(name) :].split()[:2]
        raise KeyError(name)

    def namespace(self, kind: str) -> str:
        return os.readlink(self.proc / "ns" / kind)

    def status(self, field: str) -> str:
        for line in (self.proc / "status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return line.split(":")[1].strip()
        raise KeyError(field)

    @property
    def oom_score_adj(self) -> int:
        return int((self.proc / "oom_score_adj").read_text())

    @property
    def io_priority(self) -> tuple[int, int]:
        """The class and the level."""
        libc = ctypes.CDLL(None)
        value = libc.syscall(_IOPRIO_GET[platform.machine()], _IOPRIO_WHO_PROCESS, self.pid)
        return value >> 13, value & 7

    def cgroup_directory(self, controller: str) -> Path:
        for line in (self.proc / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if CGROUP2 and not controllers:
                return CGROUPS / path.lstrip("/")
            if controller in controllers.split(","):
                return CGROUPS / controllers / path.lstrip("/")
        raise KeyError(controller)

    def _cgroup(self, controller: str, v1: str, v2: str) -> str:
        name = v2 if CGROUP2 else v1
        return (self.cgroup_directory(controller) / name).read_text().strip()

    @property
    def memory_limit(self) -> int:
        return _number(self._cgroup("memory", "memory.limit_in_bytes", "memory.max"))

    @property
    def cpu_shares(self) -> int | None:
        """The shares; None on cgroup v2, where a formula that has changed over time makes a weight of them."""
        return None if CGROUP2 else int(self._cgroup("cpu", "cpu.shares", ""))

    @property
    def cpu_quota(self) -> tuple[int, int]:
        """The quota and the period."""
        if CGROUP2:
            quota, period = self._cgroup("cpu", "", "cpu.max").split()
            return _number(quota), int(period)
        return (
            int(self._cgroup("cpu", "cpu.cfs_quota_us", "")),
            int(self._cgroup("cpu", "cpu.cfs_period_us", "")),
        )

    @property
    def cpus(self) -> str:
        return self._cgroup("cpuset", "cpuset.cpus", "cpuset.cpus")

    @property
    def memory_nodes(self) -> str:
        return self._cgroup("cpuset", "cpuset.mems", "cpuset.mems")

    @property
    def pids_limit(self) -> int:
        return _number(self._cgroup("pids", "pids.max", "pids.max"))

    def read_limit(self, device: Path) -> int:
        """The limit for reading from a block device, in bytes a second."""
        number = device.stat().st_rdev
        text = self._cgroup("blkio", "blkio.throttle.read_bps_device", "io.max")
        for line in text.splitlines():
            name, limit = line.split()[:2]
            if name == f"{os.major(number)}:{os.minor(number)}":
                return int(limit.rpartition("=")[2])
        raise KeyError(device)


def _number(text: str) -> int:
    return UNLIMITED if text == "max" else int(text)
