"""Merges two updates of a container into one."""

from __future__ import annotations

from google.protobuf.message import Message

from nri_sync.api import ContainerUpdate

__all__ = ["overlay"]


def overlay(update: ContainerUpdate, later: ContainerUpdate) -> None:
    """Merge a later update of the same container into ``update``: its effect is that of both in turn.

    The later value of each setting wins. Hugepage limits are merged by page size, and ``unified`` by key. Rules
    for devices are appended. ``ignore_failure`` stays only if both updates have it. (Protobuf's MergeFrom would
    lose an optional 0 or False, and would duplicate hugepage limits.)
    """
    update.ignore_failure = update.ignore_failure and later.ignore_failure
    into, resources = update.linux.resources, later.linux.resources
    for part in ("memory", "cpu"):
        if resources.HasField(part):
            _replace(getattr(into, part), getattr(resources, part))
    limits = {limit.page_size: limit.limit for limit in into.hugepage_limits}
    limits.update((limit.page_size, limit.limit) for limit in resources.hugepage_limits)
    del into.hugepage_limits[:]
    for page_size, limit in limits.items():
        into.hugepage_limits.add(page_size=page_size, limit=limit)
    into.unified.update(resources.unified)
    into.devices.extend(resources.devices)
    for name in ("blockio_class", "rdt_class", "pids"):
        if resources.HasField(name):
            _copy(into, name, getattr(resources, name))


def _replace(into: Message, later: Message) -> None:
    """Replace each field that is set in ``later``, whole."""
    into.SetInParent()
    for field, value in later.ListFields():
        if isinstance(value, Message):
            _copy(into, field.name, value)
        else:
            setattr(into, field.name, value)


def _copy(into: Message, name: str, value: Message) -> None:
    target = getattr(into, name)
    target.CopyFrom(value)
    target.SetInParent()  # an empty message counts as set
