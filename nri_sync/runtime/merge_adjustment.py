"""Merging what a plugin wants for a container that is being created, part by part.

Everything is written twice: into the container as later plugins see it, and into the adjustment that the
runtime gets. Where the two differ, or something that a plugin asks for does not get through, it is so in
the reference; docs/merging.md has the list.
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
from nri_sync.runtime.merge_entries import (
    ANNOTATIONS,
    NET_DEVICES,
    SYSCTL,
    delete,
    merge_list,
    merge_map,
)
from nri_sync.runtime.merge_resources import copy_field, merge_resources
from nri_sync.runtime.turn import Turn

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
    """A container before any plugin, with the keys of its entries, which each plugin's are compared with."""

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
    turn: Turn,
    wanted: ContainerAdjustment,
    original: Original,
    seen: Container,
    reply: ContainerAdjustment,
) -> None:
    """Merge what a plugin wants into what later plugins see, and into the reply.

    The order is the reference's, which decides the conflict that is reported. Raises ConflictError; ``seen``
    and ``reply`` are of no use then.
    """
    if wanted.annotations:
        merge_map(turn, ANNOTATIONS, wanted.annotations, seen.annotations, reply.annotations)
    if wanted.mounts:
        _merge_mounts(turn, wanted.mounts, original, seen, reply)
    if wanted.env:
        _merge_env(turn, wanted.env, original, seen, reply)
    if wanted.args:
        _merge_args(turn, list(wanted.args), seen, reply)
    if wanted.HasField("hooks"):
        _merge_hooks(turn, wanted, seen, reply)
    if wanted.HasField("linux"):
        _merge_linux(turn, wanted.linux, original, seen.linux, reply.linux)
    for rlimit in wanted.rlimits:
        turn.claim(_RLIMITS, rlimit.type)
        seen.rlimits.append(rlimit)
        reply.rlimits.append(rlimit)
    # Later plugins do not see them: only the runtime knows what they stand for.
    for device in wanted.CDI_devices:
        turn.claim(_CDI_DEVICES, device.name)
        reply.CDI_devices.append(device)


def _merge_linux(
    turn: Turn,
    wanted: LinuxContainerAdjustment,
    original: Original,
    seen: LinuxContainer,
    reply: LinuxContainerAdjustment,
) -> None:
    if wanted.devices:
        _merge_devices(turn, wanted.devices, original, seen, reply)
    if wanted.HasField("resources"):
        merge_resources(turn, wanted.resources, seen.resources, reply.resources)
    if wanted.cgroups_path:
        turn.claim(_CGROUPS_PATH)
        seen.cgroups_path = reply.cgroups_path = wanted.cgroups_path
    for name, field in _SINGLE.items():
        if wanted.HasField(name):
            _merge_single(turn, field, name, wanted, seen, reply)
    if wanted.namespaces:
        _merge_namespaces(turn, wanted.namespaces, seen, reply)
    if wanted.sysctl:
        merge_map(turn, SYSCTL, wanted.sysctl, seen.sysctl, reply.sysctl)
    if wanted.net_devices:
        merge_map(turn, NET_DEVICES, wanted.net_devices, seen.net_devices, reply.net_devices)
    if wanted.HasField("scheduler"):
        _merge_single(turn, _SCHEDULER, "scheduler", wanted, seen, reply)
    # The reference always has it in the reply.
    reply.rdt.SetInParent()
    if wanted.HasField("rdt"):
        _merge_rdt(turn, wanted.rdt, original.container.linux.rdt, reply)
    if wanted.HasField("memory_policy"):
        # A container has no such field.
        _merge_single(turn, _MEMORY_POLICY, "memory_policy", wanted, reply)


def _merge_single(
    turn: Turn, field: int, name: str, wanted: LinuxContainerAdjustment, *targets: Any
) -> None:
    turn.claim(field)
    for target in targets:
        copy_field(target, name, getattr(wanted, name))


def _take_out(
    items: Any,
    names: Iterable[str],
    removed: Mapping[str, object],
    added: Mapping[str, object],
    original: Set[str],
) -> None:
    """Delete what is removed or replaced, from what later plugins see.

    New entries can only replace what the container had to begin with: others have owners, and conflict.
    """
    if removed or not original.isdisjoint(added):
        delete(items, names, added.keys() | removed.keys())


