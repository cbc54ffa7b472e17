"""Values that may be absent.

If 0, "" or False must differ from "not set", the protocol wraps the value in a message such as OptionalInt64. In
Python an absent message reads as an empty one, so ``memory.limit.value`` is 0 in both cases. ``get`` distinguishes
them::

    limit = optional.get(container.linux.resources.memory, "limit")    # None if not set

``put`` sets a value, or removes it with None. Both functions are quick and may be called on any thread that owns
the message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, SupportsIndex, Union, overload

from google.protobuf.message import Message

from nri_sync.api import _check
from nri_sync.api.nri_pb2 import (
    DESCRIPTOR,
    Hook,
    LinuxContainer,
    LinuxContainerAdjustment,
    LinuxCPU,
    LinuxDevice,
    LinuxDeviceCgroup,
    LinuxMemory,
    LinuxRdt,
    LinuxResources,
    LinuxSeccomp,
    LinuxSyscall,
)

__all__ = ["Value", "check", "get", "put", "store"]

Value = Union[int, bool, str, list[str]]

_INTEGERS = {
    "OptionalInt": _check.INT64,
    "OptionalInt32": _check.INT32,
    "OptionalUInt32": _check.UINT32,
    "OptionalInt64": _check.INT64,
    "OptionalUInt64": _check.UINT64,
    "OptionalFileMode": _check.UINT32,
}
_OTHERS: dict[str, Callable[[str, object], Value]] = {
    "OptionalString": _check.text,
    "OptionalBool": _check.flag,
}
_REPEATED = "OptionalRepeatedString"


@overload
def get(
    message: LinuxMemory,
    field: Literal["limit", "reservation", "swap", "kernel", "kernel_tcp", "swappiness"],
) -> int | None: ...
@overload
def get(
    message: LinuxMemory, field: Literal["disable_oom_killer", "use_hierarchy"]
) -> bool | None: ...
@overload
def get(
    message: LinuxCPU,
    field: Literal["shares", "quota", "period", "realtime_runtime", "realtime_period"],
) -> int | None: ...
@overload
def get(message: LinuxResources, field: Literal["blockio_class", "rdt_class"]) -> str | None: ...
@overload
def get(
    message: LinuxContainer | LinuxContainerAdjustment, field: Literal["oom_score_adj"]
) -> int | None: ...
@overload
def get(message: LinuxDevice, field: Literal["file_mode", "uid", "gid"]) -> int | None: ...
@overload
def get(message: LinuxDeviceCgroup, field: Literal["major", "minor"]) -> int | None: ...
@overload
def get(message: LinuxRdt, field: Literal["clos_id"]) -> str | None: ...
@overload
def get(message: LinuxRdt, field: Literal["schemata"]) -> list[str] | None: ...
@overload
def get(message: LinuxRdt, field: Literal["enable_monitoring"]) -> bool | None: ...
@overload
def get(message: LinuxSeccomp, field: Literal["default_errno"]) -> int | None: ...
@overload
def get(message: LinuxSyscall, field: Literal["errno_ret"]) -> int | None: ...
@overload
def get(message: Hook, field: Literal["timeout"]) -> int | None: ...
@overload
def get(message: Message, field: str) -> Value | None: ...


def get(message: Message, field: str) -> Value | None:
    """The value of an optional field, or None if the field is not set. A list is a copy.

    Raises ValueError if the message has no such field, or if the field has no wrapped value.
    """
    kind = _kind(message, field)
    if not message.HasField(field):
        return None
    value = getattr(message, field).value
    return list(value) if kind == _REPEATED else value


def put(
    message: Message,
    field: str,
    value: SupportsIndex | bool | str | list[str] | tuple[str, ...] | None,
) -> None:
    """Set an optional field. None clears the field.

    Raises TypeError for a value of another type. Raises ValueError for a number that the field cannot hold, for
    text that is not valid Unicode, and for the same fields as ``get``.
    """
    if value is None:
        _kind(message, field)
        message.ClearField(field)
    else:
        store(message, field, check(message, field, value))


def check(message: Message, field: str, value: object) -> Value:
    """Check a value and convert it for ``store``; returns it. Raises as ``put``, and sets nothing."""
    kind = _kind(message, field)
    name = f"{message.DESCRIPTOR.name}.{field}"
    if kind in _INTEGERS:
        return _check.integer(name, value, _INTEGERS[kind])
    if kind == _REPEATED:
        return _check.texts(name, value)
    return _OTHERS[kind](name, value)


def store(message: Message, field: str, checked: Value) -> None:
    """Set an optional field to the result of ``check``."""
    wrapper = getattr(message, field)
    # An empty list and a default value also set the field.
    wrapper.SetInParent()
    if isinstance(checked, list):
        wrapper.value[:] = checked
    else:
        wrapper.value = checked


_KINDS = {
    (descriptor.name, field.name): field.message_type.name
    for descriptor in DESCRIPTOR.message_types_by_name.values()
    for field in descriptor.fields
    if field.message_type is not None
    and field.message_type.name in {*_INTEGERS, *_OTHERS, _REPEATED}
}


def _kind(message: Message, field: str) -> str:
    name = message.DESCRIPTOR.name
    kind = _KINDS.get((name, field))
    if kind is None:
        raise ValueError(f"{name} has no optional field {field!r}")
    return kind
