"""Mounts of a specification: replacement, order, propagation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nri_sync.api import Adjustment, Mount
from nri_sync.errors import SpecError
from nri_sync.runtime.oci_mounts import adjust_mounts, host_propagation, propagation

__all__: list[str] = []


def mounts(adjustment: Adjustment) -> list[Mount]:
    return list(adjustment.message.mounts)


def adjusted(
    spec: dict[str, Any],
    adjustment: Adjustment,
    propagation_of: Callable[[str], str] | None = None,
) -> list[str]:
    adjust_mounts(spec, mounts(adjustment), propagation_of)
    return [mount["destination"] for mount in spec["mounts"]]


def spec(*destinations: str) -> dict[str, Any]:
    return {"mounts": [{"destination": name, "source": "old"} for name in destinations]}


def test_a_mount_is_added() -> None:
    new: dict[str, Any] = {}
    add = Adjustment().add_mount("/a", source="/s", type="bind", options=["ro", "relabel"])
    adjusted(new, add)
    assert new["mounts"] == [
        {"destination": "/a", "source": "/s", "type": "bind", "options": ["ro", "relabel"]}
    ]


def test_a_mount_is_replaced() -> None:
    new = spec("/a", "/b")
    adjusted(new, Adjustment().add_mount("/b", source="new"))
    assert [mount["source"] for mount in new["mounts"]] == ["old", "new"]


def test_a_mount_is_removed() -> None:
    new = spec("/a", "/b", "/a")
    # Only the first mount of the destination.
    assert adjusted(new, Adjustment().remove_mount("/a").remove_mount("/c")) == ["/a", "/b"]


def test_deeper_mounts_come_later() -> None:
    new = spec("/b/c", "/", "/a/", "/b", "/a//b/../b/c")
    assert adjusted(new, Adjustment().add_mount("/a/b", source="s")) == [
        "/",
        "/a/",
        "/b",
        "/a/b",
        "/b/c",
        "/a//b/../b/c",
    ]
    assert adjusted(spec("//a/b", "/c/d"), Adjustment().add_mount("//x")) == [
        "//x",
        "//a/b",
        "/c/d",
    ]


def test_a_mount_without_a_destination_is_no_crash() -> None:
    new: dict[str, Any] = {"mounts": [{"source": "x"}]}
    adjust_mounts(new, [Mount(destination="/a")], None)
    assert [mount.get("destination") for mount in new["mounts"]] == [None, "/a"]


class TestPropagation:
    @pytest.mark.parametrize(
        ("option", "found", "root"),
        [
            ("rshared", "rshared", "rshared"),
            ("rslave", "rshared", "rslave"),
            ("rslave", "rslave", "rslave"),
        ],
    )
    def test_the_propagation_of_a_mount_extends_to_the_root(
        self, option: str, found: str, root: str
    ) -> None:
        new = spec()
        add = Adjustment().add_mount("/a", source="/s", options=[option])
        adjusted(new, add, {"/s": found}.__getitem__)
        assert new["linux"] == {"rootfsPropagation": root}

    @pytest.mark.parametrize(
        ("before", "option", "after"),
        [
            ("rshared", "rslave", "rshared"),
            ("rslave", "rshared", "rshared"),
            ("private", "rslave", "rslave"),
        ],
    )
    def test_a_root_is_not_made_less_shared(self, before: str, option: str, after: str) -> None:
        new = {**spec(), "linux": {"rootfsPropagation": before}}
        adjusted(new, Adjustment().add_mount("/a", options=[option]))
        assert new["linux"]["rootfsPropagation"] == after

    @pytest.mark.parametrize(
        ("option", "found", "accepted"),
        [
            ("rshared", "rslave", "rshared"),
            ("rshared", "", "rshared"),
            ("rslave", "", "rshared or rslave"),
        ],
    )
    def test_the_source_must_have_the_propagation(
        self, option: str, found: str, accepted: str
    ) -> None:
        add = Adjustment().add_mount("/a", source="/s", options=[option])
        with pytest.raises(SpecError) as error:
            adjusted(spec(), add, lambda path: found)
        assert str(error.value) == (
            'failed to adjust mounts in OCI Spec: path "/s" mount propagation is'
            f' "{found}", not "{accepted}"'
        )

    @pytest.mark.parametrize("option", ["rprivate", "shared", "ro"])
    def test_other_options_need_nothing(self, option: str) -> None:
        new = spec()
        add = Adjustment().add_mount("/a", source="/s", options=[option])
        adjusted(new, add, lambda path: pytest.fail("checked"))
        assert "linux" not in new

    def test_the_next_mount_inherits_the_propagation(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        found = {"/s": "rshared", "/t": ""}
        add = Adjustment().add_mount("/a", source="/s", options=["rshared"])
        add.add_mount("/b", source="/t")
        with pytest.raises(SpecError, match='path "/t"'):
            adjusted(spec(), add, found.__getitem__)
        assert caplog.messages == ["mount /b fails because of the propagation of an earlier mount"]

    def test_rprivate_ends_the_inheritance(self) -> None:
        add = Adjustment().add_mount("/a", source="/s", options=["rshared"])
        add.add_mount("/b", source="/t", options=["rprivate"]).add_mount("/c", source="/t")
        assert adjusted(spec(), add, {"/s": "rshared"}.__getitem__) == ["/a", "/b", "/c"]


MOUNTINFO = [
    "1 0 8:1 / / rw shared:1 - ext4 /dev/sda rw\n",
    "2 1 8:2 / /a rw - ext4 /dev/sdb rw\n",
    "3 1 8:3 / /a/b rw master:7 propagate_from:2 - ext4 /dev/sdc rw\n",
    "4 1 8:4 / /with\\040space rw unbindable shared:9 - tmpfs none rw\n",
    "5 1 8:5 / /twice rw shared:2 - tmpfs none rw\n",
    "6 1 8:6 / /twice rw - tmpfs none rw\n",
]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/", "rshared"),
        ("/x", "rshared"),
        ("/a", ""),
        ("/a/", ""),
        ("/a/b/c", "rslave"),
        ("/a/b/..", ""),
        ("/ab", "rshared"),
        ("/with space", "rshared"),
        ("/twice/x", ""),
    ],
)
def test_the_mount_that_a_path_is_on(path: str, found: str) -> None:
    assert propagation(MOUNTINFO, path) == found


@pytest.mark.parametrize("path", ["", "a/b"])
def test_a_path_must_be_on_a_mount(path: str) -> None:
    with pytest.raises(SpecError, match=f'failed to get mount info for "{path}"'):
        propagation(MOUNTINFO, path)


def test_of_this_machine() -> None:
    assert host_propagation("/proc") in ("", "rshared", "rslave")
