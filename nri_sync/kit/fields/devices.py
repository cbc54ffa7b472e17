"""Device nodes of the host, and lists of devices or other objects that pods may request."""

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
    """Return the device of a node on the host: its path, its type (``"c"`` or ``"b"``) and its numbers.

    Reads the file system, and follows symbolic links. A plugin in a container needs the host's ``/dev``.
    Raises ValueError if the path is not a device node, and OSError if it does not exist.
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
    """Return if a pattern matches ``asked``, a pod's request. Otherwise raise errors.NotAllowed.

    Patterns are those of a shell (``"vendor.com/gpu=*"``). No pattern matches a text with line breaks or other
    control characters, or a path with "..". Without patterns nothing is allowed. The pod's author sees the error,
    which names the ``kind`` of object: ``"device"``. Raises TypeError if ``patterns`` is a single text.
    """
    if isinstance(patterns, str):
        raise TypeError(f"patterns must be a list, not the str {patterns!r}")
    plain = asked.isprintable() and ".." not in asked.split("/")
    if plain and any(fnmatch.fnmatchcase(asked, pattern) for pattern in patterns):
        return
    raise NotAllowed(f"the {kind} {quoted(asked)} is not among those that pods may have")
