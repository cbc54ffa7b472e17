"""Device nodes of the host, and lists of things that pods may ask for."""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Iterable

from nri_sync import api
from nri_sync.errors import NotAllowed
from nri_sync.text import quoted

__all__ = ["host_device", "require_allowed"]


def host_device(path: str) -> api.LinuxDevice:
    """The device behind a node of the host: its path, its type (``"c"`` or ``"b"``) and its numbers.

    Looks at the file system, also through symbolic links; a plugin in a container needs the host's ``/dev``.
    Raises ValueError if the path leads to anything but a device node, and OSError if it leads nowhere.
    """
    status = os.stat(path)
    if stat.S_ISCHR(status.st_mode):
        kind = "c"
    elif stat.S_ISBLK(status.st_mode):
        kind = "b"
    else:
        raise ValueError(
            f"{quoted(path)} is not a device node: it is neither a character nor a block device"
        )
    return api.LinuxDevice(
        path=path, type=kind, major=os.major(status.st_rdev), minor=os.minor(status.st_rdev)
    )


def require_allowed(kind: str, asked: str, patterns: Iterable[str]) -> None:
    """Return if one of the patterns fits ``asked``, the wish of a pod; raise errors.NotAllowed otherwise.

    Patterns are those of a shell (``"vendor.com/gpu=*"``), but none fits a text with line breaks or other
    control characters, or a path with "..". Without patterns nothing is allowed. The error, which the
    pod's author sees, names the ``kind`` of thing: ``"device"``. Raises TypeError for a single text in place of
    the patterns.
    """
    if isinstance(patterns, str):
        raise TypeError(f"patterns must be a list, not the str {patterns!r}")
    plain = asked.isprintable() and ".." not in asked.split("/")
    if plain and any(fnmatch.fnmatchcase(asked, pattern) for pattern in patterns):
        return
    raise NotAllowed(f"the {kind} {quoted(asked)} is not among those that pods may have")
