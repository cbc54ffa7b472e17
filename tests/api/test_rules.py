"""The setter refuses each value that no runtime accepts, and impossible() finds it in a raw message.

Other values pass.
"""

from __future__ import annotations

import re
from typing import Any, Callable

import pytest

from nri_sync.api import (
    Adjustment,
    Hook,
    Hooks,
    LinuxSeccomp,
    LinuxSeccompArg,
    LinuxSyscall,
    impossible,
)

__all__: list[str] = []

Call = Callable[[Adjustment], object]


def seccomp(action: str = "SCMP_ACT_ERRNO", **syscall: Any) -> LinuxSeccomp:
    policy = LinuxSeccomp(default_action="SCMP_ACT_ALLOW")
    values: dict[str, Any] = {"names": ["read"], "action": action, **syscall}
    policy.syscalls.append(LinuxSyscall(**values))
    return policy


REFUSED: list[tuple[Call, str]] = [
    (lambda a: a.add_annotation("", "1"), r"annotation key '' is empty"),
    (lambda a: a.remove_annotation(""), r"annotation key '' is empty"),
    # Mounts
    (lambda a: a.add_mount(""), r"mount destination '' is not an absolute path"),
    (lambda a: a.add_mount("data"), r"mount destination 'data' is not an absolute path"),
    (lambda a: a.add_mount("./data"), r"mount destination './data' is not an absolute path"),
    (lambda a: a.add_mount("/a\0b"), r"mount destination '/a\\x00b' has a NUL character"),
    (lambda a: a.add_mount("/a", source="/x\0"), r"source of the mount at '/a' .* NUL"),
    (lambda a: a.add_mount("/a", type="x\0"), r"type of the mount at '/a' .* NUL"),
    (lambda a: a.add_mount("/a", options=["r\0"]), r"option of the mount at '/a' .* NUL"),
    (lambda a: a.add_mount("/a", options=["ro", ""]), r"option of the mount at '/a' '' is empty"),
    (
        lambda a: a.add_mount("/a", source="x", type="bind"),
        r"source .* '/a', .* bind .* 'x' is not",
    ),
    (lambda a: a.add_mount("/a", options=["rbind"]), r"source of .* '/a', .* bind .* '' is not"),
    (lambda a: a.add_mount("/a", source="x", options=["ro", "bind"]), r"source of .* 'x' is not"),
    (lambda a: a.remove_mount("data"), r"mount destination 'data' is not an absolute path"),
    (lambda a: a.remove_mount(""), r"mount destination '' is not an absolute path"),
    # Environment
    (lambda a: a.add_env("", "1"), r"environment key '' is empty"),
    (lambda a: a.add_env("A=B", "1"), r"environment key 'A=B' contains a '='"),
    (lambda a: a.add_env("=", "1"), r"environment key '=' contains a '='"),
    (lambda a: a.add_env("A\0", "1"), r"environment key 'A\\x00' has a NUL"),
    (
        lambda a: a.add_env("A", "1\0"),
        r"environment variable 'A' with the value '1\\x00' has a NUL",
    ),
    (lambda a: a.remove_env("A=B"), r"environment key 'A=B' contains a '='"),
    (lambda a: a.remove_env(""), r"environment key '' is empty"),
    # Command lines
    (lambda a: a.set_args([]), r"args \[\] sets nothing"),
    (lambda a: a.replace_args([""]), r"args \[''\] begins with an empty text"),
    (lambda a: a.set_args(["sh", "a\0"]), r"args\[1\] 'a\\x00' has a NUL"),
    # Hooks
    (lambda a: a.add_hook("poststop", ""), r"hook path '' is not an absolute path"),
    (lambda a: a.add_hook("poststop", "hook"), r"hook path 'hook' is not an absolute path"),
    (lambda a: a.add_hook("poststop", "/h\0"), r"hook path '/h\\x00' has a NUL"),
    (lambda a: a.add_hook("poststop", "/h", args=["\0"]), r"argument of the hook '/h' .* NUL"),
    (
        lambda a: a.add_hook("poststop", "/h", env=["A"]),
        r"environment .* '/h' 'A' is not of the form",
    ),
    (lambda a: a.add_hook("poststop", "/h", env=["=1"]), r"environment .* '=1' is not of the form"),
    (lambda a: a.add_hook("poststop", "/h", env=[""]), r"environment .* '' is not of the form"),
    (lambda a: a.add_hook("poststop", "/h", env=["A=\0"]), r"environment .* NUL"),
    (
        lambda a: a.add_hook("poststop", "/h", timeout=0),
        r"timeout of the hook '/h' 0 must be from 1",
    ),
    (lambda a: a.add_hook("poststop", "/h", timeout=-1), r"timeout of the hook '/h' -1 must be"),
    (
        lambda a: a.add_hook("poststop", "/h", timeout=2**62),
        r"timeout of the hook '/h' \d+ must be",
    ),
    (lambda a: a.add_hooks(Hooks(prestart=[Hook(path="x")])), r"hook path 'x' is not an absolute"),
    # Limits
    (lambda a: a.add_rlimit("", hard=1, soft=1), r"rlimit type '' is none of RLIMIT_AS"),
    (lambda a: a.add_rlimit("NOFILE", hard=1, soft=1), r"rlimit type 'NOFILE' is none of"),
    (
        lambda a: a.add_rlimit("rlimit_core", hard=1, soft=1),
        r"rlimit type 'rlimit_core' is none of",
    ),
    (
        lambda a: a.add_rlimit("RLIMIT_CORE", hard=1, soft=2),
        r"soft limit of RLIMIT_CORE 2 is above .* 1",
    ),
    # Devices
    (lambda a: a.add_device("dev/x", "c", 1, 3), r"device path 'dev/x' is not an absolute path"),
    (lambda a: a.add_device("", "c", 1, 3), r"device path '' is not an absolute path"),
    (lambda a: a.add_device("/dev/x", "", 1, 3), r"type of the device '/dev/x' '' is none of 'c'"),
    (lambda a: a.add_device("/dev/x", "char", 1, 3), r"type of the device '/dev/x' 'char' is none"),
    (lambda a: a.add_device("/dev/x", "a", 1, 3), r"type of the device '/dev/x' 'a' is none"),
    (
        lambda a: a.add_device("/dev/x", "c", -1, 3),
        r"major number of .* '/dev/x' -1 must be .* 4095",
    ),
    (lambda a: a.add_device("/dev/x", "b", 4096, 0), r"major number of .* 4096 must be"),
    (lambda a: a.add_device("/dev/x", "c", 1, -1), r"minor number of .* -1 must be .* 1048575"),
    (lambda a: a.add_device("/dev/x", "c", 1, 1 << 20), r"minor number of .* 1048576 must be"),
    (lambda a: a.remove_device("dev/x"), r"device path 'dev/x' is not an absolute path"),
    # Namespaces and interfaces
    (lambda a: a.set_namespace(""), r"namespace type '' is none of pid, network"),
    (lambda a: a.set_namespace("net"), r"namespace type 'net' is none of"),
    (
        lambda a: a.set_namespace("pid", "proc"),
        r"path of the pid namespace 'proc' is not an absolute",
    ),
    (lambda a: a.remove_namespace("mnt"), r"namespace type 'mnt' is none of"),
    (lambda a: a.add_net_device(""), r"network device '' is not the name of an interface"),
    (lambda a: a.add_net_device("eth0/1"), r"network device 'eth0/1' is not the name"),
    (lambda a: a.add_net_device("eth 0"), r"network device 'eth 0' is not the name"),
    (lambda a: a.add_net_device("eth:0"), r"network device 'eth:0' is not the name"),
    (lambda a: a.add_net_device(".."), r"network device '..' is not the name"),
    (lambda a: a.add_net_device("e" * 16), r"network device 'e+' is not the name"),
    (lambda a: a.add_net_device("\u00e9" * 8), r"network device '.*' is not the name"),
    (lambda a: a.add_net_device("eth0", "a/b"), r"network device 'a/b' is not the name"),
    (lambda a: a.remove_net_device("a/b"), r"network device 'a/b' is not the name"),
    # Sysctls and cgroups
    (lambda a: a.set_sysctl("", "1"), r"sysctl '' is not a name"),
    (lambda a: a.set_sysctl("a.b=1", "1"), r"sysctl 'a.b=1' is not a name"),
    (lambda a: a.set_sysctl("a b", "1"), r"sysctl 'a b' is not a name"),
    (lambda a: a.set_sysctl("a.b", "1\0"), r"value of the sysctl 'a.b': '1\\x00' has a NUL"),
    (
        lambda a: a.set_sysctl("a.b", ""),
        r"value of the sysctl 'a.b': '' sets nothing; .*remove_sysctl",
    ),
    (lambda a: a.remove_sysctl(""), r"sysctl '' is not a name"),
    (lambda a: a.set_cgroups_path(""), r"cgroups_path '' sets nothing"),
    (lambda a: a.set_cgroups_path("/a\0"), r"cgroups_path '/a\\x00' has a NUL"),
    # Priorities
    (lambda a: a.set_oom_score_adj(2000), r"oom_score_adj 2000 must be from -1000 to 1000"),
    (lambda a: a.set_oom_score_adj(-1001), r"oom_score_adj -1001 must be"),
    (lambda a: a.set_io_priority("IOPRIO_CLASS_BE", 8), r"I/O priority 8 must be from 0 to 7"),
    (lambda a: a.set_io_priority("IOPRIO_CLASS_BE", -1), r"I/O priority -1 must be"),
    (
        lambda a: a.set_io_priority("IOPRIO_CLASS_NONE"),
        r"class of the I/O priority 'IOPRIO_CLASS_NONE'",
    ),
    (lambda a: a.set_scheduler("SCHED_NONE"), r"scheduler policy 'SCHED_NONE' cannot be set"),
    (lambda a: a.set_scheduler("SCHED_ISO"), r"scheduler policy 'SCHED_ISO' cannot be set"),
    (lambda a: a.set_scheduler("SCHED_OTHER", nice=20), r"nice value of the scheduler 20 must be"),
    (
        lambda a: a.set_scheduler("SCHED_OTHER", nice=-21),
        r"nice value of the scheduler -21 must be",
    ),
    (lambda a: a.set_scheduler("SCHED_FIFO"), r"priority of SCHED_FIFO 0 must be from 1 to 99"),
    (lambda a: a.set_scheduler("SCHED_RR", priority=100), r"priority of SCHED_RR 100 must be"),
    (
        lambda a: a.set_scheduler("SCHED_OTHER", priority=1),
        r"priority of SCHED_OTHER 1 is only for",
    ),
    (
        lambda a: a.set_scheduler("SCHED_IDLE", period=5),
        r"runtime.* of SCHED_IDLE \(0, 0, 5\) are only",
    ),
    (
        lambda a: a.set_scheduler("SCHED_DEADLINE"),
        r"runtime.* of SCHED_DEADLINE \(0, 0, 0\) must be",
    ),
    (
        lambda a: a.set_scheduler("SCHED_DEADLINE", runtime=5000, deadline=4000, period=9000),
        r"runtime.* \(5000, 4000, 9000\) must be in that order",
    ),
    # Memory policies
    (lambda a: a.set_memory_policy("MPOL_BIND"), r"nodes of MPOL_BIND '' are too few"),
    (
        lambda a: a.set_memory_policy("MPOL_INTERLEAVE", " "),
        r"nodes of MPOL_INTERLEAVE ' ' are too few",
    ),
    (lambda a: a.set_memory_policy("MPOL_LOCAL", "0"), r"nodes of MPOL_LOCAL '0' are too many"),
    (lambda a: a.set_memory_policy("MPOL_DEFAULT", "0"), r"nodes of MPOL_DEFAULT '0' are too many"),
    (lambda a: a.set_memory_policy("MPOL_BIND", "a-b"), r"nodes of MPOL_BIND 'a-b' is not a list"),
    (lambda a: a.set_memory_policy("MPOL_BIND", "0", [0, 1]), r"flags of MPOL_BIND .* exclude"),
    (lambda a: a.set_memory_policy("MPOL_LOCAL", "", [2]), r"flag of MPOL_LOCAL .* is only for"),
    # Seccomp
    (
        lambda a: a.set_seccomp_policy(LinuxSeccomp()),
        r"default action of seccomp '' is none of SCMP",
    ),
    (
        lambda a: a.set_seccomp_policy(seccomp("ERRNO")),
        r"action of .*\['read'\] 'ERRNO' is none of",
    ),
    (lambda a: a.set_seccomp_policy(seccomp(names=[])), r"names of .* \[\] must not be empty"),
    (lambda a: a.set_seccomp_policy(seccomp(names=[""])), r"names of .* \[''\] must not be empty"),
    (
        lambda a: a.set_seccomp_policy(seccomp(args=[LinuxSeccompArg(index=6, op="SCMP_CMP_EQ")])),
        r"argument's index of .*\['read'\] 6 must be below 6",
    ),
    (
        lambda a: a.set_seccomp_policy(seccomp(args=[LinuxSeccompArg(op="==")])),
        r"operator of .*\['read'\] '==' is none of",
    ),
    # RDT
    (lambda a: a.set_rdt(clos_id=".."), r"clos_id '..' is not the name of a directory"),
    (lambda a: a.set_rdt(clos_id="a/b"), r"clos_id 'a/b' is not the name of a directory"),
    (lambda a: a.set_rdt(schemata=["L3"]), r"line of the schemata 'L3' is not one line"),
    (lambda a: a.set_rdt(schemata=["L3:0=f\nMB:0=5"]), r"line of the schemata .* is not one line"),
    # CDI
    (lambda a: a.add_cdi_device(""), r"CDI device '' is not of the form"),
    (lambda a: a.add_cdi_device("all"), r"CDI device 'all' is not of the form"),
    (lambda a: a.add_cdi_device("gpu=0"), r"CDI device 'gpu=0' is not of the form"),
    (lambda a: a.add_cdi_device("nvidia.com/gpu"), r"CDI device 'nvidia.com/gpu' is not of"),
    (lambda a: a.add_cdi_device("nvidia.com/gpu="), r"CDI device 'nvidia.com/gpu=' is not of"),
    (lambda a: a.add_cdi_device("nvidia.com=0"), r"CDI device 'nvidia.com=0' is not of"),
    (lambda a: a.add_cdi_device("/gpu=0"), r"CDI device '/gpu=0' is not of"),
    (lambda a: a.add_cdi_device("nvidia.com/=0"), r"CDI device 'nvidia.com/=0' is not of"),
    (lambda a: a.add_cdi_device(" nvidia.com/gpu=0"), r"CDI device ' nvidia.com/gpu=0' is not of"),
    (lambda a: a.add_cdi_device("nvidia.com/gpu=0 "), r"CDI device 'nvidia.com/gpu=0 ' is not of"),
    (
        lambda a: a.add_cdi_device("nvidia.com/gpu=0\n"),
        r"CDI device 'nvidia.com/gpu=0\\n' is not of",
    ),
    (lambda a: a.add_cdi_device("1a.com/gpu=0"), r"CDI device '1a.com/gpu=0' is not of"),
    (lambda a: a.add_cdi_device("nvidia.com/gpu=*"), r"CDI device 'nvidia.com/gpu=\*' is not of"),
    (lambda a: a.add_cdi_device('["nvidia.com/gpu=0"]'), r"CDI device '\[.* is not of"),
]


