"""A container's message after an adjustment: the values of its OCI specification."""

from __future__ import annotations

import random
from typing import Any

import pytest

from nri_sync.api import Adjustment, Container, ContainerAdjustment, optional
from nri_sync.api.nri_pb2 import ContainerState, Image, User
from nri_sync.errors import SpecError
from nri_sync.runtime.oci import adjust_spec
from nri_sync.runtime.oci_container import adjust_container, container_to_oci
from tests.interop.makers import Maker

__all__: list[str] = []


def container() -> Container:
    """A container with a value in every kind of field."""
    made = Container(
        id="c",
        name="app",
        labels={"a": "b"},
        annotations={"k": "v"},
        args=["sh"],
        env=["A=1"],
        image=Image(name="image"),
        user=User(uid=7),
        state=ContainerState.CONTAINER_CREATED,
    )
    made.mounts.add(destination="/b", type="bind", source="/x", options=["ro"])
    made.hooks.prestart.add(path="/bin/hook")
    made.rlimits.add(type="RLIMIT_CORE", hard=1, soft=1)
    made.CDI_devices.add(name="vendor.com/class=own")
    linux = made.linux
    linux.namespaces.add(type="pid")
    linux.devices.add(path="/dev/x", type="c", major=1, minor=3)
    linux.resources.hugepage_limits.add(page_size="2MB", limit=0)
    linux.resources.pids.limit = 10
    optional.put(linux.resources.memory, "limit", 100)
    linux.cgroups_path = "/kubepods/c"
    optional.put(linux, "oom_score_adj", 0)
    linux.sysctl["net.x"] = "1"
    linux.net_devices["eth1"].name = "n0"
    linux.seccomp_policy.default_action = "SCMP_ACT_ALLOW"
    return made


def test_no_adjustment_changes_nothing() -> None:
    assert adjust_container(container(), ContainerAdjustment()) == container()
    assert adjust_container(Container(), ContainerAdjustment()) == Container()


def test_neither_argument_is_changed() -> None:
    before, adjustment = container(), Adjustment().add_env("B", "2").add_mount("/a", source="/y")
    message = ContainerAdjustment()
    message.CopyFrom(adjustment.message)
    made = adjust_container(before, adjustment.message)
    assert list(made.env) == ["A=1", "B=2"]
    assert (before, adjustment.message) == (container(), message)


def memory(name: str) -> Any:
    return lambda made: optional.get(made.linux.resources.memory, name)


