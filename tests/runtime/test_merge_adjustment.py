"""Adjustments: the container for later plugins, the adjustment for the runtime, and the lost changes."""

from __future__ import annotations

from typing import Any

import pytest

from nri_sync import api
from nri_sync.api import (
    Adjustment,
    Container,
    ContainerAdjustment,
    Field,
    Hooks,
    LinuxRdt,
    LinuxSeccomp,
    Owners,
)
from nri_sync.errors import ConflictError
from nri_sync.runtime.claims import OwnershipClaims
from nri_sync.runtime.merge_adjustment import Original, merge_adjustment

__all__: list[str] = []


class Scene:
    """A container, and plugins that adjust it one after the other."""

    def __init__(self, original: Container | None = None) -> None:
        self.owners = Owners()
        self.original = original or Container()
        self.seen = Container()
        self.seen.CopyFrom(self.original)
        self.reply = ContainerAdjustment()

    def merge(self, plugin: str, adjustment: Adjustment) -> None:
        claims = OwnershipClaims(self.owners, plugin, "c")
        merge_adjustment(claims, adjustment.message, Original(self.original), self.seen, self.reply)

    @property
    def result(self) -> Adjustment:
        """The adjustment for the runtime, without empty parts."""
        copy = ContainerAdjustment()
        copy.CopyFrom(self.reply)
        api.strip(copy)
        return Adjustment(copy)


def seccomp(action: str = "SCMP_ACT_ERRNO") -> LinuxSeccomp:
    return LinuxSeccomp(default_action=action)


# For each case, the setter and the name of the field in a conflict.
SETTINGS: list[tuple[Adjustment, str]] = [
    (Adjustment().add_annotation("k", "v"), "Annotations k"),
    (Adjustment().add_mount("/m", source="/s"), "Mounts /m"),
    (Adjustment().add_env("A", "1"), "Env A"),
    (Adjustment().set_args(["sh"]), "Args "),
    (Adjustment().add_device("/dev/a", "c", 1, 3), "Devices /dev/a"),
    (Adjustment().set_memory(limit=0), "MemLimit "),
    (Adjustment().set_pids_limit(0), "PidsLimit "),
    (Adjustment().set_cgroups_path("/c"), "CgroupsPath "),
    (Adjustment().set_oom_score_adj(0), "OomScoreAdj "),
    (Adjustment().set_io_priority("IOPRIO_CLASS_BE"), "IoPriority "),
    (Adjustment().set_seccomp_policy(seccomp()), "SeccompPolicy "),
    (Adjustment().set_namespace("pid"), "Namespace pid"),
    (Adjustment().set_sysctl("k", "v"), "Sysctl k"),
    (Adjustment().add_net_device("eth0", "n"), "LinuxNetDevices eth0"),
    (Adjustment().set_scheduler("SCHED_OTHER"), "LinuxSched "),
    (Adjustment().set_rdt(clos_id=""), "RdtClosID "),
    (Adjustment().set_rdt(schemata=[]), "RdtSchemata "),
    (Adjustment().set_rdt(enable_monitoring=False), "RdtEnableMonitoring "),
    (Adjustment().set_memory_policy(0), "MemoryPolicy "),
    (Adjustment().add_rlimit("RLIMIT_AS", hard=1, soft=1), "Rlimits RLIMIT_AS"),
    (Adjustment().add_cdi_device("v/c=d"), "CdiDevices v/c=d"),
]


@pytest.mark.parametrize(("adjustment", "name"), SETTINGS, ids=[name for _, name in SETTINGS])
def test_a_setting_gets_to_the_runtime_and_has_one_owner(adjustment: Adjustment, name: str) -> None:
    scene = Scene()
    scene.merge("10-a", adjustment)
    reply = scene.reply
    if not adjustment.message.linux.HasField("rdt"):
        # The reference adds this message with any Linux setting.
        assert reply.linux.HasField("rdt") == adjustment.message.HasField("linux")
        reply.linux.ClearField("rdt")
    if not adjustment.message.HasField("linux"):
        reply.ClearField("linux")
    assert reply == adjustment.message
    with pytest.raises(ConflictError) as error:
        scene.merge("20-b", adjustment)
    assert str(error.value) == f'plugins "20-b" and "10-a" both tried to set {name}'


def test_later_plugins_see_most_of_the_settings() -> None:
    scene = Scene(Container(env=["A=0", "plain"], args=["old"]))
    for adjustment, _ in SETTINGS:
        if not adjustment.message.linux.rdt.HasField("clos_id"):
            scene.merge("10-a", adjustment)
    seen = scene.seen
    assert seen.annotations == {"k": "v"}
    assert [mount.destination for mount in seen.mounts] == ["/m"]
    assert seen.env == ["plain", "A=1"]
    assert seen.args == ["sh"]
    assert [device.path for device in seen.linux.devices] == ["/dev/a"]
    assert seen.linux.resources.memory.HasField("limit")
    assert seen.linux.cgroups_path == "/c"
    for name in ("oom_score_adj", "io_priority", "seccomp_policy", "scheduler"):
        assert seen.linux.HasField(name)
    assert [namespace.type for namespace in seen.linux.namespaces] == ["pid"]
    assert seen.linux.sysctl == {"k": "v"}
    assert seen.linux.net_devices["eth0"].name == "n"
    assert [rlimit.type for rlimit in seen.rlimits] == ["RLIMIT_AS"]
    # Later plugins do not see these two.
    assert not seen.CDI_devices
    assert not seen.linux.HasField("rdt")