@pytest.mark.parametrize(("call", "text"), REFUSED)
def test_a_setter_refuses_and_changes_nothing(call: Call, text: str) -> None:
    adjustment = Adjustment()
    with pytest.raises(ValueError, match=f"^{text}"):
        call(adjustment)
    assert adjustment.message.SerializeToString() == b""


@pytest.mark.parametrize(("call", "text"), REFUSED)
def test_a_mistake_is_found_in_a_raw_message(
    call: Call, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setters without their rules make the raw message."""
    with monkeypatch.context() as context:
        for name in ("adjustment", "resources"):
            context.setattr(f"nri_sync.api.{name}.rules", _NoRules())
        adjustment = Adjustment()
        call(adjustment)
    found = impossible(adjustment.message)
    if "sets nothing" in text and not adjustment.message.linux.sysctl:
        # An empty field of a message is the same as an unset one.
        assert len(found) == bool(adjustment.message.args)
    else:
        (line,) = found
        assert re.match(text, line)


class _NoRules:
    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: None


TAKEN: list[Call] = [
    lambda a: a.add_annotation("k", "").add_annotation("\u00e9 x", "a\nb").remove_annotation("x"),
    lambda a: a.add_mount("/a", source="tmpfs", type="tmpfs", options=["size=1m,mode=755"]),
    lambda a: a.add_mount("/a", source="proc", type="proc").add_mount("/b"),
    lambda a: a.add_mount("/a", source="/x", options=["rbind", "ro"]).remove_mount("/"),
    lambda a: a.add_env("A", "").add_env("a.b-c", "x=y\nz").add_env(" ", "\x01").remove_env("B"),
    lambda a: a.set_args(["sh", "", "-c"]),
    lambda a: a.replace_args(["sh"]),
    lambda a: a.replace_args([]),
    lambda a: a.add_hook("prestart", "/h", args=["", "x"], env=["A=", "B=1=2"], timeout=1),
    lambda a: a.add_rlimit("RLIMIT_NOFILE", hard=2**64 - 1, soft=0),
    lambda a: a.add_rlimit("RLIMIT_RTTIME", hard=5, soft=5),
    lambda a: a.add_device("/dev/x", "c", 0, 0).add_device("/dev/y", "b", 4095, (1 << 20) - 1),
    lambda a: a.add_device("/dev/x", "p", 0, 0, file_mode=0o10644).add_device("/y", "u", 1, 1),
    lambda a: a.remove_device("/dev/x"),
    lambda a: [a.set_namespace(t) for t in ("pid", "network", "mount", "ipc", "uts", "user")],
    lambda a: a.set_namespace("cgroup", "/x").set_namespace("time").remove_namespace("pid"),
    lambda a: a.add_net_device("eth0.100").add_net_device("e" * 15, "...").remove_net_device("x"),
    lambda a: a.set_sysctl("net.core.somaxconn", "1").set_sysctl("net/ipv4/ip_forward", "1 2\t3"),
    lambda a: a.set_cgroups_path("a.slice:cri:x").remove_sysctl("x"),
    lambda a: a.set_oom_score_adj(-1000).set_oom_score_adj(1000).set_oom_score_adj(None),
    lambda a: a.set_io_priority("IOPRIO_CLASS_RT").set_io_priority("IOPRIO_CLASS_IDLE", 7),
    lambda a: a.set_scheduler("SCHED_OTHER", nice=-20).set_scheduler("SCHED_BATCH", nice=19),
    lambda a: a.set_scheduler("SCHED_FIFO", priority=1).set_scheduler("SCHED_RR", priority=99),
    lambda a: a.set_scheduler("SCHED_DEADLINE", runtime=1024, deadline=1024),
    lambda a: a.set_scheduler("SCHED_DEADLINE", runtime=5000, deadline=6000, period=7000),
    lambda a: a.set_memory_policy("MPOL_DEFAULT").set_memory_policy("MPOL_LOCAL"),
    lambda a: a.set_memory_policy("MPOL_PREFERRED").set_memory_policy("MPOL_PREFERRED", "1"),
    lambda a: a.set_memory_policy("MPOL_BIND", "0-1,4", ["MPOL_F_NUMA_BALANCING"]),
    lambda a: a.set_memory_policy("MPOL_WEIGHTED_INTERLEAVE", "0", ["MPOL_F_RELATIVE_NODES"]),
    lambda a: a.set_seccomp_policy(
        seccomp(args=[LinuxSeccompArg(index=5, op="SCMP_CMP_MASKED_EQ")])
    ),
    lambda a: a.set_rdt(clos_id="/", schemata=["L3:0=f;1=f", "MB:0=50"]),
    lambda a: a.set_rdt(clos_id="", schemata=[]).remove_rdt(),
    lambda a: a.add_cdi_device("nvidia.com/gpu=all").add_cdi_device("v/c=0"),
    lambda a: a.add_cdi_device("a_b-c.d1/x.y=GPU-1:2.3_4").add_cdi_device("V/C=1a"),
]


@pytest.mark.parametrize("call", TAKEN)
def test_accepted_values_pass(call: Call) -> None:
    adjustment = Adjustment()
    call(adjustment)
    assert impossible(adjustment.message) == []
