from __future__ import annotations

from typing import Any, Callable

import pytest

from nri_sync.api import (
    Adjustment,
    ContainerAdjustment,
    Hook,
    Hooks,
    IOPrioClass,
    LinuxSchedulerPolicy,
    LinuxSeccomp,
    MpolMode,
    optional,
)

__all__: list[str] = []


def test_an_empty_adjustment_requests_nothing() -> None:
    assert Adjustment().message == ContainerAdjustment()


def test_on_top_of_a_message() -> None:
    message = ContainerAdjustment(args=["sh"])
    assert Adjustment(message).add_env("A", "b").message is message
    assert list(message.args) == ["sh"]
    assert message.env[0].key == "A"


def test_annotations() -> None:
    adjustment = Adjustment().remove_annotation("a").add_annotation("a", "1")
    adjustment.add_annotation("b", "").remove_annotation("c")
    assert adjustment.message.annotations == {"-a": "", "a": "1", "b": "", "-c": ""}


def test_mounts() -> None:
    options = ["ro"]
    adjustment = Adjustment().add_mount("/a", source="/b", type="bind", options=options)
    options.append("rw")
    adjustment.add_mount("/c").remove_mount("/d")
    first, second, third = adjustment.message.mounts
    assert (first.destination, first.source, first.type) == ("/a", "/b", "bind")
    assert list(first.options) == ["ro"]
    assert second.destination == "/c"
    assert (third.destination, third.source) == ("-/d", "")


def test_env() -> None:
    adjustment = Adjustment().add_env("A", "1").add_env("B", "").remove_env("B")
    assert [(e.key, e.value) for e in adjustment.message.env] == [
        ("A", "1"),
        ("B", ""),
        ("-B", ""),
    ]


def test_args() -> None:
    adjustment = Adjustment().set_args(["sh", ""])
    assert list(adjustment.message.args) == ["sh", ""]
    assert list(adjustment.replace_args(iter(["a"])).message.args) == ["", "a"]
    assert list(adjustment.set_args(["b"]).message.args) == ["b"]


def test_args_that_would_be_a_replacement() -> None:
    with pytest.raises(ValueError, match="replace_args"):
        Adjustment().set_args(["", "sh"])


def test_hooks() -> None:
    adjustment = Adjustment().add_hook("prestart", "/bin/a")
    adjustment.add_hook("prestart", "/bin/b", args=["b", "-x"], env=["A=1"], timeout=1)
    adjustment.add_hook("poststop", "/bin/c", timeout=5)
    first, second = adjustment.message.hooks.prestart
    assert first == Hook(path="/bin/a")
    assert (list(second.args), list(second.env)) == (["b", "-x"], ["A=1"])
    assert optional.get(second, "timeout") == 1
    assert optional.get(adjustment.message.hooks.poststop[0], "timeout") == 5


def test_hooks_of_all_stages_are_appended() -> None:
    hooks = Hooks(**{name: [Hook(path=f"/{name}")] for name in Hooks.DESCRIPTOR.fields_by_name})
    adjustment = Adjustment().add_hooks(hooks).add_hooks(hooks)
    assert len(Hooks.DESCRIPTOR.fields_by_name) == 6
    for name in Hooks.DESCRIPTOR.fields_by_name:
        assert list(getattr(adjustment.message.hooks, name)) == [Hook(path=f"/{name}")] * 2


def test_an_unknown_hook_stage() -> None:
    with pytest.raises(ValueError, match=r"^hook stage must be one of prestart.*, not 'createRun"):
        Adjustment().add_hook("createRuntime", "/bin/a")  # type: ignore[arg-type]


def test_rlimits() -> None:
    adjustment = Adjustment().add_rlimit("RLIMIT_NOFILE", hard=2**64 - 1, soft=1024)
    (rlimit,) = adjustment.message.rlimits
    assert (rlimit.type, rlimit.hard, rlimit.soft) == ("RLIMIT_NOFILE", 2**64 - 1, 1024)


