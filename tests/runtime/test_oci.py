"""An adjustment applied to an OCI runtime specification, field by field."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from nri_sync.api import Adjustment, ContainerAdjustment, KeyValue, LinuxResources, LinuxSeccomp
from nri_sync.errors import SpecError
from nri_sync.runtime.oci import adjust_spec, host_propagation

__all__: list[str] = []

Spec = dict[str, Any]


def apply(spec: Spec, adjustment: Adjustment, **callbacks: Any) -> Spec:
    """The new specification. Checks that the arguments have not changed and that the result is JSON."""
    before = copy.deepcopy(spec)
    message = adjustment.message.SerializeToString(deterministic=True)
    new = adjust_spec(spec, adjustment.message, **callbacks)
    assert spec == before
    assert adjustment.message.SerializeToString(deterministic=True) == message
    assert json.loads(json.dumps(new)) == new
    return new


def test_an_empty_adjustment_changes_nothing() -> None:
    spec: Spec = {"ociVersion": "1.3.0", "process": {"env": ["plain"]}, "x-mine": [None]}
    assert apply(spec, Adjustment()) == spec
    assert adjust_spec(spec, ContainerAdjustment()) is not spec


def test_nulls_are_nothing() -> None:
    spec: Spec = {"process": None, "linux": None, "mounts": None, "annotations": None}
    adjustment = Adjustment().add_env("A", "1").add_annotation("a", "b").remove_annotation("c")
    adjustment.set_sysctl("k", "v").remove_sysctl("l").add_mount("/a").remove_device("/d")
    adjustment.remove_namespace("pid").add_rlimit("RLIMIT_AS", hard=2, soft=1)
    new = apply(spec, adjustment)
    assert new["process"] == {
        "env": ["A=1"],
        "rlimits": [{"type": "RLIMIT_AS", "hard": 2, "soft": 1}],
    }
    assert new["annotations"] == {"a": "b"}
    assert new["linux"] == {"sysctl": {"k": "v"}}


class TestMaps:
    def test_annotations(self) -> None:
        adjustment = Adjustment().add_annotation("a", "1").remove_annotation("b")
        # A removal and a new entry of one key: the new entry stays, in either order.
        adjustment.remove_annotation("c").add_annotation("c", "3")
        new = apply({"annotations": {"b": "0", "c": "0", "d": "0"}}, adjustment)
        assert new["annotations"] == {"a": "1", "c": "3", "d": "0"}

    def test_sysctl(self) -> None:
        adjustment = Adjustment().set_sysctl("a", "1").remove_sysctl("b").remove_sysctl("a")
        new = apply({"linux": {"sysctl": {"b": "0"}}}, adjustment)
        assert new["linux"]["sysctl"] == {"a": "1"}

    def test_net_devices(self) -> None:
        adjustment = Adjustment().add_net_device("eth0", "n0").remove_net_device("eth0")
        adjustment.remove_net_device("eth1").add_net_device("eth2")
        new = apply({"linux": {"netDevices": {"eth1": {}}}}, adjustment)
        assert new["linux"]["netDevices"] == {"eth0": {"name": "n0"}, "eth2": {}}

    def test_filters_choose_and_rewrite(self) -> None:
        adjustment = Adjustment().add_annotation("a", "1").remove_annotation("b")
        adjustment.set_sysctl("k", "1").remove_sysctl("l")
        seen = []

        def only_more(entries: dict[str, str]) -> dict[str, str]:
            seen.append(entries)
            return {"x": "y", "-z": ""}

        spec = {"annotations": {"b": "0", "z": "0"}, "linux": {"sysctl": {"l": "0", "z": "0"}}}
        new = apply(spec, adjustment, filter_annotations=only_more, filter_sysctl=only_more)
        assert seen == [{"a": "1", "-b": ""}, {"k": "1", "-l": ""}]
        assert new["annotations"] == {"b": "0", "x": "y"}
        assert new["linux"]["sysctl"] == {"l": "0", "x": "y"}

    @pytest.mark.parametrize("name", ["filter_annotations", "filter_sysctl"])
    def test_a_filter_may_refuse(self, name: str) -> None:
        def refuse(entries: dict[str, str]) -> dict[str, str]:
            raise PermissionError("no")

        with pytest.raises(PermissionError):
            adjust_spec({}, ContainerAdjustment(), **{name: refuse})  # type: ignore[arg-type]


class TestEnv:
    def test_variables_keep_their_places(self) -> None:
        adjustment = Adjustment().add_env("NEW", "1").add_env("B", "2").remove_env("A")
        new = apply({"process": {"env": ["A=0", "B=0", "C=x=y"]}}, adjustment)
        assert new["process"]["env"] == ["B=2", "C=x=y", "NEW=1"]

    def test_a_process_is_made(self) -> None:
        assert apply({}, Adjustment().add_env("A", "1")) == {"process": {"env": ["A=1"]}}
        assert apply({}, Adjustment().remove_env("A")) == {}

    def test_the_last_entry_of_a_key_counts(self) -> None:
        adjustment = Adjustment().add_env("A", "1").remove_env("A")
        assert apply({"process": {"env": ["A=0"]}}, adjustment)["process"]["env"] == []
        # Without the variable, the removal has no effect, and the addition stays.
        assert apply({"process": {}}, adjustment)["process"]["env"] == ["A=1"]

    def test_entries_without_a_value_are_lost(self, caplog: pytest.LogCaptureFixture) -> None:
        new = apply({"process": {"env": ["A", "B="]}}, Adjustment().add_env("C", "1"))
        assert new["process"]["env"] == ["B=", "C=1"]
        assert "environment variable 'A' is lost" in caplog.text

    def test_of_a_duplicate_the_second_stays(self, caplog: pytest.LogCaptureFixture) -> None:
        spec = {"process": {"env": ["A=1", "B=1", "A=2"]}}
        assert apply(spec, Adjustment().add_env("A", "new"))["process"]["env"] == ["A=2", "B=1"]
        assert "the change of environment variable 'A' is lost" in caplog.text

    def test_no_name_is_ignored(self) -> None:
        nameless = Adjustment(ContainerAdjustment(env=[KeyValue(value="1")]))
        assert apply({"process": {}}, nameless)["process"]["env"] == []


def test_args() -> None:
    new = apply({"process": {"args": ["a"]}}, Adjustment().set_args(["b", "c"]))
    assert new["process"]["args"] == ["b", "c"]


def test_hooks() -> None:
    adjustment = Adjustment().add_hook("prestart", "/1", args=["a"], env=["A=1"], timeout=2)
    adjustment.add_hook("poststop", "/2").add_hook("create_container", "/3")
    new = apply({"hooks": {"poststop": [{"path": "/0"}]}}, adjustment)
    assert new["hooks"] == {
        "prestart": [{"path": "/1", "args": ["a"], "env": ["A=1"], "timeout": 2}],
        "poststop": [{"path": "/0"}, {"path": "/2"}],
        "createContainer": [{"path": "/3"}],
    }


class TestCDI:
    ADJUSTMENT = Adjustment().add_cdi_device("v/c=b").add_cdi_device("v/c=a")

    def test_the_injector_changes_the_new_specification(self) -> None:
        def inject(spec: Spec, names: list[str]) -> None:
            spec["injected"] = names

        assert apply({}, self.ADJUSTMENT, inject_cdi=inject) == {"injected": ["v/c=b", "v/c=a"]}
        assert apply({}, Adjustment(), inject_cdi=inject) == {}

    def test_without_an_injector_cdi_devices_are_ignored(self) -> None:
        assert apply({}, self.ADJUSTMENT) == {}


class TestDevices:
    def test_a_device_and_its_cgroup_rule(self) -> None:
        adjustment = Adjustment().add_device("/dev/a", "b", 8, 0, file_mode=0o660, uid=0)
        new = apply({}, adjustment.add_device("/dev/c", "c", 1, 3))
        assert new["linux"] == {
            "devices": [
                {
                    "path": "/dev/a",
                    "type": "b",
                    "major": 8,
                    "minor": 0,
                    "fileMode": 0o660,
                    "uid": 0,
                },
                {"path": "/dev/c", "type": "c", "major": 1, "minor": 3},
            ],
            "resources": {
                "devices": [
                    {"allow": True, "type": "b", "major": 8, "minor": 0, "access": "rwm"},
                    {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"},
                ]
            },
        }

    def test_replacement_and_removal(self) -> None:
        spec = {"linux": {"devices": [{"path": "/dev/a"}, {"path": "/dev/b"}]}}
        adjustment = Adjustment().add_device("/dev/a", "c", 1, 3).remove_device("/dev/b")
        assert [d["type"] for d in apply(spec, adjustment)["linux"]["devices"]] == ["c"]

    def test_a_device_without_a_type(self) -> None:
        adjustment = Adjustment().add_device("/dev/a", "c", 1, 3)
        adjustment.message.linux.devices[0].type = ""
        new = apply({}, adjustment)
        rule = {"allow": True, "major": 1, "minor": 3, "access": "rw"}
        assert new["linux"]["resources"]["devices"] == [rule]

    def test_the_mode_does_not_narrow_the_rule(self, caplog: pytest.LogCaptureFixture) -> None:
        new = apply({}, Adjustment().add_device("/dev/a", "c", 1, 3, file_mode=0o400))
        assert new["linux"]["resources"]["devices"][0]["access"] == "rw"
        assert "the access mode of device '/dev/a' is lost" in caplog.text


class TestProcess:
    def test_oom_score(self) -> None:
        assert apply({}, Adjustment().set_oom_score_adj(0)) == {"process": {"oomScoreAdj": 0}}

    def test_io_priority(self) -> None:
        new = apply({}, Adjustment().set_io_priority("IOPRIO_CLASS_BE", 2))
        assert new["process"] == {"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 2}}
        nothing = Adjustment()
        nothing.message.linux.io_priority.SetInParent()
        assert apply(new, nothing) == {"process": {}}

    def test_scheduler(self) -> None:
        new = apply({}, Adjustment().set_scheduler("SCHED_FIFO", priority=3))
        assert new["process"] == {"scheduler": {"policy": "SCHED_FIFO", "priority": 3}}
        nothing = Adjustment()
        nothing.message.linux.scheduler.SetInParent()
        assert apply(new, nothing) == {"process": {}}

    def test_rlimits_are_appended(self) -> None:
        spec = {"process": {"rlimits": [{"type": "RLIMIT_AS", "hard": 9, "soft": 9}]}}
        new = apply(spec, Adjustment().add_rlimit("RLIMIT_AS", hard=2, soft=1))
        assert [rlimit["hard"] for rlimit in new["process"]["rlimits"]] == [9, 2]
        # The reference crashes for this case.
        assert (
            "rlimits" in apply({}, Adjustment().add_rlimit("RLIMIT_AS", hard=2, soft=1))["process"]
        )


class TestLinux:
    def test_cgroups_path(self) -> None:
        new = apply({"linux": {"cgroupsPath": "/old"}}, Adjustment().set_cgroups_path("/new"))
        assert new == {"linux": {"cgroupsPath": "/new"}}

    def test_seccomp(self, caplog: pytest.LogCaptureFixture) -> None:
        policy = LinuxSeccomp(default_action="SCMP_ACT_ERRNO", architectures=["SCMP_ARCH_X86"])
        policy.default_errno.value = 1
        # Without linux, the reference crashes.
        assert apply({}, Adjustment().set_seccomp_policy(policy)) == {
            "linux": {
                "seccomp": {
                    "defaultAction": "SCMP_ACT_ERRNO",
                    "architectures": ["SCMP_ARCH_X86"],
                }
            }
        }
        assert "the default errno of the seccomp policy is lost" in caplog.text

    def test_namespaces(self) -> None:
        spec = {"linux": {"namespaces": [{"type": "pid", "path": "/p"}, {"type": "ipc"}]}}
        adjustment = Adjustment().set_namespace("pid").remove_namespace("ipc")
        new = apply(spec, adjustment.set_namespace("network", "/n").remove_namespace("uts"))
        assert new["linux"]["namespaces"] == [
            {"type": "pid"},
            {"type": "network", "path": "/n"},
        ]

    @pytest.mark.parametrize("kind", ["time", "foo", ""])
    @pytest.mark.parametrize("mark", ["", "-"])
    def test_an_unknown_namespace_is_an_error(self, kind: str, mark: str) -> None:
        adjustment = Adjustment()
        adjustment.message.linux.namespaces.add(type=f"{mark}{kind}")
        with pytest.raises(SpecError, match=f'unrecognized namespace "{kind}"'):
            apply({}, adjustment)

    def test_memory_policy(self) -> None:
        new = apply({}, Adjustment().set_memory_policy("MPOL_BIND", "0-1"))
        assert new["linux"] == {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0-1"}}


class TestResources:
    def test_cpu(self) -> None:
        new = apply(
            {"linux": {"resources": {"cpu": {"shares": 9, "mems": "1"}}}},
            Adjustment().set_cpu(shares=0, quota=-1, period=2000, cpus="0"),
        )
        assert new["linux"]["resources"]["cpu"] == {
            "shares": 0,
            "quota": -1,
            "period": 2000,
            "cpus": "0",
            "mems": "1",
        }

    def test_memory(self, caplog: pytest.LogCaptureFixture) -> None:
        new = apply({}, Adjustment().set_memory(limit=5, swap=9, reservation=1))
        assert new["linux"]["resources"]["memory"] == {"limit": 5, "swap": 5}
        assert sorted(message.split()[2] for message in caplog.messages) == [
            "memory.reservation",
            "memory.swap",
        ]

    def test_no_limit_of_memory_is_lost(self, caplog: pytest.LogCaptureFixture) -> None:
        spec = {"linux": {"resources": {"memory": {"limit": 5}}}}
        assert apply(spec, Adjustment().set_memory(limit=0)) == spec
        assert "memory.limit is lost" in caplog.text

    @pytest.mark.parametrize(("limit", "pids"), [(0, {"limit": 0}), (7, {"limit": 7}), (-1, {})])
    def test_pids(self, limit: int, pids: Spec) -> None:
        new = apply({}, Adjustment().set_pids_limit(limit))
        assert new["linux"]["resources"]["pids"] == pids

    def test_a_limit_of_processes_cannot_be_removed(self, caplog: pytest.LogCaptureFixture) -> None:
        spec = {"linux": {"resources": {"pids": {"limit": 3}}}}
        assert apply(spec, Adjustment().set_pids_limit(-1)) == spec
        assert "the removal of the limit of processes is lost" in caplog.text

    def test_lists_and_maps(self) -> None:
        adjustment = Adjustment().add_hugepage_limit("2MB", 1).add_hugepage_limit("1GB", 2)
        adjustment.set_unified("memory.high", "1")
        adjustment.message.linux.resources.devices.add(allow=True, access="r")
        spec = {
            "linux": {
                "resources": {
                    "hugepageLimits": [{"pageSize": "2MB", "limit": 9}],
                    "unified": {"a": "b"},
                    "devices": [{"allow": False}],
                }
            }
        }
        assert apply(spec, adjustment)["linux"]["resources"] == {
            "hugepageLimits": [{"pageSize": "2MB", "limit": 1}, {"pageSize": "1GB", "limit": 2}],
            "unified": {"a": "b", "memory.high": "1"},
            "devices": [{"allow": False}, {"allow": True, "access": "r"}],
        }

    def test_the_checker_sees_and_may_change_the_resources(self) -> None:
        def check(resources: Spec | None) -> None:
            assert resources is not None
            resources["checked"] = True

        new = apply({}, Adjustment().set_cpu(shares=1), check_resources=check)
        assert new["linux"]["resources"] == {"cpu": {"shares": 1}, "checked": True}

    def test_the_checker_may_refuse(self) -> None:
        def check(resources: Spec | None) -> None:
            assert resources is None
            raise PermissionError("no")

        empty = ContainerAdjustment()
        empty.linux.resources.CopyFrom(LinuxResources())
        with pytest.raises(PermissionError):
            adjust_spec({}, empty, check_resources=check)


CLASSES = [
    ("resolve_blockio", Adjustment.set_blockio_class, ("linux", "resources", "blockIO")),
    ("resolve_rdt", Adjustment.set_rdt_class, ("linux", "intelRdt")),
]


@pytest.mark.parametrize(("resolver", "change", "path"), CLASSES)
class TestClasses:
    def at(self, spec: Spec, path: tuple[str, ...]) -> Any:
        for key in path[:-1]:
            spec = spec[key]
        return spec.get(path[-1])

    def test_a_class(self, resolver: str, change: Any, path: tuple[str, ...]) -> None:
        new = apply({}, change(Adjustment(), "gold"), **{resolver: lambda name: {"x": name}})
        assert self.at(new, path) == {"x": "gold"}
        # An empty class name clears the settings, without a callback.
        new = apply(new, change(Adjustment(), ""), **{resolver: None})
        assert self.at(new, path) == {"x": "gold"}
        new = apply(new, change(Adjustment(), ""), **{resolver: pytest.fail})
        assert self.at(new, path) is None

    def test_a_class_without_settings(
        self, resolver: str, change: Any, path: tuple[str, ...]
    ) -> None:
        new = apply({}, change(Adjustment(), "none"), **{resolver: lambda name: None})
        assert self.at(new, path) is None

    def test_an_unknown_class(self, resolver: str, change: Any, path: tuple[str, ...]) -> None:
        with pytest.raises(KeyError):
            apply({}, change(Adjustment(), "x"), **{resolver: {}.__getitem__})


class TestRdt:
    def test_an_adjustment_overrides_parts_of_the_class(self) -> None:
        adjustment = Adjustment().set_rdt_class("gold").set_rdt(enable_monitoring=True)
        new = apply({}, adjustment, resolve_rdt=lambda name: {"closID": name, "memBwSchema": "x"})
        assert new["linux"]["intelRdt"] == {
            "closID": "gold",
            "memBwSchema": "x",
            "enableMonitoring": True,
        }

    def test_removal(self) -> None:
        spec = {"linux": {"intelRdt": {"closID": "old"}}}
        assert apply(spec, Adjustment().remove_rdt()) == {"linux": {}}
        new = apply(spec, Adjustment().remove_rdt().set_rdt(schemata=["L3:0=f"]))
        assert new == {"linux": {"intelRdt": {"schemata": ["L3:0=f"]}}}

    def test_nothing_set_changes_nothing(self) -> None:
        adjustment = Adjustment()
        adjustment.message.linux.rdt.SetInParent()
        assert apply({}, adjustment) == {}


def test_mounts() -> None:
    adjustment = Adjustment().add_mount("/b", source="/", options=["rslave"])
    spec = {"mounts": [{"destination": "/a/b"}]}
    new = apply(spec, adjustment, propagation_of=lambda path: "rshared")
    assert [mount["destination"] for mount in new["mounts"]] == ["/b", "/a/b"]
    assert new["linux"] == {"rootfsPropagation": "rslave"}
    with pytest.raises(SpecError, match="mount propagation"):
        apply(spec, adjustment, propagation_of=lambda path: "")


def test_the_hosts_propagation_is_offered() -> None:
    assert host_propagation("/proc") in ("", "rshared", "rslave")
