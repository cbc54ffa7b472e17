"""Removes empty messages from messages, so that equal contents compare equal.

This works for an adjustment, an update, and their parts. An optional value is content even if it is 0 or empty,
because that differs from "not set".
"""

from __future__ import annotations

from typing import TypeVar

from nri_sync.api.nri_pb2 import (
    ContainerAdjustment,
    ContainerUpdate,
    Hooks,
    LinuxContainerAdjustment,
    LinuxContainerUpdate,
    LinuxCPU,
    LinuxIOPriority,
    LinuxMemory,
    LinuxMemoryPolicy,
    LinuxPids,
    LinuxRdt,
    LinuxResources,
    LinuxScheduler,
    LinuxSeccomp,
)

__all__ = ["strip"]

_M = TypeVar(
    "_M",
    ContainerAdjustment,
    ContainerUpdate,
    Hooks,
    LinuxContainerAdjustment,
    LinuxContainerUpdate,
    LinuxCPU,
    LinuxIOPriority,
    LinuxMemory,
    LinuxMemoryPolicy,
    LinuxPids,
    LinuxRdt,
    LinuxResources,
    LinuxScheduler,
    LinuxSeccomp,
)
_TYPES = _M.__constraints__


def strip(message: _M) -> _M | None:
    """Remove all messages without content, at any depth and in place.

    Returns the message, or None if the message itself has no content. Entries of lists and maps are content and
    stay unchanged. Raises TypeError for a message of another type.
    """
    if not isinstance(message, _TYPES):
        raise TypeError(f"a {type(message).__name__} cannot be stripped")
    for field, value in message.ListFields():
        if isinstance(value, _TYPES) and strip(value) is None:
            message.ClearField(field.name)
    return message if message.ListFields() else None
