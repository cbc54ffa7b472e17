"""Random messages of the protocol, with so few keys that plugins conflict with each other."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from nri_sync.api import nri_pb2

__all__ = ["FIELDS", "OWNED", "Maker", "all_leaves", "leaves"]

_M = TypeVar("_M", bound=Message)

_TEXTS = ["", "x", "y", "é\n"]
_KEYS = ["a", "b", "c", ""]
_POOLS: dict[str, list[str]] = {
    "Mount.destination": ["/a", "/b", "/a/b", "/a/"],
    "Mount.options": ["ro", "rw", "rprivate", "rshared", "rslave"],
    "Mount.source": ["/", "/proc", "/proc/sys", "/tmp", "no/path"],
    "KeyValue.key": _KEYS,
    "Container.env": ["a=1", "b=2", "c", "a=3=4", "=", "d="],
    "Container.args": ["sh", "-c", ""],
    "ContainerAdjustment.args": ["sh", "-c", "", ""],
    "LinuxDevice.path": ["/dev/a", "/dev/b", "/dev/c"],
    "LinuxNamespace.type": ["pid", "ipc", "network"],
    "POSIXRlimit.type": ["NOFILE", "nofile", "AS"],
    "HugepageLimit.page_size": ["2MB", "1GB"],
    "CDIDevice.name": ["v/c=a", "v/c=b"],
    "ContainerUpdate.container_id": ["c0", "c1", "c2", ""],
    "ContainerEviction.container_id": ["c0", "c1"],
}
# Fields whose keys can be marked for removal.
_MARKED = {
    "Mount.destination",
    "KeyValue.key",
    "LinuxDevice.path",
    "LinuxNamespace.type",
    "ContainerAdjustment.annotations",
    "LinuxContainerAdjustment.sysctl",
    "LinuxContainerAdjustment.net_devices",
}
_LARGE = {
    FieldDescriptor.TYPE_INT32: 2**31 - 1,
    FieldDescriptor.TYPE_INT64: -(2**63),
    FieldDescriptor.TYPE_UINT32: 2**32 - 1,
    FieldDescriptor.TYPE_UINT64: 2**64 - 1,
}


class Maker:
    """Makes random messages: any field, with probability ``density``."""

    def __init__(self, rng: random.Random, density: float, marks: float = 0.0) -> None:
        self._rng = rng
        self._density = density
        self._marks = marks
        #: The full names of the fields that may be set; None for all.
        self.allowed: set[str] | None = None

    def make(self, kind: type[_M]) -> _M:
        message = kind()
        self.fill(message)
        return message

    def fill(self, message: Message) -> None:
        for field in message.DESCRIPTOR.fields:
            nested = field.message_type is not None and not _is_list(message, field)
            # Otherwise deeply nested fields would hardly ever be set.
            chance = max(self._density, 0.4) if nested else self._density
            if self._rng.random() < chance and self._may(field):
                self._set(message, field)

    def _may(self, field: Any) -> bool:
        return self.allowed is None or _name(field) in self.allowed or _has_parts(field)

    def _set(self, message: Message, field: Any) -> None:
        current = getattr(message, field.name)
        if _is_map(field):
            values = field.message_type.fields_by_name["value"]
            for _ in range(self._rng.randint(1, 3)):
                key = self._key(_name(field), _KEYS)
                if values.message_type is None:
                    current[key] = "" if key.startswith("-") else self._scalar(values)
                else:
                    self.fill(current[key])
        elif _is_list(message, field):
            # With several entries, one key often appears twice, which is a conflict.
            for _ in range(self._rng.choice([1, 1, 1, 2, 3])):
                if field.message_type is None:
                    current.append(self._scalar(field))
                else:
                    self.fill(current.add())
        elif field.message_type is not None:
            current.SetInParent()
            self.fill(current)
        else:
            setattr(message, field.name, self._scalar(field))

    def _scalar(self, field: Any) -> Any:
        if field.enum_type is not None:
            return self._rng.choice(field.enum_type.values).number
        if field.type == FieldDescriptor.TYPE_BOOL:
            return self._rng.random() < 0.5
        if field.type == FieldDescriptor.TYPE_STRING:
            return self._key(_name(field), _POOLS.get(_name(field), _TEXTS))
        return self._rng.choice([0, 1, 7, _LARGE[field.type]])

    def _key(self, name: str, pool: Sequence[str]) -> str:
        key = self._rng.choice(pool)
        if name in _MARKED and self._rng.random() < self._marks:
            return ("--" if self._rng.random() < 0.05 else "-") + key
        return key


def _name(field: Any) -> str:
    return f"{field.containing_type.name}.{field.name}"


def _is_map(field: Any) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _is_list(message: Message, field: Any) -> bool:
    return hasattr(getattr(message, field.name), "extend") or _is_map(field)


def _has_parts(field: Any) -> bool:
    """Whether a field only contains other fields, which have owners themselves."""
    kind: Any = field.message_type
    return kind is not None and kind.name in {
        "ContainerAdjustment",
        "LinuxContainerAdjustment",
        "LinuxContainerUpdate",
        "LinuxResources",
        "LinuxMemory",
        "LinuxCPU",
        "LinuxRdt",
    }


def leaves(message: Message, path: str = "") -> set[str]:
    """The fields that are set, at any depth, as paths without keys and numbers."""
    found = set()
    for field, value in message.ListFields():
        here = f"{path}.{field.name}" if path else field.name
        if _has_parts(field):
            found |= leaves(value, here)
        else:
            found.add(here)
    return found


def all_leaves(kind: Any, path: str = "") -> set[str]:
    """All paths that ``leaves`` can return for a message of this kind."""
    found: set[str] = set()
    for field in kind.fields:
        here = f"{path}.{field.name}" if path else field.name
        found |= all_leaves(field.message_type, here) if _has_parts(field) else {here}
    return found


#: All fields of all messages, by their full names.
FIELDS = {
    _name(field)
    for kind in nri_pb2.DESCRIPTOR.message_types_by_name.values()
    for field in kind.fields
}
#: The fields with owners.
OWNED = {
    _name(field)
    for kind in (
        "ContainerAdjustment",
        "LinuxContainerAdjustment",
        "LinuxResources",
        "LinuxMemory",
        "LinuxCPU",
        "LinuxRdt",
    )
    for field in nri_pb2.DESCRIPTOR.message_types_by_name[kind].fields
    if not _has_parts(field)
}