def test_nothing_changes_nothing() -> None:
    scene = Scene(Container(env=["A=0"]))
    scene.merge("10-a", Adjustment())
    assert (scene.seen, scene.reply) == (scene.original, ContainerAdjustment())


class TestMounts:
    def test_an_original_mount_is_replaced_at_the_end(self) -> None:
        original = Container()
        for destination in ("/a", "/b"):
            original.mounts.add(destination=destination, source="old")
        scene = Scene(original)
        scene.merge("10-a", Adjustment().add_mount("/a", source="new"))
        assert [(m.destination, m.source) for m in scene.seen.mounts] == [
            ("/b", "old"),
            ("/a", "new"),
        ]

    def test_a_removal_follows_the_added_entries(self) -> None:
        original = Container()
        original.mounts.add(destination="/a")
        scene = Scene(original)
        scene.merge("10-a", Adjustment().remove_mount("/a").add_mount("/b", source="s"))
        assert [mount.destination for mount in scene.reply.mounts] == ["/b", "-/a"]
        assert [mount.destination for mount in scene.seen.mounts] == ["/b"]

    def test_two_plugins_may_remove_a_mount_and_a_third_may_add_it(self) -> None:
        scene = Scene()
        scene.merge("10-a", Adjustment().remove_mount("/a"))
        scene.merge("20-b", Adjustment().remove_mount("/a"))
        scene.merge("30-c", Adjustment().add_mount("/a", source="s"))
        assert [mount.destination for mount in scene.reply.mounts] == ["-/a", "-/a", "/a"]

    def test_a_take_over_leaves_no_removal(self) -> None:
        scene = Scene()
        scene.merge("10-a", Adjustment().add_mount("/a", source="1"))
        scene.merge("20-b", Adjustment().remove_mount("/a").add_mount("/a", source="2"))
        assert [(m.destination, m.source) for m in scene.reply.mounts] == [("/a", "2")]

    def test_paths_are_compared_as_they_are(self) -> None:
        scene = Scene()
        scene.merge("10-a", Adjustment().add_mount("/a", source="1"))
        scene.merge("20-b", Adjustment().add_mount("/a/", source="2"))
        assert len(scene.reply.mounts) == 2


