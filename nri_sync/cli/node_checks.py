"""What a node says about NRI without being asked over the socket: files, the process that listens, configuration.

``root`` is where the file system of the node is: ``/``, or where a container has it mounted.
"""

from __future__ import annotations

import enum
import errno
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nri_sync import api
from nri_sync.errors import ConfigError
from nri_sync.kit.config.documents import read
from nri_sync.net.sockets import PeerCredentials

__all__ = [
    "Finding",
    "Level",
    "check_configuration",
    "check_launched",
    "check_socket",
    "describe_listener",
    "refused",
]

_CONTAINERD = "etc/containerd/config.toml"
_CRIO = "etc/crio/crio.conf"
_CRIO_DIRECTORY = "etc/crio/crio.conf.d"
_NRI = "io.containerd.nri.v1.nri"
_PLUGINS = "opt/nri/plugins"


class Level(enum.Enum):
    OK = "ok"
    #: Worth knowing, and neither good nor bad.
    INFO = "info"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass
class Finding:
    """One line of the list: what was looked at, what was seen, and what to do about it."""

    level: Level
    check: str
    text: str
    advice: str = ""
    #: What it has taken.
    seconds: float | None = None


def check_socket(path: str) -> Finding:
    """Whether there is a socket that this user may connect to. Does not connect."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return Finding(Level.PROBLEM, "socket", *_missing(path))
    except OSError as error:
        return Finding(
            Level.PROBLEM, "socket", f"{path}: {error.strerror}",
            f"user {os.geteuid()} may not get there: run as root, or as a user who may",
        )  # fmt: skip
    if stat.S_ISDIR(mode):
        return Finding(
            Level.PROBLEM, "socket", f"{path} is a directory",
            "a container that mounted the socket when there was none has made it: remove it, and mount "
            f"the directory {Path(path).parent} instead",
        )  # fmt: skip
    if not stat.S_ISSOCK(mode):
        return Finding(
            Level.PROBLEM, "socket", f"{path} is no socket", "remove it, and restart the runtime"
        )
    if not os.access(path, os.W_OK):
        return Finding(
            Level.PROBLEM, "socket", f"user {os.geteuid()} may not connect to {path}",
            "run as root, or as a user who may write to it",
        )  # fmt: skip
    if _is_mounted(path):
        return Finding(
            Level.WARNING, "socket", f"{path} is mounted by itself",
            "when the runtime restarts, it makes a new socket, which is not seen here: mount the "
            f"directory {Path(path).parent} instead",
        )  # fmt: skip
    return Finding(Level.OK, "socket", f"{path} is there, and this user may connect")


def _missing(path: str) -> tuple[str, str]:
    directory = Path(path).parent
    if os.path.islink(path):
        return f"{path} is a link to nowhere", f"it leads to {os.readlink(path)}: correct it"
    if not directory.is_dir():
        return (
            f"there is no {path}, and no directory {directory}",
            "is a runtime installed here, and NRI enabled in it? In a container: mount that directory",
        )
    return (
        f"there is no {path}",
        "NRI is not enabled, the runtime is not running, or it listens elsewhere: see its configuration",
    )


def _is_mounted(path: str) -> bool:
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    real = os.path.realpath(path)
    return any(line.split(" ")[4] == real for line in lines if line.count(" ") > 4)


def describe_listener(credentials: PeerCredentials | None) -> Finding:
    """Who listens, from what the kernel knows of the other end of a connection."""
    if credentials is None or credentials.pid <= 0:
        return Finding(
            Level.INFO,
            "listener",
            "a process that cannot be seen from here, as that of the node in a container",
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
    """Why connecting has failed."""
    if error.errno == errno.ECONNREFUSED:
        return Finding(
            Level.PROBLEM, "listener", f"nobody listens on {path}",
            "it was left behind: start the runtime. In a container which mounts the socket itself, mount the "
            f"directory {Path(path).parent}, and make the container anew",
        )  # fmt: skip
    if isinstance(error, (TimeoutError, socket.timeout)):
        return Finding(
            Level.PROBLEM, "listener", f"who listens on {path} accepts no connections",
            "the runtime hangs, or other plugins fill its queue: see its log",
        )  # fmt: skip
    return Finding(
        Level.PROBLEM, "listener", f"{path}: {error.strerror or error}", "see the socket, above"
    )


def check_configuration(root: Path, socket_path: str) -> list[Finding]:
    """Whether the runtimes whose configuration is there have NRI enabled."""
    found = [*_containerd(root, socket_path), *_crio(root, socket_path)]
    if not found:
        text = f"no {root / _CONTAINERD}, and no {root / _CRIO}: the runtime's defaults hold"
        advice = "containerd has NRI on from 2.0, CRI-O in its newer releases; --root tells where to look"
        found.append(Finding(Level.INFO, "configuration", text, advice))
    return found


def _containerd(root: Path, socket_path: str) -> Iterator[Finding]:
    path = root / _CONTAINERD
    if not path.exists():
        return
    check = "containerd"
    values, problem = _document(path, check)
    if problem is not None:
        yield problem
        return
    merged = dict(_section(values, "plugins", _NRI))
    disabled = list(values.get("disabled_plugins", []))
    imported = []
    for pattern in values.get("imports", []):
        for name in sorted(_matching(root, path, str(pattern))):
            more, problem = _document(name, check)
            if problem is not None:
                yield problem
                continue
            imported.append(name.name)
            merged.update(_section(more, "plugins", _NRI))
            disabled += more.get("disabled_plugins", [])
    where = str(path) + (f" (with {', '.join(imported)})" if imported else "")
    if _NRI in disabled:
        yield Finding(
            Level.PROBLEM, check, f"{where}: NRI is among the disabled_plugins",
            f'take "{_NRI}" out of them, and restart containerd',
        )  # fmt: skip
    elif merged.get("disable") is True:
        yield Finding(
            Level.PROBLEM, check, f"{where}: NRI is disabled",
            f"set disable = false in [plugins.'{_NRI}'], and restart containerd",
        )  # fmt: skip
    elif merged.get("disable_connections") is True:
        yield Finding(
            Level.PROBLEM, check, f"{where}: only plugins that containerd launches may be there",
            f"set disable_connections = false in [plugins.'{_NRI}'], and restart containerd",
        )  # fmt: skip
    elif "disable" in merged:
        yield Finding(Level.OK, check, f"{where}: NRI is enabled")
    else:
        yield Finding(
            Level.INFO, check, f"{where}: says nothing of NRI",
            f"containerd 2.0 has it on; 1.7 has it off: set disable = false in [plugins.'{_NRI}']",
        )  # fmt: skip
    yield from _socket_path(check, merged.get("socket_path"), socket_path)


def _crio(root: Path, socket_path: str) -> Iterator[Finding]:
    paths = [root / _CRIO, *sorted((root / _CRIO_DIRECTORY).glob("*"))]
    paths = [path for path in paths if path.is_file()]
    if not paths:
        return
    check = "CRI-O"
    merged: dict[str, Any] = {}
    told = ""
    for path in paths:
        values, problem = _document(path, check)
        if problem is not None:
            yield problem
            continue
        section = _section(values, "crio", "nri")
        merged.update(section)
        told = str(path) if "enable_nri" in section else told
    if merged.get("enable_nri") is False:
        yield Finding(
            Level.PROBLEM, check, f"{told}: NRI is disabled",
            "set enable_nri = true in [crio.nri], and restart CRI-O",
        )  # fmt: skip
    elif merged.get("nri_disable_connections") is True:
        yield Finding(
            Level.PROBLEM, check, "only plugins that CRI-O launches may be there",
            "set nri_disable_connections = false in [crio.nri], and restart CRI-O",
        )  # fmt: skip
    elif "enable_nri" in merged:
        yield Finding(Level.OK, check, f"{told}: NRI is enabled")
    else:
        yield Finding(
            Level.INFO, check, f"{paths[0]}: says nothing of NRI",
            "newer releases of CRI-O have it on; for others set enable_nri = true in [crio.nri]",
        )  # fmt: skip
    yield from _socket_path(check, merged.get("nri_listen"), socket_path)


def _socket_path(check: str, configured: Any, path: str) -> Iterator[Finding]:
    if configured and os.path.realpath(str(configured)) != os.path.realpath(path):
        yield Finding(
            Level.WARNING, check, f"listens on {configured}, and not on {path}",
            f"use --socket {configured}, here and for the plugin",
        )  # fmt: skip


def check_launched(root: Path, name: str, idx: str) -> list[Finding]:
    """Whether the runtime launches plugins by itself, and one of them has the name."""
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
            Level.WARNING, "launched", f"the runtime launches a plugin {idx}-{name}, too",
            f"two of a name are two plugins, which may be in each other's way: remove it from {directory}, "
            "or start no other",
        )  # fmt: skip
    return found


def _document(path: Path, check: str) -> tuple[dict[str, Any], Finding | None]:
    problem = Finding(Level.WARNING, check, "")
    try:
        values = read(path, "toml").data
    except ConfigError as error:
        problem.text = str(error).replace("\n", "; ")
        problem.advice = "whether NRI is enabled cannot be told from it"
        return {}, problem
    return dict(values), None


def _section(values: Any, *names: str) -> dict[str, Any]:
    for name in names:
        values = values.get(name, {}) if isinstance(values, dict) else {}
    return values if isinstance(values, dict) else {}


def _matching(root: Path, base: Path, pattern: str) -> Iterator[Path]:
    whole = root / pattern.lstrip("/") if pattern.startswith("/") else base.parent / pattern
    yield from (path for path in whole.parent.glob(whole.name) if path.is_file())


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