def test_devices() -> None:
    adjustment = Adjustment().add_device("/dev/null", "c", 1, 3)
    adjustment.add_device("/dev/x", "b", 2, 4, file_mode=0o600, uid=0, gid=5)
    adjustment.remove_device("/dev/y")
    first, second, third = adjustment.message.linux.devices
    assert (first.path, first.type, first.major, first.minor) == ("/dev/null", "c", 1, 3)
    assert optional.get(first, "file_mode") is optional.get(first, "uid") is None
    assert optional.get(second, "file_mode") == 0o600
    assert optional.get(second, "uid") == 0
    assert optional.get(second, "gid") == 5
    assert third.path == "-/dev/y"


def test_cdi_devices() -> None:
    adjustment = Adjustment().add_cdi_device("vendor.com/gpu=0").add_cdi_device("vendor.com/gpu=1")
    names = [device.name for device in adjustment.message.CDI_devices]
    assert names == ["vendor.com/gpu=0", "vendor.com/gpu=1"]


def test_namespaces() -> None:
    adjustment = Adjustment().set_namespace("network", "/proc/1/ns/net").set_namespace("ipc")
    adjustment.remove_namespace("pid")
    namespaces = [(n.type, n.path) for n in adjustment.message.linux.namespaces]
    assert namespaces == [("network", "/proc/1/ns/net"), ("ipc", ""), ("-pid", "")]


def test_net_devices() -> None:
    adjustment = Adjustment().add_net_device("eth1", "net0").add_net_device("eth2")
    adjustment.remove_net_device("eth3")
    devices = adjustment.message.linux.net_devices
    assert {key: device.name for key, device in devices.items()} == {
        "eth1": "net0",
        "eth2": "",
        "-eth3": "",
    }


def test_sysctls() -> None:
    adjustment = Adjustment().set_sysctl("a", "1").remove_sysctl("b")
    assert adjustment.message.linux.sysctl == {"a": "1", "-b": ""}


def test_cgroups_path() -> None:
    assert Adjustment().set_cgroups_path("/x").message.linux.cgroups_path == "/x"


def test_oom_score() -> None:
    adjustment = Adjustment().set_oom_score_adj(0)
    assert optional.get(adjustment.message.linux, "oom_score_adj") == 0
    assert optional.get(adjustment.set_oom_score_adj(-1000).message.linux, "oom_score_adj") == -1000
    assert optional.get(adjustment.set_oom_score_adj(None).message.linux, "oom_score_adj") is None


@pytest.mark.parametrize("io_class", ["IOPRIO_CLASS_BE", IOPrioClass.IOPRIO_CLASS_BE, 2])
def test_io_priority(io_class: str | IOPrioClass | int) -> None:
    adjustment = Adjustment().set_io_priority(3).set_io_priority(io_class, 7)
    assert getattr(adjustment.message.linux.io_priority, "class") == IOPrioClass.IOPRIO_CLASS_BE
    assert adjustment.message.linux.io_priority.priority == 7


def test_scheduler() -> None:
    adjustment = Adjustment().set_scheduler("SCHED_OTHER", nice=-5)
    adjustment.set_scheduler(
        LinuxSchedulerPolicy.SCHED_DEADLINE,
        flags=["SCHED_FLAG_RECLAIM", 2],
        runtime=2000,
        deadline=4000,
        period=2**63 - 1,
    )
    scheduler = adjustment.message.linux.scheduler
    assert scheduler.policy == LinuxSchedulerPolicy.SCHED_DEADLINE
    assert (scheduler.nice, scheduler.priority, list(scheduler.flags)) == (0, 0, [1, 2])
    assert (scheduler.runtime, scheduler.deadline, scheduler.period) == (2000, 4000, 2**63 - 1)


