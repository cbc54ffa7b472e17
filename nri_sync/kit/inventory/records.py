"""The records of an inventory, and how the next message changes a record.

A record is immutable. It has the fields for lookups as attributes, and the whole message as bytes. The bytes take
a third of the memory of a message object, no code can change them, and two equal records have equal bytes.

Runtimes do not send every field each time. A field that a message leaves out keeps its last value: each field of
the message and each field of its ``linux`` part. A field that is present replaces the last value. Namespaces
are merged by type, because some runtimes leave out the path of the network namespace.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from nri_sync.api import Container, ContainerState, PodSandbox
from nri_sync.kit.fields.names import container_name
from nri_sync.kit.fields.netns import network_namespace
from nri_sync.text import printable

__all__ = ["ContainerRecord", "Key", "Omit", "PodRecord", "cgroup_key", "ip_key"]

#: A key of the index: the kind, then the value.
Key = tuple[str, ...]

_Message = TypeVar("_Message", PodSandbox, Container)

# Module constants, because the lookup of an enum's name takes as long as the rest of the work on a record.
_CREATED = ContainerState.CONTAINER_CREATED
_RUNNING = ContainerState.CONTAINER_RUNNING
_STOPPED = ContainerState.CONTAINER_STOPPED

# The state that an event implies, where its message does not state one.
_STATE_AFTER = {
    "post_create_container": _CREATED,
    "post_start_container": _RUNNING,
}


class PodRecord(NamedTuple):
    """A pod as its messages describe it. Immutable."""

    id: str
    uid: str
    namespace: str
    name: str
    #: The process id of the sandbox; 0 if unknown.
    pid: int
    ips: tuple[str, ...]
    #: The path of the network namespace; empty for the host's namespace, and if unknown.
    network_namespace: str
    cgroup_parent: str
    #: True after StopPodSandbox: another pod may have the addresses by now.
    stopped: bool
    #: The order of appearance: each new instance gets a greater number.
    sequence: int
    #: The message, serialized.
    data: bytes

    @property
    def message(self) -> PodSandbox:
        """The message, with the fields that earlier messages have set; a new copy each time."""
        return PodSandbox.FromString(self.data)

    @classmethod
    def of(
        cls, message: PodSandbox, old: PodRecord | None, sequence: int, stopped: bool = False
    ) -> PodRecord:
        """Return the record of a pod after a message; ``old`` itself if nothing has changed."""
        data = message.SerializeToString(deterministic=True)
        if old is not None:
            sequence, stopped = old.sequence, stopped or old.stopped
            if data != old.data:
                message = _merged(old.message, message)
                data = message.SerializeToString(deterministic=True)
            if data == old.data and stopped == old.stopped:
                return old
        return cls(
            message.id,
            message.uid,
            message.namespace,
            message.name,
            message.pid,
            tuple(message.ips),
            network_namespace(message) or "",
            message.linux.cgroup_parent,
            stopped,
            sequence,
            data,
        )

    def index_keys(self) -> set[Key]:
        """Return the keys under which the index lists the pod."""
        keys: set[Key] = set()
        if self.name:
            keys.add(("pod", self.namespace, self.name))
        if self.uid:
            keys.add(("uid", self.uid))
        if not self.stopped:
            keys.update(("ip", ip_key(ip)) for ip in self.ips)
        return keys

    def __repr__(self) -> str:
        return printable(f"<pod {self.namespace}/{self.name} {self.id}>")


class ContainerRecord(NamedTuple):
    """A container as its messages describe it. Immutable."""

    id: str
    #: The sandbox id of its pod.
    pod_id: str
    #: Empty if unknown.
    name: str
    #: A ContainerState; UNKNOWN while the runtime creates the container.
    state: int
    #: The id of its first process; 0 if unknown. The record keeps it when the container has stopped.
    pid: int
    #: As the runtime sends it: a path, or ``slice:prefix:name`` with the cgroup driver of systemd.
    cgroups_path: str
    #: Nanoseconds since the epoch; 0 if unknown.
    created_at: int
    #: The order of appearance: each new instance gets a greater number.
    sequence: int
    #: The message without the omitted fields, serialized.
    data: bytes

    @property
    def message(self) -> Container:
        """The message, with the fields that earlier messages have set; a new copy each time."""
        return Container.FromString(self.data)

    @property
    def stopped(self) -> bool:
        """Whether the container has ended, or is being stopped."""
        return self.state == _STOPPED

    @classmethod
    def of(
        cls,
        message: Container,
        old: ContainerRecord | None,
        sequence: int,
        event: str = "synchronize",
    ) -> ContainerRecord:
        """Return the record of a container after a message; ``old`` itself if nothing has changed.

        The method may change ``message``. ``event`` is the name of the handler that received it.
        """
        if old is not None:
            sequence = old.sequence
        state = _state(message.state, old.state if old is not None else 0, event)
        if state != message.state:
            message.state = state  # type: ignore[assignment]
        data = message.SerializeToString(deterministic=True)
        if old is not None and data != old.data:
            message = _merged(old.message, message)
            data = message.SerializeToString(deterministic=True)
        if old is not None and data == old.data:
            return old
        return cls(
            message.id,
            message.pod_sandbox_id,
            container_name(message),
            message.state,
            message.pid,
            message.linux.cgroups_path,
            message.created_at,
            sequence,
            data,
        )

    def index_keys(self) -> set[Key]:
        """Return the keys under which the index lists the container."""
        keys: set[Key] = {("in pod", self.pod_id)}
        if self.cgroups_path:
            keys.add(("cgroup", cgroup_key(self.cgroups_path)))
        if self.pid and not self.stopped:  # the system may have reused the number
            keys.add(("pid", str(self.pid)))
        return keys

    def __repr__(self) -> str:
        return printable(f"<container {self.name} {self.id}>")


def _state(reported: int, before: int, event: str) -> int:
    """Return the state of a container after an event. Only a Synchronize can undo the state stopped.

    If a container ends at once, its stop event may come before its start event.
    """
    if event == "stop_container":
        return _STOPPED
    if event == "synchronize":
        return reported or before
    if before == _STOPPED:
        return before
    state = reported or before
    if state <= _CREATED:
        return max(state, _STATE_AFTER.get(event, 0))
    return state


def _merged(old: _Message, new: _Message) -> _Message:
    """Return ``new`` with the fields that it leaves out taken from ``old``. Changes ``old``."""
    # Unknown fields would grow with each merge, because nothing clears them one by one.
    old.DiscardUnknownFields()
    spaces = {space.type: space.path for space in old.linux.namespaces}
    for field, _ in new.ListFields():
        if field.name != "linux":
            old.ClearField(field.name)
    for field, _ in new.linux.ListFields():
        old.linux.ClearField(field.name)
    old.MergeFrom(new)
    if new.linux.namespaces:
        for space in old.linux.namespaces:
            space.path = space.path or spaces.get(space.type, "")
            spaces.pop(space.type, None)
        for kind, path in spaces.items():
            old.linux.namespaces.add(type=kind, path=path)
    return old


class Omit:
    """The fields that the inventory leaves out of containers: ``"env"``, ``"linux.seccomp_policy"``.

    Raises ValueError for a field that a Container does not have, and for one that records are made of.
    """

    _NEEDED = frozenset(
        [
            "id",
            "pod_sandbox_id",
            "name",
            "state",
            "pid",
            "created_at",
            "linux",
            "linux.cgroups_path",
        ]
    )

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths: list[tuple[Sequence[str], str]] = []
        for path in paths:
            *parents, field = path.split(".")
            inside: Any = Container.DESCRIPTOR
            for parent in parents:
                found = inside.fields_by_name.get(parent) if inside is not None else None
                inside = found.message_type if found is not None else None
            if inside is None or field not in inside.fields_by_name:
                raise ValueError(f"omit: a Container has no field {path!r}")
            if path in self._NEEDED:
                raise ValueError(f"omit: the inventory needs the field {path!r} of containers")
            self._paths.append((parents, field))

    def copy(self, message: Container) -> Container:
        """Return a copy of the message without the omitted fields."""
        copy = Container()
        copy.CopyFrom(message)
        self.clear(copy)
        return copy

    def clear(self, message: Container) -> None:
        """Clear the omitted fields of the message."""
        for parents, field in self._paths:
            inside: Any = message
            for parent in parents:
                if not inside.HasField(parent):
                    break
                inside = getattr(inside, parent)
            else:
                inside.ClearField(field)


def ip_key(address: str) -> str:
    """Return an address in its canonical form, in which equal addresses are equal texts."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address


def cgroup_key(path: str) -> str:
    """Return the key of a container's cgroup, the same for every form of its path: the last two names in it.

    The path may be the one that a runtime sends, with either cgroup driver, or the one that /proc/PID/cgroup
    shows, also with the mount point of the cgroup file system in front.
    """
    parts = path.split(":")
    if len(parts) == 3 and "/" not in parts[2]:
        # The end of the path that cgroup_path() returns. Computed here, because each event needs it.
        parent, prefix, name = parts
        scope = f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
        return f"{parent or 'system.slice'}/{name if name.endswith('.slice') else scope}"
    return "/".join(path.strip("/").split("/")[-2:])
