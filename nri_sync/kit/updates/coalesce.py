"""Two updates of a container as one."""

from __future__ import annotations

from google.protobuf.message import Message

from nri_sync.api import ContainerUpdate

__all__ = ["overlay"]


def overlay(update: ContainerUpdate, later: ContainerUpdate) -> None:
    """Put a later update of the same container on top of ``update``: one that does what both would in turn.

    Of each setting the later one wins; hugepage limits count by page size, ``unified`` by key, rules for devices
    are appended. ``ignore_failure`` stays only if both have it. (Protobuf's MergeFrom would lose an optional 0
    or False, and double hugepage limits.)
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
    """Take over each field that is set in ``later``, whole."""
    into.SetInParent()
    for field, value in later.ListFields():
        if isinstance(value, Message):
            _copy(into, field.name, value)
        else:
            setattr(into, field.name, value)


def _copy(into: Message, name: str, value: Message) -> None:
    target = getattr(into, name)
    target.CopyFrom(value)
    target.SetInParent()  # an empty one counts as well
