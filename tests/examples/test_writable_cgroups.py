"""The conditions for writable cgroups; test_reference.py has the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.writable_cgroups.plugin import WritableCgroups, delegates
from nri_sync.testing import make_container, make_pod
from tests.examples.cases import MOUNTINFO

__all__: list[str] = []

POD = make_pod(annotations={"writable-cgroups.noderesource.dev": "true"})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (MOUNTINFO, True),
        (MOUNTINFO.replace("nsdelegate,", ""), False),
        (MOUNTINFO.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified"), True),
        (MOUNTINFO.replace("/sys/fs/cgroup", "/mnt"), False),
        (MOUNTINFO.replace("cgroup2", "cgroup"), False),
        ("", False),
    ],
)
def test_delegation(text: str, found: bool, tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(text)
    assert delegates(tmp_path / "mountinfo") is found


def test_cgroups_stay_read_only_where_delegation_is_unknown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = WritableCgroups(tmp_path / "missing", ["*"])
    assert "unknown whether cgroups may be writable" in caplog.text
    assert plugin.create_container(POD, make_container(POD)) is None
    assert "cgroups stay read-only" in caplog.text


def test_a_container_without_the_mount(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTINFO)
    container = make_container(POD)
    del container.mounts[:]
    with pytest.raises(ValueError, match="no /sys/fs/cgroup mount found to modify"):
        WritableCgroups(tmp_path / "mountinfo", ["def*"]).create_container(POD, container)


@pytest.mark.parametrize("namespaces", [[], ["team-*"]])
def test_namespaces_that_may_not_ask(namespaces: list[str], tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTINFO)
    plugin = WritableCgroups(tmp_path / "mountinfo", namespaces)
    with pytest.raises(PermissionError, match="the namespace 'default' is not among those"):
        plugin.create_container(POD, make_container(POD))
    assert plugin.create_container(make_pod(), make_container(POD)) is None
