from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nri_sync.api import LinuxDevice
from nri_sync.kit.fields.devices import host_device, require_allowed

__all__: list[str] = []


def test_a_character_device() -> None:
    assert host_device("/dev/null") == LinuxDevice(path="/dev/null", type="c", major=1, minor=3)


def test_a_block_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test machines have no device that a test can rely on."""
    fields: list[Any] = list(os.stat("/dev/null"))
    fields[0] = stat.S_IFBLK | 0o660
    status = os.stat_result(fields, {"st_rdev": os.makedev(259, 3)})
    monkeypatch.setattr(os, "stat", lambda path: status)
    assert host_device("/dev/x") == LinuxDevice(path="/dev/x", type="b", major=259, minor=3)


def test_a_path_that_is_no_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "file", tmp_path / "fifo"):
        with pytest.raises(ValueError, match="is not a device node"):
            host_device(str(path))
    with pytest.raises(FileNotFoundError, match="no-such"):
        host_device(str(tmp_path / "no-such"))


@pytest.mark.parametrize(
    ("asked", "patterns"),
    [("/dev/fuse", ["/dev/null", "/dev/fuse"]), ("vendor.com/gpu=0", ["vendor.com/gpu=*"]), ("x", ["*"])],
)  # fmt: skip
def test_allowed(asked: str, patterns: list[str]) -> None:
    require_allowed("device", asked, patterns)


@pytest.mark.parametrize(
    ("asked", "patterns"),
    [
        ("/dev/sda", ["/dev/fuse"]),
        ("/dev/fuse", []),
        ("/dev/dri/../sda", ["/dev/dri/*", "*"]),
        ("vendor.com/gpu=0\nother.com/gpu=0", ["vendor.com/gpu=*"]),
        ("Vendor.com/gpu=0", ["vendor.com/gpu=*"]),
    ],
)
def test_not_allowed(asked: str, patterns: list[str]) -> None:
    with pytest.raises(PermissionError, match=r"the device .* is not among those") as caught:
        require_allowed("device", asked, patterns)
    assert str(caught.value).isprintable()


@given(st.text())
def test_without_patterns_nothing_is_allowed(asked: str) -> None:
    with pytest.raises(PermissionError):
        require_allowed("device", asked, ())


def test_a_text_is_no_list_of_patterns() -> None:
    with pytest.raises(TypeError, match="must be a list"):
        require_allowed("device", "/dev/sda", "*")
