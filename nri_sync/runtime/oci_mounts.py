"""The mounts of an OCI runtime specification, and the mount propagation that they need."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable
from typing import Any

from nri_sync.api import Mount, mount_propagation, removal
from nri_sync.api.oci import mounts_to_oci
from nri_sync.errors import SpecError
from nri_sync.runtime.claims import logger
from nri_sync.runtime.quoting import go_quote

__all__ = ["adjust_mounts", "host_propagation", "propagation"]

# The propagations of the mount of the source that allow a requested propagation.
_ACCEPTED = {"rshared": ["rshared"], "rslave": ["rshared", "rslave"]}


def adjust_mounts(
    spec: dict[str, Any],
    mounts: Iterable[Mount],
    propagation_of: Callable[[str], str] | None,
) -> None:
    """Add, replace and remove mounts, and sort all mounts so that no mount hides another one."""
    listed = list(spec.get("mounts") or ())
    wanted = ""
    for mount in mounts:
        destination, marked = removal.unmark(mount.destination)
        _remove(listed, destination)
        if marked:
            continue
        own = mount_propagation(mount)
        # The reference does not reset this value for each mount.
        wanted = own or wanted
        if wanted in _ACCEPTED:
            _propagate(spec, mount, wanted, propagation_of)
        listed += mounts_to_oci([mount])
    spec["mounts"] = sorted(listed, key=_depth)


def _remove(mounts: list[dict[str, Any]], destination: str) -> None:
    for number, mount in enumerate(mounts):
        if mount.get("destination") == destination:
            del mounts[number]
            return


def _depth(mount: dict[str, Any]) -> tuple[int, str]:
    destination: str = mount.get("destination") or ""
    return _clean(destination).count("/"), destination


def _clean(path: str) -> str:
    # POSIX gives two slashes at the start a meaning; Go does not.
    return re.sub("^//+", "/", posixpath.normpath(path))


def _propagate(
    spec: dict[str, Any],
    mount: Mount,
    wanted: str,
    propagation_of: Callable[[str], str] | None,
) -> None:
    accepted = _ACCEPTED[wanted]
    if propagation_of is not None:
        found = propagation_of(mount.source)
        if found not in accepted:
            if mount_propagation(mount) is None:
                logger.warning(
                    "mount %s fails because of the propagation of an earlier mount",
                    mount.destination,
                )
            raise SpecError(
                f"failed to adjust mounts in OCI Spec: path {go_quote(mount.source)} mount propagation"
                f" is {go_quote(found)}, not {go_quote(' or '.join(accepted))}"
            )
    if spec.get("linux") is None:
        spec["linux"] = {}
    if wanted == "rshared" or spec["linux"].get("rootfsPropagation") not in accepted:
        spec["linux"]["rootfsPropagation"] = wanted


def host_propagation(path: str) -> str:
    """The result of ``propagation`` for a path in the mount namespace of this process. Reads /proc."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mountinfo:
        return propagation(mountinfo, path)


def propagation(mountinfo: Iterable[str], path: str) -> str:
    """The propagation of the mount that contains a path: ``"rshared"``, ``"rslave"``, or ``""`` for none.

    ``mountinfo`` has the lines of proc_pid_mountinfo(5). Raises SpecError if no mount has the path.
    """
    clean = _clean(path)
    longest, optional = "", None
    for line in mountinfo:
        fields = line.split()
        mount_point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        inside = clean == mount_point or clean.startswith(mount_point.rstrip("/") + "/")
        # Of two mounts on one mount point, the later one hides the other.
        if inside and len(mount_point) >= len(longest):
            longest, optional = mount_point, fields[6 : fields.index("-")]
    if optional is None:
        raise SpecError(
            f"failed to adjust mounts in OCI Spec: failed to get mount info for {go_quote(path)}"
        )
    for tag in optional:
        if tag.startswith("shared:"):
            return "rshared"
        if tag.startswith("master:"):
            return "rslave"
    return ""
