"""The table of OCI keys, and the functions that read and write messages with it, for nri_sync.api.oci."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Callable, NamedTuple, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from nri_sync.api import _check, nri_pb2, optional

__all__ = ["read", "read_list", "write"]

_M = TypeVar("_M", bound=Message)

# The OCI keys of each message. `key=field` gives a field whose name is not the key in snake_case. `!` marks a key
# that Go's encoder writes even if the value is empty (no `omitempty`).
_KEYS = {
    "Mount": "destination! type source options",
    "Hooks": "prestart createRuntime createContainer startContainer poststart poststop",
    "Hook": "path! args env timeout",
    "POSIXRlimit": "type! hard! soft!",
    "LinuxNamespace": "type! path",
    "LinuxDevice": "path! type! major! minor! fileMode uid gid",
    "LinuxNetDevice": "name",
    "LinuxResources": "devices memory cpu pids hugepageLimits unified",
    "LinuxMemory": (
        "limit reservation swap kernel kernelTCP swappiness"
        " disableOOMKiller=disable_oom_killer useHierarchy"
    ),
    "LinuxCPU": "shares quota period realtimeRuntime realtimePeriod cpus mems",
    "LinuxPids": "limit",
    "HugepageLimit": "pageSize! limit!",
    "LinuxDeviceCgroup": "allow! type major minor access",
    "LinuxSeccomp": (
        "defaultAction! defaultErrnoRet=default_errno architectures flags"
        " listenerPath listenerMetadata syscalls"
    ),
    "LinuxSyscall": "names! action! errnoRet args",
    "LinuxSeccompArg": "index! value! valueTwo op!",
    "LinuxIOPriority": "class! priority!",
    "LinuxScheduler": "policy! nice priority flags runtime deadline period",
    "LinuxMemoryPolicy": "mode! nodes! flags",
    "LinuxRdt": "closID schemata enableMonitoring",
}
_ENUMS = {
    kind.DESCRIPTOR.name: kind
    for kind in (
        nri_pb2.IOPrioClass,
        nri_pb2.LinuxSchedulerPolicy,
        nri_pb2.LinuxSchedulerFlag,
        nri_pb2.MpolMode,
        nri_pb2.MpolFlag,
    )
}
_INTEGERS = {
    FieldDescriptor.TYPE_INT32: _check.INT32,
    FieldDescriptor.TYPE_UINT32: _check.UINT32,
    FieldDescriptor.TYPE_INT64: _check.INT64,
    FieldDescriptor.TYPE_UINT64: _check.UINT64,
}
_OTHERS: dict[int, Callable[[str, object], Any]] = {
    FieldDescriptor.TYPE_STRING: _check.text,
    FieldDescriptor.TYPE_BOOL: _check.flag,
}


class _Key(NamedTuple):
    key: str
    field: FieldDescriptor
    always: bool


def _parse(message: str, keys: str) -> list[_Key]:
    fields = nri_pb2.DESCRIPTOR.message_types_by_name[message].fields_by_name
    parsed = []
    for word in keys.split():
        key, _, name = word.rstrip("!").partition("=")
        name = name or re.sub(r"(?<=[a-z])([A-Z]+)", r"_\1", key).lower()
        parsed.append(_Key(key, fields[name], word.endswith("!")))
    return parsed


_TABLE = {message: _parse(message, keys) for message, keys in _KEYS.items()}


def write(message: Message) -> dict[str, Any]:
    """The OCI object for a message."""
    written = {}
    for key, field, always in _TABLE[message.DESCRIPTOR.name]:
        value = getattr(message, field.name)
        if isinstance(value, Message):
            if message.HasField(field.name):
                written[key] = _plain(field, value)
        elif isinstance(value, Mapping):
            if value:
                written[key] = {name: _plain(field, item) for name, item in value.items()}
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if value or always:
                written[key] = [_plain(field, item) for item in value]
        elif value or always:
            written[key] = _plain(field, value)
    return written


def _plain(field: FieldDescriptor, value: Any) -> Any:
    if not isinstance(value, Message):
        if field.enum_type is None:
            return value
        return _check.enumerator(field.full_name, _ENUMS[field.enum_type.name], value)
    if value.DESCRIPTOR.name in _TABLE:
        return write(value)
    # The other messages wrap an optional value.
    plain = value.value  # type: ignore[attr-defined]
    return plain if isinstance(plain, (str, int)) else list(plain)


def read(message: _M, data: object, where: str) -> _M:
    """Fill a message from an OCI object; returns the message. ``where`` names the object in errors."""
    if not isinstance(data, Mapping):
        _check.wrong_type(where, "an object", data)
    for key, field, _ in _TABLE[message.DESCRIPTOR.name]:
        # A null counts as missing, as in Go's decoder.
        if data.get(key) is not None:
            _read_field(message, field, data[key], f"{where}.{key}")
    return message


def read_list(kind: type[_M], data: object, where: str) -> list[_M]:
    """Messages from an OCI array. None counts as an empty array."""
    items = [] if data is None else _array(data, where)
    return [read(kind(), item, f"{where}[{number}]") for number, item in enumerate(items)]


def _read_field(message: Message, field: FieldDescriptor, value: object, where: str) -> None:
    current = getattr(message, field.name)
    if isinstance(current, Message):
        if current.DESCRIPTOR.name in _TABLE:
            # An empty object also sets the field.
            current.SetInParent()
            read(current, value, where)
        else:
            optional.put(message, field.name, value)  # type: ignore[arg-type]
    elif isinstance(current, Mapping):
        if not isinstance(value, Mapping):
            _check.wrong_type(where, "an object", value)
        for name, item in value.items():
            current[_check.text(f"key of {where}", name)] = _check.text(f"{where}[{name!r}]", item)  # type: ignore[index]
    elif isinstance(current, Sequence) and not isinstance(current, str):
        for number, item in enumerate(_array(value, where)):
            if field.message_type is None:
                current.append(_scalar(field, item, f"{where}[{number}]"))  # type: ignore[attr-defined]
            else:
                read(current.add(), item, f"{where}[{number}]")  # type: ignore[attr-defined]
    else:
        setattr(message, field.name, _scalar(field, value, where))


def _scalar(field: FieldDescriptor, value: object, where: str) -> Any:
    if field.enum_type is not None:
        kind = _ENUMS[field.enum_type.name]
        return kind.Value(_check.enumerator(where, kind, _check.text(where, value)))
    if field.type in _INTEGERS:
        return _check.integer(where, value, _INTEGERS[field.type])
    return _OTHERS[field.type](where, value)


def _array(value: object, where: str) -> Sequence[Any]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        _check.wrong_type(where, "an array", value)
    return value
