"""Checks of a node that need no NRI request: the socket file, the listening process, the launched plugins.

``root`` is the root of the node's file system: ``/``, or the place where a container has mounted it.
"""

from __future__ import annotations

import enum
import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from nri_sync import api
from nri_sync.net.sockets import PeerCredentials

__all__ = [
    "Finding",
    "Level",
    "check_launched",
    "check_socket",
    "describe_listener",
    "refused",
]

_PLUGINS = "opt/nri/plugins"


class Level(enum.Enum):
    OK = "ok"
    #: Information that is neither good nor bad.
    INFO = "info"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass
class Finding:
    """One line of the list: the check, its result, and the advice."""

    level: Level
    check: str
    text: str
    advice: str = ""
    #: The duration of the check.
    seconds: float | None = None


def check_socket(path: str) -> Finding:
    """Whether the path is a socket that this user may connect to. Does not connect."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return Finding(Level.PROBLEM, "socket", *_missing(path))
    except OSError as error:
        return Finding(
            Level.PROBLEM, "socket", f"{path}: {error.strerror}",
            f"user {os.geteuid()} may not reach the path: run as root, or as a user with the permission",
        )  # fmt: skip
    if stat.S_ISDIR(mode):
        return Finding(
            Level.PROBLEM, "socket", f"{path} is a directory",
            "a container that mounted the socket before there was one has created it: remove it, and mount "
            f"the directory {Path(path).parent} instead",
        )  # fmt: skip
    if not stat.S_ISSOCK(mode):
        return Finding(
            Level.PROBLEM, "socket", f"{path} is no socket", "remove it, and restart the runtime"
        )
    if not os.access(path, os.W_OK):
        return Finding(
            Level.PROBLEM, "socket", f"user {os.geteuid()} may not connect to {path}",
            "run as root, or as a user with write permission",
        )  # fmt: skip
    if _is_mounted(path):
        return Finding(
            Level.WARNING, "socket", f"{path} is mounted by itself",
            "when the runtime restarts, it creates a new socket, which this mount does not show: mount the "
            f"directory {Path(path).parent} instead",
        )  # fmt: skip
    return Finding(Level.OK, "socket", f"{path} exists, and this user may connect")


def _missing(path: str) -> tuple[str, str]:
    directory = Path(path).parent
    if os.path.islink(path):
        return f"{path} is a broken link", f"it leads to {os.readlink(path)}: correct it"
    if not directory.is_dir():
        return (
            f"there is no {path}, and no directory {directory}",
            "does this node have a runtime with NRI enabled? In a container: mount that directory",
        )
    return (
        f"there is no {path}",
        "NRI is disabled, the runtime is not running, or it listens elsewhere: see its configuration",
    )


def _is_mounted(path: str) -> bool:
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    real = os.path.realpath(path)
    return any(line.split(" ")[4] == real for line in lines if line.count(" ") > 4)


def describe_listener(credentials: PeerCredentials | None) -> Finding:
    """The process that listens, from the kernel's credentials of the other end of a connection."""
    if credentials is None or credentials.pid <= 0:
        return Finding(
            Level.INFO,
            "listener",
            "a process that this process cannot see, for example a process of the node, seen from a container",
        )
    pid = credentials.pid
    process = Path(f"/proc/{pid}")
    name = _read(process / "comm").strip() or "unknown"
    try:
        program = f", {os.readlink(process / 'exe')}"
    except OSError:
        program = ""
    text = f"{name}, pid {pid}, user {credentials.uid}{program}"
    return Finding(Level.OK, "listener", text)


def refused(path: str, error: OSError) -> Finding:
    """The reason why connecting has failed."""
    if error.errno == errno.ECONNREFUSED:
        return Finding(
            Level.PROBLEM, "listener", f"no process listens on {path}",
            "an earlier runtime has left it behind: start the runtime. In a container that mounts the socket "
            f"itself, mount the directory {Path(path).parent}, and recreate the container",
        )  # fmt: skip
    if isinstance(error, (TimeoutError, socket.timeout)):
        return Finding(
            Level.PROBLEM, "listener", f"the listener on {path} accepts no connections",
            "the runtime hangs, or other plugins fill its queue: see its log",
        )  # fmt: skip
    return Finding(
        Level.PROBLEM, "listener", f"{path}: {error.strerror or error}", "see the socket, above"
    )


def check_launched(root: Path, name: str, idx: str) -> list[Finding]:
    """The plugins that the runtime launches, with a warning if one of them has the given name."""
    directory = root / _PLUGINS
    try:
        names = sorted(path.name for path in directory.iterdir())
    except OSError:
        return []
    if not names:
        return []
    found = [Finding(Level.INFO, "launched", f"the runtime launches {', '.join(names)}")]
    if api.full_name(idx, name) in names:
        found[0] = Finding(
            Level.WARNING, "launched", f"the runtime also launches a plugin {idx}-{name}",
            "a runtime accepts both plugins, and they may interfere with each other: remove it from "
            f"{directory}, or do not start another",
        )  # fmt: skip
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
