"""Conversions between messages and the OCI runtime specification.

The OCI side is what ``json.loads`` makes of a config.json and ``json.dumps`` takes: dicts, lists,
texts and numbers. A key that has nothing to say is left out, where Go's encoder leaves it out too.
Both directions copy.

Something of a wrong type raises TypeError; a number that the message cannot hold, an unknown name
such as that of a scheduler flag, or text that is not valid Unicode raises ValueError. Keys that the
NRI protocol has no field for are ignored.
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

#: The limit of processes that stands for none.
UNLIMITED_PIDS = -1


def env_from_oci(env: Iterable[str] | None) -> list[KeyValue]:
    """``process.env``, split at the first ``=``. An entry without one has an empty value.

    A key may occur twice: containerd puts the image's entry before the manifest's, and the last one counts.
    """
    entries = (entry.partition("=") for entry in _check.texts("env", env or ()))
    return [KeyValue(key=key, value=value) for key, _, value in entries]


def env_to_oci(env: Iterable[KeyValue]) -> list[str]:
    """``process.env``, always with a ``=``."""
    return [f"{entry.key}={entry.value}" for entry in env]


def mounts_from_oci(mounts: Sequence[Object] | None) -> list[Mount]:
    """``mounts``, without mappings of ids."""
    return read_list(Mount, mounts, "mounts")


def mounts_to_oci(mounts: Iterable[Mount]) -> list[dict[str, Any]]:
    """``mounts``. Options go over as they are, ``relabel`` included, which no kernel knows."""
    return [write(mount) for mount in mounts]


def hooks_from_oci(hooks: Object | None) -> Hooks | None:
    """``hooks``."""
    return None if hooks is None else read(Hooks(), hooks, "hooks")


def hooks_to_oci(hooks: Hooks) -> dict[str, Any]:
    """``hooks``, with the stages that have any."""
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
    """``linux.resources``. Classes of block I/O and RDT are not in there."""
    return None if resources is None else read(LinuxResources(), resources, "resources")


def resources_to_oci(resources: LinuxResources) -> dict[str, Any]:
    """``linux.resources``, always with ``cpu`` and ``memory``.

    A negative limit of processes is unlimited, for which the specification wants no limit at all.
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
    """``process.ioPriority``. An empty class is none."""
    if priority is None:
        return None
    named = {**priority, "class": priority.get("class") or "IOPRIO_CLASS_NONE"}
    return read(LinuxIOPriority(), named, "ioPriority")


def io_priority_to_oci(priority: LinuxIOPriority) -> dict[str, Any]:
    """``process.ioPriority``. No class is an empty one."""
    written = write(priority)
    if written["class"] == IOPrioClass.Name(0):
        written["class"] = ""
    return written


def scheduler_from_oci(scheduler: Object | None) -> LinuxScheduler | None:
    """``process.scheduler``. An empty policy is none."""
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
    """``linux.intelRdt``; what is not there is not set."""
    return None if rdt is None else read(LinuxRdt(), rdt, "intelRdt")


def rdt_to_oci(rdt: LinuxRdt) -> dict[str, Any]:
    """``linux.intelRdt``. There is no word for ``remove`` in it."""
    return write(rdt)
