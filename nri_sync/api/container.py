"""Reading what a runtime tells about a container."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from nri_sync.api import optional
from nri_sync.api.nri_pb2 import Container, LinuxDevice, Mount

__all__ = [
    "SELINUX_RELABEL",
    "created_at",
    "device_access",
    "finished_at",
    "mount_propagation",
    "same_device",
    "same_mount",
    "started_at",
]

#: A mount option that asks the runtime to relabel the source for SELinux. It is not passed on.
SELINUX_RELABEL = "relabel"

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def created_at(container: Container) -> datetime | None:
    """When a container was created, in UTC and to the microsecond; None if that is not told."""
    return _time(container.created_at)


def started_at(container: Container) -> datetime | None:
    """When a container was started, as created_at."""
    return _time(container.started_at)


def finished_at(container: Container) -> datetime | None:
    """When a container ended, as created_at."""
    return _time(container.finished_at)


def _time(nanoseconds: int) -> datetime | None:
    # Not fromtimestamp(): a float has too few digits.
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000) if nanoseconds else None


def same_mount(left: Mount, right: Mount) -> bool:
    """Whether two mounts are alike, in whatever order their options are."""
    return (left.destination, left.type, left.source, sorted(left.options)) == (
        right.destination,
        right.type,
        right.source,
        sorted(right.options),
    )


def mount_propagation(mount: Mount) -> str | None:
    """The last of ``rprivate``, ``rshared`` and ``rslave`` in a mount's options, or None.

    Runtimes look at these three to see what the source's file system must allow.
    """
    found = [option for option in mount.options if option in ("rprivate", "rshared", "rslave")]
    return found[-1] if found else None


def same_device(left: LinuxDevice, right: LinuxDevice) -> bool:
    """Whether two device nodes lead to the same device: equal major and minor numbers.

    The type counts too: block and character devices have numbers of their own.
    """
    return (left.type, left.major, left.minor) == (right.type, right.major, right.minor)


def device_access(device: LinuxDevice) -> str:
    """What the device cgroup must allow: some of ``r``, ``w`` and, for block devices, ``m``.

    Reading and writing follow the permission bits of any class of user; without a file mode, both.
    """
    mode = optional.get(device, "file_mode")
    access = ""
    if mode is None or mode & 0o444:
        access += "r"
    if mode is None or mode & 0o222:
        access += "w"
    return access + "m" if device.type == "b" else access