# The merged adjustment, the field under test, and its value in the container that a runtime makes.
SETTINGS: dict[str, tuple[Adjustment, Any, Any]] = {
    "args": (Adjustment().set_args(["run"]), lambda made: list(made.args), ["run"]),
    "annotation": (
        Adjustment().add_annotation("n", "1").remove_annotation("k"),
        lambda made: dict(made.annotations),
        {"n": "1"},
    ),
    "mounts are sorted": (
        Adjustment().add_mount("/a", source="/y"),
        lambda made: [mount.destination for mount in made.mounts],
        ["/a", "/b"],
    ),
    "hooks": (
        Adjustment().add_hook("poststart", "/bin/late"),
        lambda made: [hook.path for hook in (*made.hooks.prestart, *made.hooks.poststart)],
        ["/bin/hook", "/bin/late"],
    ),
    "rlimit of a type that is there": (
        Adjustment().add_rlimit("RLIMIT_CORE", hard=2, soft=2),
        lambda made: [limit.hard for limit in made.rlimits],
        [1, 2],
    ),
    "CDI devices are the kubelet's": (
        Adjustment().add_cdi_device("vendor.com/class=new"),
        lambda made: [device.name for device in made.CDI_devices],
        ["vendor.com/class=own"],
    ),
    "namespaces": (
        Adjustment().remove_namespace("pid").set_namespace("ipc", "/ipc"),
        lambda made: [(space.type, space.path) for space in made.linux.namespaces],
        [("ipc", "/ipc")],
    ),
    "device": (
        Adjustment().add_device("/dev/y", "c", 1, 5),
        lambda made: [device.path for device in made.linux.devices],
        ["/dev/x", "/dev/y"],
    ),
    "the rule of a device": (
        Adjustment().add_device("/dev/y", "c", 1, 5),
        lambda made: [(rule.type, rule.access) for rule in made.linux.resources.devices],
        [("c", "rw")],
    ),
    "hugepage limit replaced": (
        Adjustment().add_hugepage_limit("2MB", 1 << 21),
        lambda made: [limit.limit for limit in made.linux.resources.hugepage_limits],
        [1 << 21],
    ),
    "memory.limit": (Adjustment().set_memory(limit=200), memory("limit"), 200),
    "memory.limit sets swap": (Adjustment().set_memory(limit=200), memory("swap"), 200),
    "memory.swap": (Adjustment().set_memory(swap=500), memory("swap"), None),
    "memory.limit and swap": (Adjustment().set_memory(limit=200, swap=500), memory("swap"), 200),
    "memory.reservation": (Adjustment().set_memory(reservation=5), memory("reservation"), None),
    "memory.swappiness": (Adjustment().set_memory(swappiness=0), memory("swappiness"), None),
    "pids": (
        Adjustment().set_pids_limit(5),
        lambda made: made.linux.resources.pids.limit,
        5,
    ),
    "pids unlimited": (
        Adjustment().set_pids_limit(-1),
        lambda made: made.linux.resources.pids.limit,
        10,
    ),
    "cpu": (
        Adjustment().set_cpu(cpus="0-1"),
        lambda made: made.linux.resources.cpu.cpus,
        "0-1",
    ),
    "unified": (
        Adjustment().set_unified("memory.high", "1"),
        lambda made: dict(made.linux.resources.unified),
        {"memory.high": "1"},
    ),
    "cgroups path": (
        Adjustment().set_cgroups_path("/mine"),
        lambda made: made.linux.cgroups_path,
        "/mine",
    ),
    "OOM score": (
        Adjustment().set_oom_score_adj(-5),
        lambda made: optional.get(made.linux, "oom_score_adj"),
        -5,
    ),
    "sysctl": (
        Adjustment().remove_sysctl("net.x").set_sysctl("net.y", "2"),
        lambda made: dict(made.linux.sysctl),
        {"net.y": "2"},
    ),
    "network device": (
        Adjustment().remove_net_device("eth1"),
        lambda made: dict(made.linux.net_devices),
        {},
    ),
    "RDT": (
        Adjustment().set_rdt(clos_id="gold"),
        lambda made: optional.get(made.linux.rdt, "clos_id"),
        "gold",
    ),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_container_has_the_values_of_its_specification(setting: str) -> None:
    adjustment, look, value = SETTINGS[setting]
    assert look(adjust_container(container(), adjustment.message)) == value


def test_fields_outside_the_specification_stay() -> None:
    made = adjust_container(container(), Adjustment().add_env("B", "2").message)
    del made.env[:]
    expected = container()
    del expected.env[:]
    assert made == expected


def test_classes_and_cdi_devices_come_through_callbacks() -> None:
    adjustment = Adjustment().set_rdt_class("gold").add_cdi_device("vendor.com/class=a")

    def inject(spec: dict[str, Any], names: list[str]) -> None:
        spec["process"]["env"] += names

    made = adjust_container(
        container(),
        adjustment.message,
        inject_cdi=inject,
        resolve_rdt=lambda name: {"closID": name},
    )
    assert optional.get(made.linux.rdt, "clos_id") == "gold"
    assert list(made.env) == ["A=1", "vendor.com/class=a"]
    assert not made.linux.resources.HasField("rdt_class")


def test_an_adjustment_that_fits_no_specification() -> None:
    with pytest.raises(SpecError, match='unrecognized namespace "time"'):
        adjust_container(container(), Adjustment().set_namespace("time", "/x").message)


@pytest.mark.parametrize("seed", range(300))
def test_any_container_with_any_adjustment(seed: int) -> None:
    """The specification of the new message is the one that a runtime makes."""
    chance = random.Random(seed)
    maker = Maker(chance, density=chance.choice([0.1, 0.3, 0.7]), marks=0.3)
    before, adjustment = maker.make(Container), maker.make(ContainerAdjustment)
    for namespace in adjustment.linux.namespaces:
        if not namespace.type.lstrip("-"):
            namespace.type = "uts"
    wanted = adjust_spec(container_to_oci(before), adjustment)
    made = adjust_container(before, adjustment)
    assert plain(container_to_oci(made)) == plain(wanted)


def plain(spec: dict[str, Any]) -> dict[str, Any]:
    """The specification without empty objects, and without keys that a message does not have."""
    linux = spec["linux"]
    # A container message has no such fields.
    linux.pop("memoryPolicy", None)
    linux.pop("rootfsPropagation", None)
    pids = linux.get("resources", {}).get("pids", {})
    # A missing limit is 0 in a message.
    if pids.get("limit") == 0:
        del pids["limit"]
    filled: dict[str, Any] = _filled(spec)
    return filled


def _filled(value: Any) -> Any:
    if isinstance(value, dict):
        filled = {key: _filled(inside) for key, inside in value.items()}
        return {key: inside for key, inside in filled.items() if inside not in ({}, [], "", None)}
    if isinstance(value, list):
        return [_filled(inside) for inside in value]
    return value
