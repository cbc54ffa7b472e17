"""The directory that containerd lays out for a container: its specification, its root file system, its process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.shim import task_pb2

__all__ = ["Bundle", "Stat", "kill_session", "session"]

# The kernel removes a killed process in less, unless a device keeps it.
KILL_TIMEOUT = 5.0
# Of utime and stime in /proc/PID/stat.
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Stat:
    """A process, as in /proc/PID/stat. Times are in seconds, memory is in bytes."""

    pid: int
    state: str
    session: int
    user: float
    system: float
    memory: int
    #: In ticks since the machine started; with the PID it names one process only.
    started: int

    @staticmethod
    def of(pid: int) -> Stat | None:
        """None when there is no such process."""
        try:
            text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return None
        # See proc(5). The second field, a name, may have spaces and parentheses; the third is fields[0].
        fields = text.rpartition(")")[2].split()
        return Stat(
            pid=pid,
            state=fields[0],
            session=int(fields[3]),
            user=int(fields[11]) / TICKS,
            system=int(fields[12]) / TICKS,
            memory=int(fields[21]) * PAGE,
            started=int(fields[19]),
        )


def session(leader: int) -> list[Stat]:
    """The processes of a session, without those that have ended and wait for their parent."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    found = (Stat.of(pid) for pid in pids)
    return [stat for stat in found if stat and stat.session == leader and stat.state not in "ZX"]


def kill_session(leader: int) -> None:
    """Kill all processes of a session. Raises TimeoutError when one does not end."""
    give_up = time.monotonic() + KILL_TIMEOUT
    while True:
        processes = session(leader)
        if not processes:
            return
        for stat in processes:
            try:
                os.kill(stat.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if time.monotonic() > give_up:
            raise TimeoutError(f"processes {[stat.pid for stat in processes]} do not end")
        time.sleep(0.01)


class Bundle:
    """A bundle of the OCI runtime specification."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._process = path / "init.json"
        self._address = path / "address"

    def program(self) -> dict[str, Any]:
        """The container's program, as ``init.py`` takes it.

        Raises ValueError where the specification lacks a value, or asks for a terminal.
        """
        try:
            spec = json.loads((self.path / "config.json").read_text())
            process, user = spec["process"], spec["process"].get("user", {})
            if process.get("terminal"):
                raise ValueError("this shim has no terminals: run the container without -t")
            root = self.path / spec["root"]["path"]  # the path itself where it is absolute
            return {
                "root": str(root.resolve()),
                "args": [str(arg) for arg in process["args"]],
                "env": dict(entry.partition("=")[::2] for entry in process.get("env", [])),
                "cwd": process.get("cwd") or "/",
                "uid": user.get("uid", 0),
                "gid": user.get("gid", 0),
                "groups": user.get("additionalGids", []),
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"config.json of {self.path} is no specification: {error}") from error

    def mount(self, mounts: Iterable[task_pb2.Mount]) -> None:
        """Mount the root file system, as the snapshotter says."""
        target = self.path / "rootfs"
        target.mkdir(exist_ok=True)
        for mount in mounts:
            options = ["-o", ",".join(mount.options)] if mount.options else []
            _run("mount", "-t", mount.type, *options, mount.source, str(target))

    def unmount(self) -> None:
        """Undo all mounts. May be repeated."""
        target = str(self.path.resolve() / "rootfs")
        for _ in range(_mounts().count(target)):
            _run("umount", target)

    def record_process(self, pid: int) -> None:
        """Write down the container's process, for :meth:`clean_up`."""
        stat = Stat.of(pid)
        if stat is not None:
            self._process.write_text(json.dumps({"pid": pid, "started": stat.started}))

    def record_socket(self, path: str) -> None:
        """Write down the shim's socket, for :meth:`clean_up`."""
        self._address.write_text(path)

    def clean_up(self) -> int:
        """End the processes of a shim that is gone, unmount, and remove its socket. Returns the PID, or 0."""
        pid = 0
        if self._process.exists():
            recorded = json.loads(self._process.read_text())
            pid = int(recorded["pid"])
            stat = Stat.of(pid)
            # Another process may have the PID by now.
            if stat is not None and stat.started == recorded["started"]:
                kill_session(pid)
        self.unmount()
        if self._address.exists():
            Path(self._address.read_text()).unlink(missing_ok=True)
        return pid


def _mounts() -> list[str]:
    """The mount points of this mount namespace. See proc(5): the fifth field, with octal escapes."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = (line.split()[4] for line in lines)
    return [re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point) for point in points]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
