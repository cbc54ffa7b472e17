"""Differences of specifications, and their owners."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nri_sync import api
from nri_sync.runtime.oci import adjust_spec
from nri_sync.runtime.result import CreateResult
from nri_sync.testing.simulation.diff import Change, Place, compare, creation_owners

__all__: list[str] = []

SPEC: dict[str, Any] = {
    "ociVersion": "1.2.1",
    "process": {"args": ["sh"], "env": ["A=1", "B=2"], "user": {"uid": 0}},
    "mounts": [{"destination": "/a", "type": "bind", "source": "/x"}],
    "annotations": {"a/b.c": "1"},
    "hooks": {"poststop": [{"path": "/there"}]},
    "linux": {"resources": {"cpu": {"shares": 2}, "devices": [{"allow": False}]}},
}


def paths(before: Any, after: Any) -> dict[str, tuple[Any, Any]]:
    return {str(item.place): (item.before, item.after) for item in compare(before, after)}


def test_nothing_has_changed() -> None:
    assert compare(SPEC, json.loads(json.dumps(SPEC))) == []


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        (
            {"process": {"env": ["A=1", "B=2"]}},
            {"process": {"env": ["B=3", "C=4=5", "D"]}},
            {"process.env[A]": ("1", None), "process.env[B]": ("2", "3"), "process.env[C]": (None, "4=5"),
             "process.env[D]": (None, "")},
        ),
        (
            {"process": {"env": ["A=1", "A=2"]}},
            {"process": {"env": ["A=1", "A=3"]}},
            {"process.env[A #2]": ("2", "3")},
        ),
        (
            {"mounts": [{"destination": "/a", "options": ["ro"]}]},
            {"mounts": [{"destination": "/b"}, {"destination": "/a", "options": ["rw"]}]},
            {
                "mounts[/a]": (
                    {"destination": "/a", "options": ["ro"]}, {"destination": "/a", "options": ["rw"]},
                ),
                "mounts[/b]": (None, {"destination": "/b"}),
            },
        ),
        ({"annotations": {"a/b.c": "1"}}, {}, {"annotations[a/b.c]": ("1", None)}),
        ({"process": {"args": ["a"]}}, {"process": {"args": ["b"]}}, {"process.args": (["a"], ["b"])}),
        ({"root": {"readonly": False}}, {"root": {}}, {"root.readonly": (False, None)}),
        ({"a": None}, {}, {}),
        (
            {"linux": {"resources": {"cpu": {"shares": 2}}}},
            {"linux": {"resources": {"cpu": {"shares": 3, "quota": 0}, "unified": {"memory.high": "1"}}}},
            {
                "linux.resources.cpu.shares": (2, 3), "linux.resources.cpu.quota": (None, 0),
                "linux.resources.unified[memory.high]": (None, "1"),
            },
        ),
        (
            {},
            {"linux": {"seccomp": {"defaultAction": "x"}}, "hooks": {"poststop": [{"path": "/a"}]}},
            {
                "linux.seccomp": (None, {"defaultAction": "x"}),
                "hooks.poststop[0]": (None, {"path": "/a"}),
            },
        ),
        (
            {"linux": {"namespaces": [{"type": "pid"}]}},
            {"linux": {"namespaces": [{"type": "pid", "path": "/p"}]}},
            {"linux.namespaces[pid]": ({"type": "pid"}, {"type": "pid", "path": "/p"})},
        ),
    ],
)  # fmt: skip
def test_differences(before: Any, after: Any, changes: Any) -> None:
    assert paths(before, after) == changes


def test_plain() -> None:
    change = Change(Place("mounts", "/a"), None, {"destination": "/a"}, "10-a")
    assert change.plain() == {
        "path": "mounts[/a]",
        "before": None,
        "after": {"destination": "/a"},
        "owner": "10-a",
    }


def everything() -> api.Adjustment:
    """An adjustment with every field that affects a specification."""
    wanted = api.Adjustment().add_env("E", "1").add_annotation("n", "1").set_args(["other"])
    wanted.add_mount("/m", source="/s", type="bind", options=["rbind", "rshared"])
    wanted.add_hook("poststop", "/bin/true").add_device("/dev/d", "c", 1, 3)
    wanted.add_rlimit("RLIMIT_CORE", soft=1, hard=1)
    wanted.set_cpu(
        shares=3, quota=1000, period=2000, realtime_runtime=4, realtime_period=5, cpus="0", mems="0"
    )
    wanted.set_memory(limit=9).set_pids_limit(7).add_hugepage_limit("2MB", 1)
    wanted.set_unified("memory.high", "1").set_cgroups_path("/c").set_oom_score_adj(5)
    wanted.set_rdt_class("gold").set_sysctl("net.x", "1").set_namespace("ipc", "/ns")
    return wanted


class TestOwners:
    def owners(self, *adjustments: tuple[str, api.Adjustment], **options: Any) -> dict[str, str]:
        container = api.Container(id="ctr", env=["A=1", "B=2"])
        result = CreateResult(api.CreateContainerRequest(container=container))
        messages = [(name, wanted.message) for name, wanted in adjustments]
        for name, message in messages:
            result.apply(name, api.CreateContainerResponse(adjust=message))
        after = adjust_spec(SPEC, result.reply.adjust, **options)
        owner_of = creation_owners("ctr", result.owners, messages, SPEC, after)
        return {str(item.place): item.owner for item in compare(SPEC, after, owner_of)}

    def test_every_change_has_an_owner(self) -> None:
        found = self.owners(("10-a", everything()), resolve_rdt=lambda name: {"closID": name})
        assert set(found.values()) == {"10-a"}, found
        wanted = {
            "process.env[E]", "annotations[n]", "process.args", "mounts[/m]", "hooks.poststop[1]",
            "linux.devices[/dev/d]", "linux.resources.devices[1]", "process.rlimits[RLIMIT_CORE]",
            "linux.resources.memory.limit", "linux.resources.memory.swap", "linux.rootfsPropagation",
            "linux.resources.pids.limit", "linux.resources.hugepageLimits[2MB]", "linux.cgroupsPath",
            "linux.resources.unified[memory.high]", "process.oomScoreAdj", "linux.intelRdt.closID",
            "linux.sysctl[net.x]", "linux.namespaces[ipc]", "linux.resources.cpu.cpus",
        }  # fmt: skip
        assert wanted <= found.keys()

    def test_of_several(self) -> None:
        first = api.Adjustment().add_env("A", "x").add_hook("poststop", "/1")
        first.add_hook("prestart", "/1")
        second = api.Adjustment().remove_env("A").add_env("A", "y").add_hook("poststop", "/2")
        third = (
            api.Adjustment().set_cpu(shares=9).add_hook("poststop", "/3").add_hook("poststop", "/4")
        )
        found = self.owners(("10-a", first), ("20-b", second), ("30-c", third))
        assert found == {
            "linux.resources.cpu.shares": "30-c",
            "process.env[A]": "20-b",
            "hooks.prestart[0]": "10-a",
            "hooks.poststop[1]": "10-a",
            "hooks.poststop[2]": "20-b",
            "hooks.poststop[3]": "30-c",
            "hooks.poststop[4]": "30-c",
        }

    def test_the_owner_of_a_removal(self) -> None:
        wanted = api.Adjustment().remove_mount("/a").remove_annotation("a/b.c")
        assert self.owners(("10-a", wanted)) == {"mounts[/a]": "10-a", "annotations[a/b.c]": "10-a"}

    def test_changes_by_cdi_devices(self) -> None:
        def inject(spec: Any, names: list[str]) -> None:
            assert names == ["v.com/d=0"]
            spec["process"]["env"].append("CDI=1")

        wanted = api.Adjustment().add_cdi_device("v.com/d=0")
        found = self.owners(
            ("10-a", wanted), ("20-b", api.Adjustment().add_env("E", "1")), inject_cdi=inject
        )
        assert found == {"process.env[CDI]": "10-a", "process.env[E]": "20-b"}
