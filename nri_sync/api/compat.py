"""The NRI release that introduced each part of the protocol, and the parts that a release knows.

A runtime ignores fields that are newer than its NRI release, without an error.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from nri_sync.api import nri_pb2
from nri_sync.api.events import EventMask
from nri_sync.api.version import Version

__all__ = [
    "clear_unknown_fields",
    "fields_unknown_to",
    "ignores_any",
    "knows",
    "since",
    "since_of",
    "unknown_fields",
    "valid_events",
    "without_numbers",
]

# The additions after v0.2.0. An entry for a message also applies to its fields without an entry of their own.
# tests/interop/test_since.py compares this with every release.
_SINCE = {
    "v0.4.0": "POSIXRlimit Container.rlimits ContainerAdjustment.rlimits",
    "v0.7.0": """
        CDIDevice LinuxPids ConfigureRequest.registration_timeout ConfigureRequest.request_timeout
        ContainerAdjustment.CDI_devices LinuxContainerAdjustment.oom_score_adj LinuxResources.pids
        SynchronizeRequest.more SynchronizeResponse.more
        """,
    "v0.8.0": "PodSandbox.ips",
    "v0.9.0": "HostFunctions LogRequest LogRequest.Level",
    "v0.10.0": """
        Container.created_at Container.started_at Container.finished_at Container.exit_code
        Container.status_reason Container.status_message Container.CDI_devices
        ContainerAdjustment.args LinuxContainer.io_priority LinuxContainer.seccomp_profile
        LinuxContainer.seccomp_policy LinuxContainerAdjustment.io_priority
        LinuxContainerAdjustment.namespaces LinuxContainerAdjustment.seccomp_policy
        LinuxIOPriority IOPrioClass LinuxSeccomp LinuxSyscall LinuxSeccompArg
        SecurityProfile SecurityProfile.ProfileType
        Field FieldOwners CompoundFieldOwners OwningPlugins PluginInstance
        Event.UPDATE_POD_SANDBOX Event.POST_UPDATE_POD_SANDBOX Event.VALIDATE_CONTAINER_ADJUSTMENT
        Plugin.UpdatePodSandbox UpdatePodSandboxRequest UpdatePodSandboxResponse
        Plugin.ValidateContainerAdjustment ValidateContainerAdjustmentRequest
        ValidateContainerAdjustmentResponse
        """,
    "v0.11.0": """
        User Container.user LinuxContainer.sysctl LinuxContainer.net_devices
        LinuxContainer.scheduler LinuxContainer.rdt LinuxContainerAdjustment.sysctl
        LinuxContainerAdjustment.net_devices LinuxContainerAdjustment.scheduler
        LinuxContainerAdjustment.rdt LinuxNetDevice LinuxRdt LinuxScheduler LinuxSchedulerPolicy
        LinuxSchedulerFlag OptionalRepeatedString Field.Sysctl Field.LinuxNetDevices
        Field.LinuxSched Field.RdtClosID Field.RdtSchemata Field.RdtEnableMonitoring
        """,
    "v0.12.0": """
        RegisterPluginRequest.NRI_version ConfigureRequest.NRI_version
        LinuxContainerAdjustment.memory_policy LinuxMemoryPolicy MpolMode MpolFlag
        Field.MemoryPolicy
        Plugin.RunPodSandbox RunPodSandboxRequest RunPodSandboxResponse
        Plugin.PostUpdatePodSandbox PostUpdatePodSandboxRequest PostUpdatePodSandboxResponse
        Plugin.StopPodSandbox StopPodSandboxRequest StopPodSandboxResponse
        Plugin.RemovePodSandbox RemovePodSandboxRequest RemovePodSandboxResponse
        Plugin.PostCreateContainer PostCreateContainerRequest PostCreateContainerResponse
        Plugin.StartContainer StartContainerRequest StartContainerResponse
        Plugin.PostStartContainer PostStartContainerRequest PostStartContainerResponse
        Plugin.PostUpdateContainer PostUpdateContainerRequest PostUpdateContainerResponse
        Plugin.RemoveContainer RemoveContainerRequest RemoveContainerResponse
        """,
    "v0.12.2": "Image Container.image",
    "v0.12.4": "FailurePolicy ConfigureResponse.failure_policy",
}
# The release of all other parts.
_OLDEST = "v0.2.0"
_FIRST = {name: release for release, names in _SINCE.items() for name in names.split()}
_RELEASES = {release: Version.parse(release) for release in (_OLDEST, *_SINCE)}
# The last release that added a field.
_NEWEST = max(_RELEASES.values())
# Computed once, because each subscription of a plugin needs it.
_LATER_EVENTS = [
    (_RELEASES[release], EventMask.of(nri_pb2.Event.Value(name.rpartition(".")[2])))
    for name, release in _FIRST.items()
    if name.startswith("Event.")
]


@functools.cache
def _known_names() -> frozenset[str]:
    file = nri_pb2.DESCRIPTOR
    names: set[str] = set()
    for message in file.message_types_by_name.values():
        names.add(message.name)
        names.update(f"{message.name}.{field.name}" for field in message.fields)
        for nested in message.enum_types:
            names.add(f"{message.name}.{nested.name}")
            names.update(f"{message.name}.{nested.name}.{value.name}" for value in nested.values)
    for enum in file.enum_types_by_name.values():
        names.add(enum.name)
        names.update(f"{enum.name}.{value.name}" for value in enum.values)
    for service in file.services_by_name.values():
        names.add(service.name)
        names.update(f"{service.name}.{method.name}" for method in service.methods)
    return frozenset(names)


def since(name: str) -> str:
    """The NRI release that introduced a part of the protocol; at the earliest, ``"v0.2.0"``.

    ``name`` is a message (``"LinuxRdt"``), a field (``"Container.user"``), a value of an enum
    (``"Event.UPDATE_POD_SANDBOX"``) or a method (``"Plugin.StartContainer"``). Raises ValueError for any other
    name.
    """
    if name not in _known_names():
        raise ValueError(f"the NRI protocol has no {name!r}; a field is written 'Container.user'")
    return _since(name)


def _since(name: str) -> str:
    while name:
        if name in _FIRST:
            return _FIRST[name]
        name = name.rpartition(".")[0]
    return _OLDEST


def knows(nri_version: str | None, name: str, *, unsure: bool = False) -> bool:
    """Whether a runtime of this NRI release knows a part of the protocol.

    An older runtime ignores unknown fields, without an error. ``name`` is as in :func:`since`. ``unsure`` is the
    result if the release is None or not a version.

    A runtime that knows a field need not fill it: any field of a pod or container may be empty.
    """
    first = _RELEASES[since(name)]
    try:
        return Version.parse(nri_version or "") >= first
    except ValueError:
        return unsure


def unknown_fields(message: Message, nri_version: str | None) -> list[str]:
    """The fields that are set in a message and that a runtime of this NRI release would ignore.

    Each field is a path in the message, such as ``"linux.sysctl"``. The list is empty if the release is unknown.
    """
    unknown, holders = _unknown(nri_version)
    return [path + name for _, path, name in _unknown_fields(message, unknown, holders, "")]


def clear_unknown_fields(message: Message, nri_version: str) -> list[str]:
    """Clear the fields of ``message`` that :func:`unknown_fields` names, and return these names."""
    unknown, holders = _unknown(nri_version)
    found = list(_unknown_fields(message, unknown, holders, ""))
    for owner, _, name in found:
        owner.ClearField(name)
    return [path + name for _, path, name in found]


def ignores_any(nri_version: str | None) -> bool:
    """Whether a runtime of this NRI release would ignore any field that this package knows.

    Each session asks this, so it does not look at the fields.
    """
    try:
        return Version.parse(nri_version or "") < _NEWEST
    except ValueError:
        return False


def fields_unknown_to(kind: Any, nri_version: str | None) -> list[str]:
    """All fields of a message, by its descriptor, that a runtime of this NRI release would ignore, as paths."""
    unknown, holders = _unknown(nri_version)
    found: list[str] = []

    def walk(kind: Any, path: str) -> None:
        for field in kind.fields:
            if field.full_name in unknown:
                found.append(path + field.name)
            elif field.message_type is not None and field.message_type.full_name in holders:
                walk(field.message_type, f"{path}{field.name}.")

    walk(kind, "")
    return found


def since_of(message: Message, path: str) -> str:
    """The NRI release that introduced a field of ``message``; ``path`` is as in :func:`unknown_fields`."""
    *parents, last = without_numbers(path).split(".")
    kind: Any = message.DESCRIPTOR
    for parent in parents:
        kind = kind.fields_by_name[parent].message_type
    return since(f"{kind.name}.{last}")


def without_numbers(path: str) -> str:
    """A path as in :func:`unknown_fields`, without the positions in lists."""
    return re.sub(r"\[\d+]", "", path)


@functools.lru_cache(maxsize=16)
def _unknown(nri_version: str | None) -> tuple[frozenset[str], frozenset[str]]:
    """The full names of the fields that a release does not know, and of the messages that may contain them.

    Cached, because each answer of a plugin needs it, and a node has one release.
    """
    if not ignores_any(nri_version):
        return frozenset(), frozenset()
    version = Version.parse(nri_version or "")
    later = {release for release, first in _RELEASES.items() if version < first}
    messages = nri_pb2.DESCRIPTOR.message_types_by_name.values()
    unknown = frozenset(
        field.full_name
        for message in messages
        for field in message.fields
        if _since(f"{message.name}.{field.name}") in later
    )
    holders = {field.rpartition(".")[0] for field in unknown}
    while True:
        more = {
            message.full_name
            for message in messages
            for field in message.fields
            if field.message_type is not None
            and field.full_name not in unknown
            and field.message_type.full_name in holders
        }
        if more <= holders:
            return unknown, frozenset(holders)
        holders |= more


def _unknown_fields(
    message: Message, unknown: frozenset[str], holders: frozenset[str], path: str
) -> Iterator[tuple[Message, str, str]]:
    """The unknown fields that are set.

    Each one is the message that contains it, that message's path, and its name.
    """
    if message.DESCRIPTOR.full_name not in holders:
        return
    for field, value in message.ListFields():
        if field.full_name in unknown:
            yield message, path, field.name
        else:
            for key, nested in _nested(field, value):
                yield from _unknown_fields(nested, unknown, holders, f"{path}{field.name}{key}.")


def _nested(field: FieldDescriptor, value: object) -> Iterator[tuple[str, Message]]:
    """The messages of this file that are directly in a field."""
    kind = field.message_type
    if kind is None or kind.GetOptions().map_entry:
        # No message in a map is newer than the map.
        return
    if isinstance(value, Message):
        yield "", value
    elif isinstance(value, Sequence):
        for number, item in enumerate(value):
            yield f"[{number}]", item


def valid_events(nri_version: str | None) -> EventMask:
    """The events that a runtime of this NRI release accepts in a subscription.

    If the release is unknown, these are all events.
    """
    mask = EventMask.ALL
    try:
        version = Version.parse(nri_version or "")
    except ValueError:
        return mask
    for release, events in _LATER_EVENTS:
        if version < release:
            mask &= ~events
    return mask
