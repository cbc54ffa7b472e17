"""What a runtime of the tests leaves on the machine, and how it goes. All of it has the name of its directory.

Run as a program, this is a guard: it takes such a directory from its standard input, waits for the end of that,
which comes with the end of the process at the other side, however it ends, and then removes what is left.
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

#: What the names of the directories begin with; all of them are in /tmp, as the paths of sockets must be short.
PREFIX = "nri-e2e-"

TIMEOUT = 60.0
SOURCE = Path(__file__).resolve().parents[2]
CGROUPS = Path("/sys/fs/cgroup")
INTERFACES = Path("/sys/class/net")
# What libcni remembers of each pod; the place cannot be configured.
NETWORKS = Path("/var/lib/cni/results")
# The same of the libraries of CRI-O, of the contents of images.
BLOBS = Path("/var/lib/containers/cache")
# Where runtimes and network plugins have something by default.
SHARED = ("/run", "/run/containerd", "/run/crio", "/var/lib", "/opt", "/etc")
MNT_DETACH = 2


def mounts(root: Path) -> list[str]:
    """The mounts at a directory, and below it."""
    table = Path("/proc/self/mounts").read_text().splitlines()
    places = [line.split()[1] for line in table]
    return [place for place in places if f"{place}/".startswith(f"{root}/")]


def cgroups(root: Path) -> list[Path]:
    """The top cgroups, one in each hierarchy."""
    return [
        path for path in [CGROUPS / root.name, *CGROUPS.glob(f"*/{root.name}")] if path.exists()
    ]


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


def interface(root: Path, suffix: str) -> str:
    """A name for a network interface, which has room for 15 characters."""
    return f"nri{root.name[-8:]}{suffix}"


def interfaces(root: Path) -> list[str]:
    return [path.name for path in INTERFACES.glob(interface(root, "*"))]


def networks(root: Path) -> list[Path]:
    """What is remembered of pods whose network namespaces are there."""
    found = []
    for path in NETWORKS.glob("*"):
        with contextlib.suppress(FileNotFoundError):
            if str(root) in path.read_text():
                found.append(path)
    return found


def traces(root: Path) -> list[str]:
    """What there is of it outside of the directory."""
    groups = cgroups(root)
    found = [f"process {pid}" for pid in processes(root, groups)]
    found += [f"mount {mount}" for mount in mounts(root)]
    found += [f"cgroup {group}" for group in groups]
    found += [f"interface {name}" for name in interfaces(root)]
    return found + [f"file {path}" for path in networks(root)]


def unmount(root: Path) -> None:
    """Unmount all that is mounted at a directory, and below it."""
    for mount in sorted(mounts(root), reverse=True):
        # Not by the program of that name, which has files of its own.
        ctypes.CDLL(None).umount2(mount.encode(), MNT_DETACH)


def clean_up(root: Path) -> None:
    """End the processes, and remove all else, the directory included. Idempotent.

    Raises ValueError for anything but a directory of the tests.
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
        # From the innermost: a cgroup without processes and children can be removed.
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
    """Remove what CRI-O's libraries keep in a place that cannot be configured, if nobody else does."""
    for path in BLOBS.glob("blob-info-cache-*"):
        path.unlink()
    _remove_empty(BLOBS)


def _remove_empty(directory: Path) -> None:
    """Also the one that it is in."""
    with contextlib.suppress(OSError):
        directory.rmdir()
        directory.parent.rmdir()


def block_device() -> Path | None:
    """A device whose use can be throttled, if there is one."""
    devices = (Path("/dev") / path.name for path in sorted(Path("/sys/block").iterdir()))
    return next((path for path in devices if path.is_block_device()), None)


def shared_files() -> set[str]:
    """What is in the directories that runtimes share, unless they are configured as here.

    Not what goes when it is empty, which it is not while other tests like these run.
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
    """A process that cleans up after this one, if this one does not come to it."""

    def __init__(self, root: Path) -> None:
        # No signal that a terminal sends to all reaches it.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.machine"],
            cwd=SOURCE, stdin=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdin is not None
        # Not as an argument, or it would be one of the processes to end.
        self._process.stdin.write(f"{root}\n".encode())
        self._process.stdin.flush()

    def close(self) -> None:
        """Let it see that nothing is left."""
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
