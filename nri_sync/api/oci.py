"""Conversions between messages and the OCI runtime specification.

The OCI side has the types of ``json.loads`` of a config.json and of ``json.dumps``: dicts, lists, texts and
numbers. A key with an empty value is left out if Go's encoder leaves it out, too. Both directions copy.

A value of a wrong type raises TypeError. A number that the message cannot hold, an unknown name, for example of a
scheduler flag, and text that is not valid Unicode raise ValueError. Keys without a field in the NRI protocol are
ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nri_sync.api import _check
from nri_sync.api._oci import read, read_list, write
from nri_sync.api.nri_pb2 import (
    Hooks,
    IOPrioClass,
    KeyValue,
    LinuxDevice,
    LinuxIOPriority,
    LinuxMemoryPolicy,
    LinuxNamespace,
    LinuxNetDevice,
    LinuxRdt,
    LinuxResources,
    LinuxScheduler,
    LinuxSchedulerPolicy,
    LinuxSeccomp,
    Mount,
    POSIXRlimit,
)

__all__ = [
    "UNLIMITED_PIDS",
    "devices_from_oci",
    "devices_to_oci",
    "env_from_oci",
    "env_to_oci",
    "hooks_from_oci",
    "hooks_to_oci",
    "io_priority_from_oci",
    "io_priority_to_oci",
    "memory_policy_from_oci",
    "memory_policy_to_oci",
    "mounts_from_oci",
    "mounts_to_oci",
    "namespaces_from_oci",
    "namespaces_to_oci",
    "net_devices_from_oci",
    "net_devices_to_oci",
    "rdt_from_oci",
    "rdt_to_oci",
    "resources_from_oci",
    "resources_to_oci",
    "rlimits_from_oci",
    "rlimits_to_oci",
    "scheduler_from_oci",
    "scheduler_to_oci",
    "seccomp_from_oci",
    "seccomp_to_oci",
]

Object = Mapping[str, Any]

#: The limit of processes that means unlimited.
UNLIMITED_PIDS = -1


def env_from_oci(env: Iterable[str] | None) -> list[KeyValue]:
    """``process.env``, split at the first ``=``. An entry without ``=`` has an empty value.

    A key may occur twice: containerd puts the entry of the image before the entry of the manifest. The last one
    counts.
    """
    entries = (entry.partition("=") for entry in _check.texts("env", env or ()))
    return [KeyValue(key=key, value=value) for key, _, value in entries]


def env_to_oci(env: Iterable[KeyValue]) -> list[str]:
    """``process.env``. Each entry has a ``=``."""
    return [f"{entry.key}={entry.value}" for entry in env]


def mounts_from_oci(mounts: Sequence[Object] | None) -> list[Mount]:
    """``mounts``. Id mappings are left out."""
    return read_list(Mount, mounts, "mounts")


def mounts_to_oci(mounts: Iterable[Mount]) -> list[dict[str, Any]]:
    """``mounts``. Options are copied unchanged, including ``relabel``, which the kernel does not know."""
    return [write(mount) for mount in mounts]


def hooks_from_oci(hooks: Object | None) -> Hooks | None:
    """``hooks``."""
    return None if hooks is None else read(Hooks(), hooks, "hooks")


def hooks_to_oci(hooks: Hooks) -> dict[str, Any]:
    """``hooks``, with the stages that have hooks."""
    return write(hooks)


def rlimits_from_oci(rlimits: Sequence[Object] | None) -> list[POSIXRlimit]:
    """``process.rlimits``."""
    return read_list(POSIXRlimit, rlimits, "rlimits")


def rlimits_to_oci(rlimits: Iterable[POSIXRlimit]) -> list[dict[str, Any]]:
    """``process.rlimits``."""
    return [write(rlimit) for rlimit in rlimits]


def devices_from_oci(devices: Sequence[Object] | None) -> list[LinuxDevice]:
    """``linux.devices``."""
    return read_list(LinuxDevice, devices, "devices")


def devices_to_oci(devices: Iterable[LinuxDevice]) -> list[dict[str, Any]]:
    """``linux.devices``."""
    return [write(device) for device in devices]


def namespaces_from_oci(namespaces: Sequence[Object] | None) -> list[LinuxNamespace]:
    """``linux.namespaces``."""
    return read_list(LinuxNamespace, namespaces, "namespaces")


def namespaces_to_oci(namespaces: Iterable[LinuxNamespace]) -> list[dict[str, Any]]:
    """``linux.namespaces``."""
    return [write(namespace) for namespace in namespaces]


def net_devices_from_oci(devices: Mapping[str, Object] | None) -> dict[str, LinuxNetDevice]:
    """``linux.netDevices``, by the devices' names on the host."""
    return {
        _check.text("network device", name): read(LinuxNetDevice(), device, f"netDevices[{name!r}]")
        for name, device in (devices or {}).items()
    }