def test_memory_policy_replaces_all() -> None:
    adjustment = Adjustment().set_memory_policy("MPOL_BIND", "0-1", ["MPOL_F_STATIC_NODES"])
    assert list(adjustment.message.linux.memory_policy.flags) == [0]
    policy = adjustment.set_memory_policy(MpolMode.MPOL_PREFERRED).message.linux.memory_policy
    assert (policy.mode, policy.nodes, list(policy.flags)) == (1, "", [])


def test_seccomp_policy_is_copied() -> None:
    policy = LinuxSeccomp(default_action="SCMP_ACT_ERRNO")
    adjustment = Adjustment().set_seccomp_policy(policy)
    policy.default_action = "SCMP_ACT_ALLOW"
    assert adjustment.message.linux.seccomp_policy.default_action == "SCMP_ACT_ERRNO"


def test_rdt() -> None:
    adjustment = Adjustment().set_rdt(
        clos_id="a", schemata=["L3:0=f", "MB:0=50"], enable_monitoring=True
    )
    adjustment.set_rdt(schemata=[]).set_rdt(enable_monitoring=False)
    rdt = adjustment.message.linux.rdt
    assert optional.get(rdt, "clos_id") == "a"
    assert optional.get(rdt, "schemata") == []
    assert optional.get(rdt, "enable_monitoring") is False
    assert not adjustment.message.linux.rdt.remove


def test_removed_rdt() -> None:
    rdt = Adjustment().set_rdt(clos_id="a").remove_rdt().message.linux.rdt
    assert rdt.remove
    assert optional.get(rdt, "clos_id") == "a"


def test_no_rdt() -> None:
    assert not Adjustment().set_rdt().message.HasField("linux")


CALLS: list[tuple[Callable[[Adjustment], object], str]] = [
    (lambda a: a.add_annotation("-a", "b"), "annotation key '-a' .* remove_annotation"),
    (lambda a: a.add_mount("-/a"), "mount destination '-/a' .* remove_mount"),
    (lambda a: a.add_env("-A", "b"), "environment key '-A' .* remove_env"),
    (lambda a: a.add_device("-/dev/a", "c", 1, 1), "device path '-/dev/a' .* remove_device"),
    (lambda a: a.set_namespace("-pid"), "namespace type '-pid' .* remove_namespace"),
    (lambda a: a.add_net_device("-eth0"), "network device '-eth0' .* remove_net_device"),
    (lambda a: a.set_sysctl("-a", "1"), "sysctl '-a' .* remove_sysctl"),
    (lambda a: a.add_annotation("\ud800", "b"), "annotation key"),
    (lambda a: a.add_annotation("a", "\ud800"), "annotation 'a'"),
    (lambda a: a.add_env("A", "\ud800"), "environment variable 'A'"),
    (lambda a: a.add_mount("/a", options=["\ud800"]), r"Mount.options\[0\]"),
    (lambda a: a.remove_mount("\ud800"), "key"),
    (lambda a: a.set_args(["\ud800"]), r"args\[0\]"),
    (lambda a: a.add_hook("prestart", "/a", timeout=2**63), "Hook.timeout"),
    (lambda a: a.add_hook("prestart", "/a", env=["\ud800"]), r"Hook.env\[0\]"),
    (lambda a: a.add_rlimit("RLIMIT_CORE", hard=-1, soft=0), "POSIXRlimit.hard"),
    (lambda a: a.add_rlimit("RLIMIT_CORE", hard=0, soft=2**64), "POSIXRlimit.soft"),
    (lambda a: a.add_device("/a", "c", 2**63, 1), "LinuxDevice.major"),
    (lambda a: a.add_device("/a", "c", 1, 1, uid=-1), "LinuxDevice.uid"),
    (lambda a: a.add_device("/a", "c", 1, 1, file_mode=2**32), "LinuxDevice.file_mode"),
    (lambda a: a.add_cdi_device("\ud800"), "CDIDevice.name"),
    (lambda a: a.set_sysctl("a", "\ud800"), "sysctl 'a'"),
    (lambda a: a.set_cgroups_path("\ud800"), "cgroups_path"),
    (lambda a: a.set_oom_score_adj(2**63), "LinuxContainerAdjustment.oom_score_adj"),
    (lambda a: a.set_io_priority("IOPRIO_CLASS_BEST"), "LinuxIOPriority.class"),
    (lambda a: a.set_io_priority("IOPRIO_CLASS_BE", 2**31), "LinuxIOPriority.priority"),
    (lambda a: a.set_scheduler("SCHED_FAIR"), "LinuxScheduler.policy"),
    (lambda a: a.set_scheduler(8), "LinuxScheduler.policy"),
    (lambda a: a.set_scheduler("SCHED_RR", flags=["RECLAIM"]), r"LinuxScheduler.flags\[0\]"),
    (lambda a: a.set_scheduler("SCHED_RR", runtime=-1), "LinuxScheduler.runtime"),
    (lambda a: a.set_memory_policy("MPOL_NEAR"), "LinuxMemoryPolicy.mode"),
    (lambda a: a.set_memory_policy("MPOL_BIND", "0", [3]), r"LinuxMemoryPolicy.flags\[0\]"),
    (lambda a: a.set_rdt(clos_id="\ud800"), "LinuxRdt.clos_id"),
    (lambda a: a.set_rdt(clos_id="a", schemata=["\ud800"]), r"LinuxRdt.schemata\[0\]"),
]


