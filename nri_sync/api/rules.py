"""Rules for values that no runtime accepts, and for empty values without a meaning.

A rule raises ValueError with the setting, the value and the mistake. This module has a rule for a value if the OCI
runtime specification, runc (libcontainer/configs/validate, specconv), the parser of the Container Device Interface
or the kernel refuses the value on every node. A value that at least one runtime accepts passes. The setters of
Adjustment and Update apply the rules; :func:`nri_sync.api.impossible` applies them to other messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NoReturn

from nri_sync.api._check import show
from nri_sync.api.nri_pb2 import (
    Hook,
    IOPrioClass,
    LinuxDevice,
    LinuxIOPriority,
    LinuxMemoryPolicy,
    LinuxScheduler,
    LinuxSchedulerPolicy,
    LinuxSeccomp,
    Mount,
    MpolFlag,
    MpolMode,
    POSIXRlimit,
)

__all__ = [
    "absolute",
    "annotation_key",
    "args",
    "cdi_device",
    "cgroups_path",
    "device",
    "env",
    "env_key",
    "hook",
    "io_priority",
    "memory_policy",
    "mount",
    "namespace",
    "namespace_type",
    "net_device",
    "number_list",
    "oom_score_adj",
    "plain",
    "rdt",
    "refuse",
    "rlimit",
    "scheduler",
    "seccomp",
    "sysctl",
    "sysctl_key",
]

# OCI runtime specification, config.md. The kernel has no other limits.
_RLIMITS = frozenset(
    f"RLIMIT_{name}"
    for name in (
        *("AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE", "NICE", "NOFILE"),
        *("NPROC", "RSS", "RTPRIO", "RTTIME", "SIGPENDING", "STACK"),
    )
)
_NAMESPACES = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")
_DEVICE_TYPES = {"c": "character", "b": "block", "u": "unbuffered character", "p": "FIFO"}
# The kernel's dev_t in mknod(2): 12 bits and 20 bits.
_MAJOR_MAX, _MINOR_MAX = 0xFFF, 0xFFFFF
# runc converts the timeout to nanoseconds in 64 bits.
_HOOK_TIMEOUT_MAX = (2**63 - 1) // 10**9
_NAME = r"[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?"
# ParseQualifiedName of the CDI parser.
_CDI = rf"{_NAME}/{_NAME}=[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?"
# The kernel's dev_valid_name(): IFNAMSIZ is 16, with a NUL at the end.
_INTERFACE = r"(?!\.{1,2}$)[^/:\s]+"
_INTERFACE_MAX = 15
# The kernel's bitmap_parselist(), which also accepts ranges with strides, extra commas and blanks.
_NUMBERS = r"([0-9]{1,9})(?:-([0-9]{1,9})(?::([0-9]{1,9})/([0-9]{1,9}))?)?"
_SECCOMP_ACTIONS = frozenset(
    f"SCMP_ACT_{name}"
    for name in (
        *("KILL", "KILL_PROCESS", "KILL_THREAD", "TRAP", "ERRNO", "TRACE", "ALLOW", "LOG"),
        "NOTIFY",
    )
)
_SECCOMP_OPERATORS = frozenset(
    f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
)
_SECCOMP_ARGS = 6


def refuse(what: str, value: object, why: str) -> NoReturn:
    raise ValueError(f"{what} {show(value)} {why}")


def plain(what: str, value: str) -> None:
    """Refuse a NUL character: the kernel and runtimes accept none."""
    if "\0" in value:
        refuse(what, value, "has a NUL character, where the kernel ends a text")


def absolute(what: str, path: str) -> None:
    plain(what, path)
    if not path.startswith("/"):
        refuse(what, path, "is not an absolute path")


def annotation_key(key: str) -> None:
    if not key:
        refuse("annotation key", key, "is empty")


def mount(mount: Mount) -> None:
    absolute("mount destination", mount.destination)
    what = f"of the mount at {show(mount.destination)}"
    plain(f"source {what}", mount.source)
    plain(f"type {what}", mount.type)
    for option in mount.options:
        plain(f"option {what}", option)
        if not option:
            refuse(f"option {what}", option, "is empty; leave it out")
    if mount.type in ("bind", "rbind") or not {"bind", "rbind"}.isdisjoint(mount.options):
        # The runtime would resolve a relative source below the container's bundle.
        absolute(f"source {what}, which is a bind mount,", mount.source)


def env_key(key: str) -> None:
    plain("environment key", key)
    if not key:
        refuse("environment key", key, "is empty")
    if "=" in key:
        refuse("environment key", key, "contains a '=', which separates the key from the value")


def env(key: str, value: str) -> None:
    env_key(key)
    plain(f"environment variable {show(key)} with the value", value)


def args(field: str, values: Iterable[str]) -> None:
    """Check the command line. ``values`` has no mark of a replacement."""
    arguments = list(values)
    if not arguments:
        refuse(field, arguments, "sets nothing: a command line needs a program; leave the call out")
    if not arguments[0]:
        refuse(field, arguments, "begins with an empty text, which is not a program")
    for number, argument in enumerate(arguments):
        plain(f"{field}[{number}]", argument)


def hook(hook: Hook) -> None:
    absolute("hook path", hook.path)
    what = f"of the hook {show(hook.path)}"
    for argument in hook.args:
        plain(f"argument {what}", argument)
    for entry in hook.env:
        plain(f"environment entry {what}", entry)
        if entry.find("=") < 1:
            refuse(f"environment entry {what}", entry, "is not of the form KEY=value")
    if hook.HasField("timeout") and not 1 <= hook.timeout.value <= _HOOK_TIMEOUT_MAX:
        why = f"must be from 1 to {_HOOK_TIMEOUT_MAX} seconds; leave it out for no timeout"
        refuse(f"timeout {what}", hook.timeout.value, why)


def rlimit(limit: POSIXRlimit) -> None:
    if limit.type not in _RLIMITS:
        refuse("rlimit type", limit.type, f"is none of {', '.join(sorted(_RLIMITS))}")
    if limit.soft > limit.hard:
        refuse(f"soft limit of {limit.type}", limit.soft, f"is above the hard one, {limit.hard}")


def device(device: LinuxDevice) -> None:
    absolute("device path", device.path)
    if device.type not in _DEVICE_TYPES:
        types = ", ".join(f"{key!r} ({text})" for key, text in _DEVICE_TYPES.items())
        refuse(f"type of the device {show(device.path)}", device.type, f"is none of {types}")
    if device.type == "p":
        return
    for name, most in (("major", _MAJOR_MAX), ("minor", _MINOR_MAX)):
        number = getattr(device, name)
        if not 0 <= number <= most:
            what = f"{name} number of the device {show(device.path)}"
            refuse(what, number, f"must be from 0 to {most}")


def cdi_device(name: str) -> None:
    if not re.fullmatch(_CDI, name):
        refuse("CDI device", name, "is not of the form 'vendor.com/class=name'")


def namespace_type(type: str) -> None:
    if type not in _NAMESPACES:
        refuse("namespace type", type, f"is none of {', '.join(_NAMESPACES)}")


def namespace(type: str, path: str) -> None:
    namespace_type(type)
    if path:
        absolute(f"path of the {type} namespace", path)


def net_device(name: str) -> None:
    """Check the name of a network interface."""
    if len(name.encode()) > _INTERFACE_MAX or not re.fullmatch(_INTERFACE, name) or "\0" in name:
        why = f"is not the name of an interface: 1 to {_INTERFACE_MAX} bytes without '/', ':' and blanks"
        refuse("network device", name, why)


def sysctl_key(key: str) -> None:
    plain("sysctl", key)
    if not key or re.search(r"[\s=]", key):
        refuse("sysctl", key, "is not a name such as 'net.core.somaxconn'")


def sysctl(key: str, value: str) -> None:
    sysctl_key(key)
    what = f"value of the sysctl {show(key)}:"
    plain(what, value)
    if not value:
        refuse(what, value, "sets nothing; leave it out, or use remove_sysctl")


def cgroups_path(path: str) -> None:
    plain("cgroups_path", path)
    if not path:
        refuse(
            "cgroups_path", path, "sets nothing: the path of the runtime stays; leave the call out"
        )


def oom_score_adj(score: object) -> None:
    if isinstance(score, int) and not -1000 <= score <= 1000:
        refuse("oom_score_adj", score, "must be from -1000 to 1000")


def io_priority(priority: LinuxIOPriority) -> None:
    io_class = getattr(priority, "class")
    if io_class == IOPrioClass.IOPRIO_CLASS_NONE:
        refuse("class of the I/O priority", "IOPRIO_CLASS_NONE", "cannot be set")
    if not 0 <= priority.priority <= 7:
        refuse("I/O priority", priority.priority, "must be from 0 to 7")


def scheduler(scheduler: LinuxScheduler) -> None:
    """Check a scheduler, as runc's validator and the kernel's sched_setattr(2) do."""
    policy = LinuxSchedulerPolicy.Name(scheduler.policy)
    if policy in ("SCHED_NONE", "SCHED_ISO"):
        refuse("scheduler policy", policy, "cannot be set")
    if not -20 <= scheduler.nice <= 19:
        refuse("nice value of the scheduler", scheduler.nice, "must be from -20 to 19")
    if policy in ("SCHED_FIFO", "SCHED_RR"):
        if not 1 <= scheduler.priority <= 99:
            refuse(f"priority of {policy}", scheduler.priority, "must be from 1 to 99")
    elif scheduler.priority:
        refuse(f"priority of {policy}", scheduler.priority, "is only for SCHED_FIFO and SCHED_RR")
    times = (scheduler.runtime, scheduler.deadline, scheduler.period)
    named = "runtime, deadline, period"
    if policy != "SCHED_DEADLINE":
        if any(times):
            refuse(f"{named} of {policy}", times, "are only for SCHED_DEADLINE")
    elif not 0 < times[0] <= times[1] <= (times[2] or times[1]) < 2**63:
        why = "must be in that order, from 1 to 2**63 - 1; a period of 0 is the deadline"
        refuse(f"{named} of {policy}", times, why)


def number_list(what: str, numbers: str) -> None:
    """Check a list of CPUs or NUMA nodes, as the kernel parses it."""
    found = [item for item in re.split(r"[,\s]+", numbers) if item]
    for item in found:
        match = re.fullmatch(_NUMBERS, item)
        if match is None:
            refuse(what, numbers, f"is not a list such as '0-3,8': {show(item)}")
        low, high, used, of = (None if text is None else int(text) for text in match.groups())
        if high is not None and low is not None and low > high:
            refuse(what, numbers, f"has the range {item}, which ends before it begins")
        if of is not None and used is not None and not 0 < used <= of:
            refuse(what, numbers, f"has the range {item}, which takes {used} of each {of}")
    if not found:
        refuse(what, numbers, "sets nothing: the container keeps its value; leave it out")


def memory_policy(policy: LinuxMemoryPolicy) -> None:
    """Check a memory policy, as runc's validator and the kernel's mpol_new() do."""
    mode = MpolMode.Name(policy.mode)
    what = f"nodes of {mode}"
    if policy.nodes.strip(", \t\n"):
        number_list(what, policy.nodes)
        if mode in ("MPOL_DEFAULT", "MPOL_LOCAL"):
            refuse(what, policy.nodes, "are too many: this mode has no nodes")
    elif mode not in ("MPOL_DEFAULT", "MPOL_LOCAL", "MPOL_PREFERRED"):
        refuse(what, policy.nodes, "are too few: this mode needs at least one node")
    flags = {MpolFlag.Name(flag) for flag in policy.flags}
    if flags >= {"MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"}:
        refuse(f"flags of {mode}", sorted(flags), "exclude each other")
    if "MPOL_F_NUMA_BALANCING" in flags and mode not in ("MPOL_BIND", "MPOL_PREFERRED_MANY"):
        refuse(
            f"flag of {mode}",
            "MPOL_F_NUMA_BALANCING",
            "is only for MPOL_BIND and MPOL_PREFERRED_MANY",
        )


def seccomp(policy: LinuxSeccomp) -> None:
    _action("default action of seccomp", policy.default_action)
    for syscall in policy.syscalls:
        what = f"of the seccomp rule for {show(list(syscall.names))}"
        if not all(syscall.names) or not syscall.names:
            refuse(f"names {what}", list(syscall.names), "must not be empty")
        _action(f"action {what}", syscall.action)
        for arg in syscall.args:
            if arg.index >= _SECCOMP_ARGS:
                refuse(f"argument's index {what}", arg.index, f"must be below {_SECCOMP_ARGS}")
            if arg.op not in _SECCOMP_OPERATORS:
                operators = ", ".join(sorted(_SECCOMP_OPERATORS))
                refuse(f"operator {what}", arg.op, f"is none of {operators}")


def _action(what: str, action: str) -> None:
    if action not in _SECCOMP_ACTIONS:
        refuse(what, action, f"is none of {', '.join(sorted(_SECCOMP_ACTIONS))}")


def rdt(clos_id: str | None, schemata: Iterable[str] | None) -> None:
    if clos_id is not None:
        plain("clos_id", clos_id)
        # "/" alone is the root group.
        if clos_id in (".", "..") or "\n" in clos_id or (len(clos_id) > 1 and "/" in clos_id):
            refuse("clos_id", clos_id, "is not the name of a directory in /sys/fs/resctrl")
    for line in schemata or ():
        plain("line of the schemata", line)
        if ":" not in line or "\n" in line:
            refuse("line of the schemata", line, "is not one line such as 'L3:0=f'")
