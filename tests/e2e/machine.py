"""The traces of a test runtime on the machine, and their removal. Each has the name of the runtime's directory.

Run as a program, this module is a guard. It reads such a directory from its standard input, and waits for the end
of the input, which comes when the other process ends for any reason. Then it removes the traces.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.kubernetes import host

__all__ = [
    "PREFIX",
    "Guard",
    "block_device",
    "clean_up",
    "forget_images",
    "interface",
    "shared_files",
    "traces",
    "unmount",
    "wait_for",
]

#: The prefix of the directories' names. All are in /tmp, because the paths of sockets must be short.
PREFIX = "nri-e2e-"

TIMEOUT = 60.0
SOURCE = Path(__file__).resolve().parents[2]
CGROUPS = Path("/sys/fs/cgroup")
INTERFACES = Path("/sys/class/net")
# libcni's files about each pod; their directory cannot be configured.
NETWORKS = Path("/var/lib/cni/results")
# The same for the libraries of CRI-O: files about the contents of images.
BLOBS = Path("/var/lib/containers/cache")
# Directories in which runtimes and network plugins have files by default.
SHARED = ("/run", "/run/containerd", "/run/crio", "/var/lib", "/opt", "/etc")
MNT_DETACH = 2


def mounts(root: Path) -> list[str]:
    """The mounts on and below a directory."""
    table = Path("/proc/self/mounts").read_text().splitlines()
    places = [line.split()[1] for line in table]
    return [place for place in places if f"{place}/".startswith(f"{root}/")]


def cgroups(root: Path) -> list[Path]:
    """The top cgroup in each hierarchy."""
    return [
        path for path in [CGROUPS / root.name, *CGROUPS.glob(f"*/{root.name}")] if path.exists()
    ]


def processes(root: Path, groups: Iterable[Path]) -> list[int]:
    """The processes with the directory in their arguments, and those in the cgroups, without this process."""
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


def interface(root: Path, suffix: str) -> str:
    """A name for a network interface, which has at most 15 characters."""
    return f"nri{root.name[-8:]}{suffix}"


def interfaces(root: Path) -> list[str]:
    return [path.name for path in INTERFACES.glob(interface(root, "*"))]


def networks(root: Path) -> list[Path]:
    """libcni's files about pods whose network namespaces exist."""
    found = []
    for path in NETWORKS.glob("*"):
        with contextlib.suppress(FileNotFoundError):
            if str(root) in path.read_text():
                found.append(path)
    return found


def traces(root: Path) -> list[str]:
    """The traces outside the directory."""
    groups = cgroups(root)
    found = [f"process {pid}" for pid in processes(root, groups)]
    found += [f"mount {mount}" for mount in mounts(root)]
    found += [f"cgroup {group}" for group in groups]
    found += [f"interface {name}" for name in interfaces(root)]
    return found + [f"file {path}" for path in networks(root)]


def unmount(root: Path) -> None:
    """Unmount all mounts on and below a directory."""
    for mount in sorted(mounts(root), reverse=True):
        # Not by the program umount, which keeps files about mounts.
        ctypes.CDLL(None).umount2(mount.encode(), MNT_DETACH)


def clean_up(root: Path) -> None:
    """End the processes, and remove all traces, including the directory. Idempotent.

    Raises ValueError for a directory that does not belong to the tests.
    """
    if root.parent != Path("/tmp") or not root.name.startswith(PREFIX):
        raise ValueError(f"{str(root)!r} is no directory of a runtime of the tests")
    groups = cgroups(root)
    for pid in processes(root, groups):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not processes(root, groups))
    unmount(root)
    for group in groups:
        # From the innermost: only a cgroup without processes and children can be removed.
        for directory, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
    for name in interfaces(root):
        subprocess.run(["ip", "link", "del", name], check=False)
    for path in networks(root):
        path.unlink()
    _remove_empty(NETWORKS)
    host.restore(root)
    shutil.rmtree(root, ignore_errors=True)


def forget_images() -> None:
    """Remove the cache of CRI-O's libraries, whose place cannot be configured, unless another program uses it."""
    for path in BLOBS.glob("blob-info-cache-*"):
        path.unlink()
    _remove_empty(BLOBS)


def _remove_empty(directory: Path) -> None:
    """Remove an empty directory, and its parent if that is empty, too."""
    with contextlib.suppress(OSError):
        directory.rmdir()
        directory.parent.rmdir()


def block_device() -> Path | None:
    """A block device whose use can be throttled; None if there is none."""
    devices = (Path("/dev") / path.name for path in sorted(Path("/sys/block").iterdir()))
    return next((path for path in devices if path.is_block_device()), None)


def shared_files() -> set[str]:
    """The files in the directories that runtimes share, which they use unless configured otherwise.

    Directories that are removed when empty are left out, because other tests like these may use them at this time.
    """
    found: set[str] = set()
    for place in SHARED:
        with contextlib.suppress(FileNotFoundError):
            found.update(str(path) for path in Path(place).iterdir())
    return found - {str(NETWORKS.parent), str(BLOBS.parent)}


def wait_for(condition: Callable[[], bool], timeout: float = TIMEOUT) -> None:
    give_up = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"not within {timeout} s")
        time.sleep(0.02)


class Guard:
    """A process that cleans up after this process, if this process cannot."""

    def __init__(self, root: Path) -> None:
        # A signal from the terminal must not reach the guard.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.machine"],
            cwd=SOURCE, stdin=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdin is not None
        # As an argument, the directory would mark the guard as a process to end.
        self._process.stdin.write(f"{root}\n".encode())
        self._process.stdin.flush()

    def close(self) -> None:
        """Let the guard see that no traces remain."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(TIMEOUT)


def main() -> None:
    name = sys.stdin.readline().strip()
    sys.stdin.read()
    if name and Path(name).exists():
        clean_up(Path(name))


if __name__ == "__main__":
    main()
