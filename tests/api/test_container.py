from __future__ import annotations

from datetime import datetime, timezone

import pytest

from nri_sync.api import (
    SELINUX_RELABEL,
    Container,
    LinuxDevice,
    Mount,
    created_at,
    device_access,
    finished_at,
    mount_propagation,
    same_device,
    same_mount,
    started_at,
)

__all__: list[str] = []


def test_times_are_since_the_unix_epoch() -> None:
    container = Container(
        created_at=1_700_000_000_123_456_789, started_at=1, finished_at=4_102_444_800_000_000_000
    )
    assert created_at(container) == datetime(2023, 11, 14, 22, 13, 20, 123456, timezone.utc)
    assert started_at(container) == datetime(1970, 1, 1, tzinfo=timezone.utc)
    assert finished_at(container) == datetime(2100, 1, 1, tzinfo=timezone.utc)


def test_empty_times() -> None:
    container = Container()
    assert created_at(container) is started_at(container) is finished_at(container) is None


def mount(*options: str) -> Mount:
    return Mount(destination="/data", source="/srv", type="bind", options=options)


def test_mounts_with_options_in_another_order_are_the_same() -> None:
    assert same_mount(mount("ro", "bind"), mount("bind", "ro"))


def test_mounts_differ() -> None:
    assert not same_mount(mount("ro"), mount("rw"))
    assert not same_mount(mount("ro"), mount("ro", "ro"))
    for field in ("destination", "source", "type"):
        other = mount("ro")
        setattr(other, field, "other")
        assert not same_mount(mount("ro"), other)


@pytest.mark.parametrize(
    ("options", "propagation"),
    [
        ([], None),
        (["private", "shared", "slave", "ro", SELINUX_RELABEL], None),
        (["rshared"], "rshared"),
        (["rshared", "ro", "rslave", "shared"], "rslave"),
    ],
)
def test_mount_propagation(options: list[str], propagation: str | None) -> None:
    assert mount_propagation(mount(*options)) == propagation


def test_devices_with_equal_numbers_are_the_same() -> None:
    null = LinuxDevice(path="/dev/null", type="c", major=1, minor=3)
    assert same_device(null, LinuxDevice(path="/dev/other", type="c", major=1, minor=3))
    assert not same_device(null, LinuxDevice(path="/dev/null", type="c", major=1, minor=5))
    assert not same_device(null, LinuxDevice(path="/dev/null", type="c", major=2, minor=3))
    assert not same_device(null, LinuxDevice(path="/dev/null", type="b", major=1, minor=3))


@pytest.mark.parametrize(
    ("kind", "mode", "access"),
    [
        ("c", None, "rw"),
        ("b", None, "rwm"),
        ("c", 0o666, "rw"),
        ("c", 0o440, "r"),
        ("c", 0o004, "r"),
        ("c", 0o020, "w"),
        ("b", 0o400, "rm"),
        ("c", 0o111, ""),
        ("c", 0, ""),
    ],
)
def test_device_access(kind: str, mode: int | None, access: str) -> None:
    device = LinuxDevice(type=kind)
    if mode is not None:
        device.file_mode.value = mode
        device.file_mode.SetInParent()
    assert device_access(device) == access