def _merge_mounts(
    turn: Turn,
    wanted: Iterable[Mount],
    original: Original,
    seen: Container,
    reply: ContainerAdjustment,
) -> None:
    key = attrgetter("destination")
    removed, added = merge_list(turn, _MOUNTS, key, wanted, reply.mounts)
    reply.mounts.extend(mount for name, mount in removed.items() if name not in added)
    _take_out(seen.mounts, map(key, seen.mounts), removed, added, original.mounts)
    seen.mounts.extend(added.values())


def _merge_env(
    turn: Turn,
    wanted: Iterable[KeyValue],
    original: Original,
    seen: Container,
    reply: ContainerAdjustment,
) -> None:
    removed, added = merge_list(turn, _ENV, attrgetter("key"), wanted, reply.env)
    _take_out(seen.env, map(_env_key, seen.env), removed, added, original.env)
    seen.env.extend(env_to_oci(added.values()))
    lost = removed.keys() - added.keys()
    if lost:
        _warn_of_removals(turn, "environment variable", lost & original.env)


def _env_key(entry: str) -> str:
    return entry.partition("=")[0]


def _merge_devices(
    turn: Turn,
    wanted: Iterable[LinuxDevice],
    original: Original,
    seen: LinuxContainer,
    reply: LinuxContainerAdjustment,
) -> None:
    key = attrgetter("path")
    removed, added = merge_list(turn, _DEVICES, key, wanted, reply.devices)
    _take_out(seen.devices, map(key, seen.devices), removed, added, original.devices)
    seen.devices.extend(added.values())
    lost = removed.keys() - added.keys()
    if lost:
        _warn_of_removals(turn, "device", lost & original.devices)


def _warn_of_removals(turn: Turn, name: str, keys: Iterable[str]) -> None:
    """Of what the container had to begin with: a reply has no removals of these."""
    for key in sorted(keys):
        turn.lost(f"the removal of {name} {key!r}", "the container has it without plugins as well")


def _merge_args(turn: Turn, args: list[str], seen: Container, reply: ContainerAdjustment) -> None:
    if args[0] == "":
        turn.clear(_ARGS)
        del args[0]
    turn.claim(_ARGS)
    seen.args[:] = args
    reply.args[:] = args
    if not args:
        turn.lost("the empty command line", "in a reply it means no change")


def _merge_hooks(
    turn: Turn, wanted: ContainerAdjustment, seen: Container, reply: ContainerAdjustment
) -> None:
    found = False
    for stage in _STAGES:
        hooks = getattr(wanted.hooks, stage)
        if hooks:
            getattr(seen.hooks, stage).extend(hooks)
            getattr(reply.hooks, stage).extend(hooks)
            found = True
    if found:
        turn.claim(_HOOKS)


def _merge_namespaces(
    turn: Turn,
    wanted: Iterable[LinuxNamespace],
    seen: LinuxContainer,
    reply: LinuxContainerAdjustment,
) -> None:
    by_type = {namespace.type: namespace for namespace in seen.namespaces}
    for namespace in wanted:
        # A removal is a claim as well, and does not take over.
        key, marked = removal.unmark(namespace.type)
        turn.claim(_NAMESPACE, key)
        if marked:
            by_type.pop(key, None)
        else:
            by_type[key] = namespace
        reply.namespaces.append(namespace)
    left = LinuxContainer(namespaces=by_type.values())
    del seen.namespaces[:]
    seen.namespaces.extend(left.namespaces)


def _merge_rdt(
    turn: Turn, wanted: LinuxRdt, original: LinuxRdt, reply: LinuxContainerAdjustment
) -> None:
    """Merge cache and memory bandwidth control, which later plugins do not see."""
    if wanted.remove:
        turn.clear_rdt()
        reply.rdt.CopyFrom(LinuxRdt(remove=True))
    for name, field in _RDT.items():
        if wanted.HasField(name):
            turn.claim(field)
            copy_field(reply.rdt, name, getattr(wanted, name))
            reply.rdt.remove = False
    if wanted.remove and not reply.rdt.remove:
        for name in _RDT:
            if original.HasField(name) and not wanted.HasField(name):
                turn.lost(f"the removal of rdt.{name}", "the same plugin sets other parts")