@pytest.mark.parametrize(("call", "message"), CALLS)
def test_bad_values_are_named_and_change_nothing(
    call: Callable[[Adjustment], object], message: str
) -> None:
    adjustment = Adjustment()
    with pytest.raises(ValueError, match=f"^{message}"):
        call(adjustment)
    assert adjustment.message.SerializeToString() == b""


TYPES: list[tuple[Callable[[Any], object], str]] = [
    (lambda a: a.add_annotation("a", 1), "annotation 'a' must be a str, not int"),
    (lambda a: a.add_env(1, "a"), "environment key must be a str"),
    (lambda a: a.add_mount("/a", options="ro"), "Mount.options must be a sequence of str"),
    (lambda a: a.set_args("sh"), "args must be a sequence of str"),
    (lambda a: a.set_args(None), "args must be a sequence of str"),
    (lambda a: a.add_rlimit("a", hard="1", soft=1), "POSIXRlimit.hard must be an int"),
    (lambda a: a.add_device("/a", "c", "1", 1), "LinuxDevice.major must be an int"),
    (lambda a: a.set_oom_score_adj(1.0), "LinuxContainerAdjustment.oom_score_adj must be an int"),
    (lambda a: a.set_io_priority(None), "LinuxIOPriority.class must be an int"),
    (lambda a: a.set_scheduler("SCHED_RR", flags=1), "LinuxScheduler.flags must be a sequence"),
    (lambda a: a.add_hooks(None), "hooks must be a Hooks message, not NoneType"),
    (lambda a: a.set_seccomp_policy("x"), "policy must be a LinuxSeccomp message, not str"),
    (lambda a: a.set_rdt(schemata="L3"), "LinuxRdt.schemata must be a sequence of str"),
    (lambda a: a.set_rdt(enable_monitoring=1), "LinuxRdt.enable_monitoring must be a bool"),
]


@pytest.mark.parametrize(("call", "message"), TYPES)
def test_wrong_types_are_named_and_change_nothing(
    call: Callable[[Any], object], message: str
) -> None:
    adjustment = Adjustment()
    with pytest.raises(TypeError, match=f"^{message}"):
        call(adjustment)
    assert adjustment.message.SerializeToString() == b""


def test_equality() -> None:
    assert Adjustment().add_env("A", "1") == Adjustment().add_env("A", "1")
    assert Adjustment().add_env("A", "1") != Adjustment().add_env("A", "2")
    assert Adjustment() != ContainerAdjustment()
