"""Merges the resources that plugins set for new and for existing containers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf.message import Message

from nri_sync.api import Field, LinuxResources
from nri_sync.runtime.claims import OwnershipClaims

__all__ = ["copy_field", "merge_resources", "merge_update"]

# In the order in which the reference claims the fields: the order decides which conflict is reported.
_MEMORY = {
    "limit": Field.MemLimit,
    "reservation": Field.MemReservation,
    "swap": Field.MemSwapLimit,
    "kernel": Field.MemKernelLimit,
    "kernel_tcp": Field.MemTCPLimit,
    "swappiness": Field.MemSwappiness,
    "disable_oom_killer": Field.MemDisableOomKiller,
    "use_hierarchy": Field.MemUseHierarchy,
}
_CPU = {
    "shares": Field.CPUShares,
    "quota": Field.CPUQuota,
    "period": Field.CPUPeriod,
    "realtime_runtime": Field.CPURealtimeRuntime,
    "realtime_period": Field.CPURealtimePeriod,
}
_CPUSET = {"cpus": Field.CPUSetCPUs, "mems": Field.CPUSetMems}
_CLASSES = {"blockio_class": Field.BlockioClass, "rdt_class": Field.RdtClass}


def merge_resources(
    claims: OwnershipClaims, wanted: LinuxResources, *targets: LinuxResources
) -> None:
    """Merge the resources that a plugin sets for a new container into the request and the reply."""
    _merge_common(claims, wanted, targets)
    # The rules of the device cgroup have no owners.
    for target in targets:
        target.devices.extend(wanted.devices)
    if wanted.HasField("pids"):
        claims.claim(Field.PidsLimit)
        for target in targets:
            copy_field(target, "pids", wanted.pids)


def merge_update(claims: OwnershipClaims, wanted: LinuxResources, merged: LinuxResources) -> None:
    """Merge the resources that a plugin sets for an existing container.

    After a conflict, ``merged`` has some of the changes, and the claims so far stay.
    """
    _merge_common(claims, wanted, (merged,))
    if merged.HasField("pids"):
        # The reference tests ``merged`` here, and not the resources of the plugin.
        claims.claim(Field.PidsLimit)
    if wanted.HasField("pids"):
        claims.warn_lost(
            f"a limit of {wanted.pids.limit} processes", "updates of it are not merged"
        )
    if wanted.devices:
        claims.warn_lost("a rule for devices", "updates of them are not merged")


def copy_field(target: Message, name: str, value: Message) -> None:
    """Copy a message into a field. An empty message also sets the field."""
    field = getattr(target, name)
    field.CopyFrom(value)
    field.SetInParent()


def _merge_common(
    claims: OwnershipClaims, wanted: LinuxResources, targets: tuple[LinuxResources, ...]
) -> None:
    if wanted.HasField("memory"):
        _merge_optional(claims, _MEMORY, wanted.memory, [target.memory for target in targets])
    if wanted.HasField("cpu"):
        cpus = [target.cpu for target in targets]
        _merge_optional(claims, _CPU, wanted.cpu, cpus)
        for name, field in _CPUSET.items():
            text = getattr(wanted.cpu, name)
            if text:
                claims.claim(field)
                for cpu in cpus:
                    setattr(cpu, name, text)
    for limit in wanted.hugepage_limits:
        claims.claim(Field.HugepageLimits, limit.page_size)
        for target in targets:
            target.hugepage_limits.append(limit)
    for key in sorted(wanted.unified):
        claims.claim(Field.CgroupsUnified, key)
        for target in targets:
            target.unified[key] = wanted.unified[key]
    _merge_optional(claims, _CLASSES, wanted, targets)


def _merge_optional(
    claims: OwnershipClaims,
    fields: Mapping[str, int],
    wanted: Message,
    targets: Iterable[Message],
) -> None:
    for name, field in fields.items():
        if wanted.HasField(name):
            claims.claim(field)
            for target in targets:
                copy_field(target, name, getattr(wanted, name))
