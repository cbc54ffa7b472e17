"""Merges the adjustment of a plugin for a container that is being created, part by part.

Each change is written twice: into the container that later plugins receive, and into the adjustment that the
runtime receives. If the two differ, or a requested change is lost, the reference does the same; docs/merging.md
has the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from functools import cached_property
from operator import attrgetter
from typing import Any

from nri_sync.api import (
    Container,
    ContainerAdjustment,
    Field,
    KeyValue,
    LinuxContainer,
    LinuxContainerAdjustment,
    LinuxDevice,
    LinuxNamespace,
    LinuxRdt,
    Mount,
    removal,
)
from nri_sync.api.oci import env_to_oci
from nri_sync.runtime.claims import OwnershipClaims
from nri_sync.runtime.merge_entries import (
    ANNOTATIONS,
    NET_DEVICES,
    SYSCTL,
    delete,
    merge_list,
    merge_map,
)
from nri_sync.runtime.merge_resources import copy_field, merge_resources

__all__ = ["Original", "merge_adjustment"]

# Looking up a name in an enum takes longer than a claim.
_ARGS = Field.Args
_CDI_DEVICES = Field.CdiDevices
_CGROUPS_PATH = Field.CgroupsPath
_DEVICES = Field.Devices
_ENV = Field.Env
_HOOKS = Field.OciHooks
_MEMORY_POLICY = Field.MemoryPolicy
_MOUNTS = Field.Mounts
_NAMESPACE = Field.Namespace
_RLIMITS = Field.Rlimits
_SCHEDULER = Field.LinuxSched
_SINGLE = {
    "oom_score_adj": Field.OomScoreAdj,
    "io_priority": Field.IoPriority,
    "seccomp_policy": Field.SeccompPolicy,
}
_RDT = {
    "clos_id": Field.RdtClosID,
    "schemata": Field.RdtSchemata,
    "enable_monitoring": Field.RdtEnableMonitoring,
}
_STAGES = (
    "prestart",
    "create_runtime",
    "create_container",
    "start_container",
    "poststart",
    "poststop",
)


class Original:
    """A container before all adjustments, with the keys of its entries.

    The merge compares each plugin's keys with them.
    """

    def __init__(self, container: Container) -> None:
        self.container = container

    @cached_property
    def mounts(self) -> frozenset[str]:
        return frozenset(mount.destination for mount in self.container.mounts)

    @cached_property
    def env(self) -> frozenset[str]:
        return frozenset(map(_env_key, self.container.env))

    @cached_property
    def devices(self) -> frozenset[str]:
        return frozenset(device.path for device in self.container.linux.devices)


def merge_adjustment(
    claims: OwnershipClaims,
    wanted: ContainerAdjustment,
    original: Original,
    seen: Container,
    reply: ContainerAdjustment,
) -> None:
    """Merge the adjustment ``wanted`` of a plugin into ``seen``, which later plugins receive, and into ``reply``.

    The order of the parts is that of the reference, because the order decides which conflict is reported. Raises
    ConflictError; ``seen`` and ``reply`` are in an undefined state then.
    """
    if wanted.annotations:
        merge_map(claims, ANNOTATIONS, wanted.annotations, seen.annotations, reply.annotations)
    if wanted.mounts:
        _merge_mounts(claims, wanted.mounts, original, seen, reply)
    if wanted.env:
        _merge_env(claims, wanted.env, original, seen, reply)
    if wanted.args:
        _merge_args(claims, list(wanted.args), seen, reply)
    if wanted.HasField("hooks"):
        _merge_hooks(claims, wanted, seen, reply)
    if wanted.HasField("linux"):
        _merge_linux(claims, wanted.linux, original, seen.linux, reply.linux)
    for rlimit in wanted.rlimits:
        claims.claim(_RLIMITS, rlimit.type)
        seen.rlimits.append(rlimit)
        reply.rlimits.append(rlimit)
    # Later plugins do not see CDI devices, because only the runtime can resolve their names.
    for device in wanted.CDI_devices:
        claims.claim(_CDI_DEVICES, device.name)
        reply.CDI_devices.append(device)


def _merge_linux(
    claims: OwnershipClaims,
    wanted: LinuxContainerAdjustment,
    original: Original,
    seen: LinuxContainer,
    reply: LinuxContainerAdjustment,
) -> None:
    if wanted.devices:
        _merge_devices(claims, wanted.devices, original, seen, reply)
    if wanted.HasField("resources"):
        merge_resources(claims, wanted.resources, seen.resources, reply.resources)
    if wanted.cgroups_path:
        claims.claim(_CGROUPS_PATH)
        seen.cgroups_path = reply.cgroups_path = wanted.cgroups_path
    for name, field in _SINGLE.items():
        if wanted.HasField(name):
            _merge_single(claims, field, name, wanted, seen, reply)
    if wanted.namespaces:
        _merge_namespaces(claims, wanted.namespaces, seen, reply)
    if wanted.sysctl:
        merge_map(claims, SYSCTL, wanted.sysctl, seen.sysctl, reply.sysctl)
    if wanted.net_devices:
        merge_map(claims, NET_DEVICES, wanted.net_devices, seen.net_devices, reply.net_devices)
    if wanted.HasField("scheduler"):
        _merge_single(claims, _SCHEDULER, "scheduler", wanted, seen, reply)
    # The reply of the reference always contains this field.
    reply.rdt.SetInParent()
    if wanted.HasField("rdt"):
        _merge_rdt(claims, wanted.rdt, original.container.linux.rdt, reply)
    if wanted.HasField("memory_policy"):
        # A container has no such field.
        _merge_single(claims, _MEMORY_POLICY, "memory_policy", wanted, reply)


def _merge_single(
    claims: OwnershipClaims, field: int, name: str, wanted: LinuxContainerAdjustment, *targets: Any
) -> None:
    claims.claim(field)
    for target in targets:
        copy_field(target, name, getattr(wanted, name))


def _take_out(
    items: Any,
    names: Iterable[str],
    removed: Mapping[str, object],
    added: Mapping[str, object],
    original: Set[str],
) -> None:
    """Delete the removed and the replaced entries from the container that later plugins receive.

    New entries can replace only entries of the original container. All other entries have owners, and conflict.
    """
    if removed or not original.isdisjoint(added):
        delete(items, names, added.keys() | removed.keys())


def _merge_mounts(
    claims: OwnershipClaims,
    wanted: Iterable[Mount],
    original: Original,
    seen: Container,
    reply: ContainerAdjustment,
) -> None:
    key = attrgetter("destination")
    removed, added = merge_list(claims, _MOUNTS, key, wanted, reply.mounts)
    reply.mounts.extend(mount for name, mount in removed.items() if name not in added)
    _take_out(seen.mounts, map(key, seen.mounts), removed, added, original.mounts)
    seen.mounts.extend(added.values())


def _merge_env(
    claims: OwnershipClaims,
    wanted: Iterable[KeyValue],
    original: Original,
    seen: Container,
    reply: ContainerAdjustment,
) -> None:
    removed, added = merge_list(claims, _ENV, attrgetter("key"), wanted, reply.env)
    _take_out(seen.env, map(_env_key, seen.env), removed, added, original.env)
    seen.env.extend(env_to_oci(added.values()))
    lost = removed.keys() - added.keys()
    if lost:
        _warn_of_removals(claims, "environment variable", lost & original.env)


def _env_key(entry: str) -> str:
    return entry.partition("=")[0]


def _merge_devices(
    claims: OwnershipClaims,
    wanted: Iterable[LinuxDevice],
    original: Original,
    seen: LinuxContainer,
    reply: LinuxContainerAdjustment,
) -> None:
    key = attrgetter("path")
    removed, added = merge_list(claims, _DEVICES, key, wanted, reply.devices)
    _take_out(seen.devices, map(key, seen.devices), removed, added, original.devices)
    seen.devices.extend(added.values())
    lost = removed.keys() - added.keys()
    if lost:
        _warn_of_removals(claims, "device", lost & original.devices)


def _warn_of_removals(claims: OwnershipClaims, name: str, keys: Iterable[str]) -> None:
    """Warn about lost removals of entries of the original container: a reply has no removals of such entries."""
    for key in sorted(keys):
        claims.warn_lost(
            f"the removal of {name} {key!r}", "the container has it without plugins as well"
        )


def _merge_args(
    claims: OwnershipClaims, args: list[str], seen: Container, reply: ContainerAdjustment
) -> None:
    if args[0] == "":
        claims.clear(_ARGS)
        del args[0]
    claims.claim(_ARGS)
    seen.args[:] = args
    reply.args[:] = args
    if not args:
        claims.warn_lost("the empty command line", "an empty list in a reply means no change")


def _merge_hooks(
    claims: OwnershipClaims,
    wanted: ContainerAdjustment,
    seen: Container,
    reply: ContainerAdjustment,
) -> None:
    found = False
    for stage in _STAGES:
        hooks = getattr(wanted.hooks, stage)
        if hooks:
            getattr(seen.hooks, stage).extend(hooks)
            getattr(reply.hooks, stage).extend(hooks)
            found = True
    if found:
        claims.claim(_HOOKS)


def _merge_namespaces(
    claims: OwnershipClaims,
    wanted: Iterable[LinuxNamespace],
    seen: LinuxContainer,
    reply: LinuxContainerAdjustment,
) -> None:
    by_type = {namespace.type: namespace for namespace in seen.namespaces}
    for namespace in wanted:
        # A removal is also a claim. It does not take the field from another owner.
        key, marked = removal.unmark(namespace.type)
        claims.claim(_NAMESPACE, key)
        if marked:
            by_type.pop(key, None)
        else:
            by_type[key] = namespace
        reply.namespaces.append(namespace)
    left = LinuxContainer(namespaces=by_type.values())
    del seen.namespaces[:]
    seen.namespaces.extend(left.namespaces)


def _merge_rdt(
    claims: OwnershipClaims, wanted: LinuxRdt, original: LinuxRdt, reply: LinuxContainerAdjustment
) -> None:
    """Merge cache and memory bandwidth control. Later plugins do not receive it."""
    if wanted.remove:
        claims.clear_rdt()
        reply.rdt.CopyFrom(LinuxRdt(remove=True))
    for name, field in _RDT.items():
        if wanted.HasField(name):
            claims.claim(field)
            copy_field(reply.rdt, name, getattr(wanted, name))
            reply.rdt.remove = False
    if wanted.remove and not reply.rdt.remove:
        for name in _RDT:
            if original.HasField(name) and not wanted.HasField(name):
                claims.warn_lost(f"the removal of rdt.{name}", "the same plugin sets other parts")