def net_devices_to_oci(devices: Mapping[str, LinuxNetDevice]) -> dict[str, dict[str, Any]]:
    """``linux.netDevices``."""
    return {name: write(device) for name, device in devices.items()}


def resources_from_oci(resources: Object | None) -> LinuxResources | None:
    """``linux.resources``. The classes of block I/O and RDT are not part of it."""
    return None if resources is None else read(LinuxResources(), resources, "resources")


def resources_to_oci(resources: LinuxResources) -> dict[str, Any]:
    """``linux.resources``, always with ``cpu`` and ``memory``.

    A negative limit of processes means unlimited. The specification expresses this by the absence of the limit.
    """
    written: dict[str, Any] = {"cpu": {}, "memory": {}}
    written.update(write(resources))
    if resources.HasField("pids"):
        limit = resources.pids.limit
        written["pids"] = {"limit": limit} if limit > UNLIMITED_PIDS else {}
    return written


def seccomp_from_oci(seccomp: Object | None) -> LinuxSeccomp | None:
    """``linux.seccomp``."""
    return None if seccomp is None else read(LinuxSeccomp(), seccomp, "seccomp")


def seccomp_to_oci(seccomp: LinuxSeccomp) -> dict[str, Any]:
    """``linux.seccomp``."""
    return write(seccomp)


def io_priority_from_oci(priority: Object | None) -> LinuxIOPriority | None:
    """``process.ioPriority``. An empty class is IOPRIO_CLASS_NONE."""
    if priority is None:
        return None
    named = {**priority, "class": priority.get("class") or "IOPRIO_CLASS_NONE"}
    return read(LinuxIOPriority(), named, "ioPriority")


def io_priority_to_oci(priority: LinuxIOPriority) -> dict[str, Any]:
    """``process.ioPriority``. IOPRIO_CLASS_NONE is an empty class."""
    written = write(priority)
    if written["class"] == IOPrioClass.Name(0):
        written["class"] = ""
    return written


def scheduler_from_oci(scheduler: Object | None) -> LinuxScheduler | None:
    """``process.scheduler``. An empty policy is SCHED_NONE."""
    if scheduler is None:
        return None
    named = {**scheduler, "policy": scheduler.get("policy") or "SCHED_NONE"}
    return read(LinuxScheduler(), named, "scheduler")


def scheduler_to_oci(scheduler: LinuxScheduler) -> dict[str, Any] | None:
    """``process.scheduler``, or None without a policy."""
    return None if scheduler.policy == LinuxSchedulerPolicy.SCHED_NONE else write(scheduler)


def memory_policy_from_oci(policy: Object | None) -> LinuxMemoryPolicy | None:
    """``linux.memoryPolicy``."""
    return None if policy is None else read(LinuxMemoryPolicy(), policy, "memoryPolicy")


def memory_policy_to_oci(policy: LinuxMemoryPolicy) -> dict[str, Any]:
    """``linux.memoryPolicy``."""
    return write(policy)


def rdt_from_oci(rdt: Object | None) -> LinuxRdt | None:
    """``linux.intelRdt``. Fields for missing keys are not set."""
    return None if rdt is None else read(LinuxRdt(), rdt, "intelRdt")


def rdt_to_oci(rdt: LinuxRdt) -> dict[str, Any]:
    """``linux.intelRdt``. It has no key for the field ``remove``."""
    return write(rdt)