class TestEnv:
    def test_an_original_variable_cannot_be_removed(self, caplog: pytest.LogCaptureFixture) -> None:
        scene = Scene(Container(env=["A=0", "B=0"]))
        scene.merge("10-a", Adjustment().remove_env("A"))
        assert scene.seen.env == ["B=0"]
        assert not scene.reply.env
        (message,) = caplog.messages
        assert "the removal of environment variable 'A' is lost" in message

    def test_a_variable_of_an_earlier_plugin_can_be_removed(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        scene = Scene()
        scene.merge("10-a", Adjustment().add_env("A", "1"))
        scene.merge("20-b", Adjustment().remove_env("A"))
        assert not scene.reply.env
        assert not scene.seen.env
        assert caplog.messages == []

    def test_a_removal_restores_the_original_variable(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        scene = Scene(Container(env=["A=0"]))
        scene.merge("10-a", Adjustment().add_env("A", "1"))
        scene.merge("20-b", Adjustment().remove_env("A"))
        assert "'A' is lost" in caplog.text


class TestDevices:
    def test_an_original_device_cannot_be_removed(self, caplog: pytest.LogCaptureFixture) -> None:
        original = Container()
        original.linux.devices.add(path="/dev/a")
        scene = Scene(original)
        scene.merge("10-a", Adjustment().remove_device("/dev/a"))
        assert not scene.seen.linux.devices
        assert not scene.reply.linux.devices
        assert "the removal of device '/dev/a' is lost" in caplog.text

    def test_a_take_over(self) -> None:
        scene = Scene()
        scene.merge("10-a", Adjustment().add_device("/dev/a", "c", 1, 3))
        scene.merge("20-b", Adjustment().remove_device("/dev/a").add_device("/dev/a", "c", 1, 5))
        assert [device.minor for device in scene.reply.linux.devices] == [5]
        assert [device.minor for device in scene.seen.linux.devices] == [5]


class TestArgs:
    def test_a_take_over(self) -> None:
        scene = Scene()
        scene.merge("10-a", Adjustment().set_args(["a"]))
        scene.merge("20-b", Adjustment().replace_args(["b"]))
        assert scene.reply.args == scene.seen.args == ["b"]
        with pytest.raises(ConflictError, match='plugins "30-c" and "20-b"'):
            scene.merge("30-c", Adjustment().set_args(["c"]))

    def test_a_withdrawal(self) -> None:
        scene = Scene(Container(args=["own"]))
        scene.merge("10-a", Adjustment().set_args(["a"]))
        scene.merge("20-b", Adjustment().replace_args([]))
        assert not scene.reply.args
        assert scene.owners.owner("c", Field.Args) == "20-b"

    def test_an_empty_command_line_is_lost(self, caplog: pytest.LogCaptureFixture) -> None:
        scene = Scene(Container(args=["old"]))
        scene.merge("10-a", Adjustment(ContainerAdjustment(args=[""])))
        assert not scene.seen.args
        assert not scene.reply.args
        assert scene.owners.owner("c", Field.Args) == "10-a"
        assert "the empty command line is lost" in caplog.text


class TestHooks:
    def test_hooks_of_several_plugins_are_appended(self) -> None:
        original = Container()
        original.hooks.poststop.add(path="/0")
        scene = Scene(original)
        scene.merge("10-a", Adjustment().add_hook("poststop", "/1"))
        scene.merge("20-b", Adjustment().add_hook("poststop", "/2").add_hook("prestart", "/3"))
        assert [hook.path for hook in scene.seen.hooks.poststop] == ["/0", "/1", "/2"]
        assert [hook.path for hook in scene.reply.hooks.poststop] == ["/1", "/2"]
        assert [hook.path for hook in scene.reply.hooks.prestart] == ["/3"]
        assert scene.owners.owner("c", Field.OciHooks) == "10-a,20-b"

    def test_empty_hooks_have_no_owner(self) -> None:
        scene = Scene()
        scene.merge("10-a", Adjustment().add_hooks(Hooks()))
        assert scene.owners.owner("c", Field.OciHooks) is None


class TestNamespaces:
    def test_the_list(self) -> None:
        original = Container()
        for kind in ("pid", "ipc"):
            original.linux.namespaces.add(type=kind)
        scene = Scene(original)
        scene.merge("10-a", Adjustment().set_namespace("pid", "/p").remove_namespace("ipc"))
        assert [(n.type, n.path) for n in scene.seen.linux.namespaces] == [("pid", "/p")]
        assert [n.type for n in scene.reply.linux.namespaces] == ["pid", "-ipc"]

    def test_a_removal_is_a_claim(self) -> None:
        scene = Scene()
        scene.merge("10-a", Adjustment().remove_namespace("ipc"))
        with pytest.raises(ConflictError, match="Namespace ipc"):
            scene.merge("20-b", Adjustment().remove_namespace("ipc"))

    def test_a_plugin_cannot_replace(self) -> None:
        adjustment = Adjustment().remove_namespace("ipc").set_namespace("ipc")
        with pytest.raises(ConflictError, match='plugins "10-a" and "10-a"'):
            Scene().merge("10-a", adjustment)


class TestRdt:
    def test_different_plugins_may_set_different_parts(self) -> None:
        scene = Scene()
        scene.merge("10-a", Adjustment().set_rdt(clos_id="a"))
        scene.merge("20-b", Adjustment().set_rdt(schemata=["L3:0=f"]))
        assert scene.result == Adjustment().set_rdt(clos_id="a", schemata=["L3:0=f"])

    def test_a_removal_drops_the_parts_of_others(self) -> None:
        scene = Scene()
        scene.merge("10-a", Adjustment().set_rdt(clos_id="a", enable_monitoring=True))
        scene.merge("20-b", Adjustment().remove_rdt())
        assert scene.reply.linux.rdt == LinuxRdt(remove=True)
        scene.merge("20-b", Adjustment().remove_rdt())
        with pytest.raises(ConflictError, match='plugins "30-c" and "20-b" both'):
            scene.merge("30-c", Adjustment().set_rdt(clos_id="c"))

    def test_a_removal_is_lost_where_parts_are_set(self, caplog: pytest.LogCaptureFixture) -> None:
        original = Container()
        api.optional.put(original.linux.rdt, "clos_id", "old")
        api.optional.put(original.linux.rdt, "schemata", ["L3:0=1"])
        scene = Scene(original)
        scene.merge("10-a", Adjustment().remove_rdt().set_rdt(clos_id="new"))
        assert scene.result == Adjustment().set_rdt(clos_id="new")
        (message,) = caplog.messages
        assert "the removal of rdt.schemata is lost" in message


def test_the_first_conflict_in_the_references_order_is_reported() -> None:
    scene = Scene()
    both: Any = Adjustment().add_rlimit("RLIMIT_AS", hard=1, soft=1).set_oom_score_adj(1)
    scene.merge("10-a", both)
    with pytest.raises(ConflictError, match="OomScoreAdj"):
        scene.merge("20-b", both)
