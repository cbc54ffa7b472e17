"""Finds the values in a message that no runtime accepts: :func:`impossible`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from nri_sync.api import optional, resource_rules, rules
from nri_sync.api.nri_pb2 import (
    ContainerAdjustment,
    ContainerUpdate,
    LinuxContainerAdjustment,
    LinuxResources,
)
from nri_sync.api.removal import unmark

__all__ = ["impossible"]

_Rule = Callable[[], None]


def impossible(message: ContainerAdjustment | ContainerUpdate) -> list[str]:
    """A text for each value in an adjustment or update that no runtime accepts; empty if all values are valid.

    The setters of Adjustment and Update refuse the same values. A stub does not check messages in this way; the
    fake runtime and ``nri-sync simulate`` do when they apply them. The check is quick and does not change the
    message.
    """
    if isinstance(message, ContainerUpdate):
        return list(_broken(_of_update(message)))
    return list(_broken(_of_adjustment(message)))


def _broken(found: Iterator[_Rule]) -> Iterator[str]:
    for rule in found:
        try:
            rule()
        except ValueError as error:
            yield str(error)


def _of_update(update: ContainerUpdate) -> Iterator[_Rule]:
    yield partial(_named, update)
    yield from _of_resources(update.linux.resources)


def _named(update: ContainerUpdate) -> None:
    if not update.container_id:
        rules.refuse("container_id of an update", update.container_id, "is empty")


def _of_adjustment(adjustment: ContainerAdjustment) -> Iterator[_Rule]:
    for key in adjustment.annotations:
        yield partial(rules.annotation_key, unmark(key).key)
    for mount in adjustment.mounts:
        path, removed = unmark(mount.destination)
        if removed:
            yield partial(rules.absolute, "mount destination", path)
        else:
            yield partial(rules.mount, mount)
    for variable in adjustment.env:
        name, removed = unmark(variable.key)
        yield partial(rules.env_key, name) if removed else partial(rules.env, name, variable.value)
    # An empty first argument is a mark. Without further arguments it withdraws the command line of another plugin.
    if list(adjustment.args) not in ([], [""]):
        yield partial(rules.args, "args", adjustment.args[adjustment.args[0] == "" :])
    for _, hooks in adjustment.hooks.ListFields():
        for hook in hooks:
            yield partial(rules.hook, hook)
    for limit in adjustment.rlimits:
        yield partial(rules.rlimit, limit)
    for device in adjustment.CDI_devices:
        yield partial(rules.cdi_device, device.name)
    yield from _of_linux(adjustment.linux)


def _of_linux(linux: LinuxContainerAdjustment) -> Iterator[_Rule]:
    for device in linux.devices:
        path, removed = unmark(device.path)
        if removed:
            yield partial(rules.absolute, "device path", path)
        else:
            yield partial(rules.device, device)
    for namespace in linux.namespaces:
        type, removed = unmark(namespace.type)
        yield partial(rules.namespace, type, "" if removed else namespace.path)
    for key, value in linux.sysctl.items():
        name, removed = unmark(key)
        yield partial(rules.sysctl_key, name) if removed else partial(rules.sysctl, name, value)
    for key in linux.net_devices:
        yield partial(rules.net_device, unmark(key).key)
        if linux.net_devices[key].name:
            yield partial(rules.net_device, linux.net_devices[key].name)
    yield from _of_single_settings(linux)
    yield from _of_resources(linux.resources)


def _of_single_settings(linux: LinuxContainerAdjustment) -> Iterator[_Rule]:
    if linux.cgroups_path:
        yield partial(rules.cgroups_path, linux.cgroups_path)
    if linux.HasField("oom_score_adj"):
        yield partial(rules.oom_score_adj, linux.oom_score_adj.value)
    if linux.HasField("io_priority"):
        yield partial(rules.io_priority, linux.io_priority)
    if linux.HasField("scheduler"):
        yield partial(rules.scheduler, linux.scheduler)
    if linux.HasField("memory_policy"):
        yield partial(rules.memory_policy, linux.memory_policy)
    if linux.HasField("seccomp_policy"):
        yield partial(rules.seccomp, linux.seccomp_policy)
    if linux.HasField("rdt"):
        clos_id, schemata = optional.get(linux.rdt, "clos_id"), optional.get(linux.rdt, "schemata")
        yield partial(rules.rdt, clos_id, schemata)


def _of_resources(resources: LinuxResources) -> Iterator[_Rule]:
    yield partial(resource_rules.memory, resources.memory)
    yield partial(resource_rules.cpu, resources.cpu)
    if resources.HasField("pids"):
        yield partial(resource_rules.pids_limit, resources.pids.limit)
    for limit in resources.hugepage_limits:
        yield partial(resource_rules.hugepage_limit, limit)
    for key, value in resources.unified.items():
        yield partial(resource_rules.unified, key, value)
    for rule in resources.devices:
        yield partial(resource_rules.device_rule, rule)
