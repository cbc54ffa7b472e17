"""Helpers to read the fields of containers."""

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

#: A mount option that makes the runtime relabel the source for SELinux. The kernel does not get this option.
SELINUX_RELABEL = "relabel"

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def created_at(container: Container) -> datetime | None:
    """The time of the container's creation, in UTC and to the microsecond; None if the field is empty."""
    return _time(container.created_at)


def started_at(container: Container) -> datetime | None:
    """The time of the container's start, in the form of :func:`created_at`."""
    return _time(container.started_at)


def finished_at(container: Container) -> datetime | None:
    """The time of the container's end, in the form of :func:`created_at`."""
    return _time(container.finished_at)


def _time(nanoseconds: int) -> datetime | None:
    # datetime.fromtimestamp() would lose digits, because it takes a float.
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000) if nanoseconds else None


def same_mount(left: Mount, right: Mount) -> bool:
    """Whether two mounts are equal. The order of the options does not matter."""
    return (left.destination, left.type, left.source, sorted(left.options)) == (
        right.destination,
        right.type,
        right.source,
        sorted(right.options),
    )


def mount_propagation(mount: Mount) -> str | None:
    """The last of ``rprivate``, ``rshared`` and ``rslave`` in a mount's options, or None.

    Runtimes use the result to check whether the file system of the source allows this propagation.
    """
    found = [option for option in mount.options if option in ("rprivate", "rshared", "rslave")]
    return found[-1] if found else None


def same_device(left: LinuxDevice, right: LinuxDevice) -> bool:
    """Whether two device nodes refer to the same device: equal type, major and minor numbers.

    The type matters, because block devices and character devices are numbered separately.
    """
    return (left.type, left.major, left.minor) == (right.type, right.major, right.minor)


def device_access(device: LinuxDevice) -> str:
    """The access that the device cgroup must allow: letters of ``r``, ``w`` and, for block devices, ``m``.

    ``r`` and ``w`` are included if any class of user has the permission bit, or if the device has no file mode.
    """
    mode = optional.get(device, "file_mode")
    access = ""
    if mode is None or mode & 0o444:
        access += "r"
    if mode is None or mode & 0o222:
        access += "w"
    return access + "m" if device.type == "b" else access
