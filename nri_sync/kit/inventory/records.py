"""What an inventory keeps of a pod or container, and what becomes of it when the next message comes.

A record is immutable: the fields that one looks for as attributes, and the whole message as bytes. That is a
third of the memory of a message object, nobody can change it, and two that are equal have equal bytes.

A message that a runtime sends is not always complete, so what it leaves out keeps its last value. That holds
for each field of the message and of its ``linux`` part; what is there replaces what was. Namespaces
are merged by type, as some runtimes forget the path of the network namespace.
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

#: What records are found by: the kind, then the value.
Key = tuple[str, ...]

_Message = TypeVar("_Message", PodSandbox, Container)

# Looking up a name of an enum takes as long as all that is done with it here.
_CREATED = ContainerState.CONTAINER_CREATED
_RUNNING = ContainerState.CONTAINER_RUNNING
_STOPPED = ContainerState.CONTAINER_STOPPED

# What an event says about the state, where its message does not.
_STATE_AFTER = {
    "post_create_container": _CREATED,
    "post_start_container": _RUNNING,
}


class PodRecord(NamedTuple):
    """A pod, as far as it is known. Immutable."""

    id: str
    uid: str
    namespace: str
    name: str
    #: The process of the sandbox; 0 where it is not known.
    pid: int
    ips: tuple[str, ...]
    #: The path of the network namespace; empty for the host's, and where it is not known.
    network_namespace: str
    cgroup_parent: str
    #: StopPodSandbox has come: its addresses may be another pod's by now.
    stopped: bool
    #: Grows with each instance that appears.
    sequence: int
    #: The message, serialized.
    data: bytes

    @property
    def message(self) -> PodSandbox:
        """The message, with what is remembered of earlier ones; a new copy each time."""
        return PodSandbox.FromString(self.data)

    @classmethod
    def of(
        cls, message: PodSandbox, old: PodRecord | None, sequence: int, stopped: bool = False
    ) -> PodRecord:
        """The record of a pod that ``old`` was so far; ``old`` itself if nothing has changed."""
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

    def found_by(self) -> set[Key]:
        """What the pod is found by."""
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
    """A container, as far as it is known. Immutable."""

    id: str
    #: The id of its pod.
    pod_id: str
    #: Empty where it is not known yet.
    name: str
    #: A ContainerState; UNKNOWN while it is being created.
    state: int
    #: Its first process; 0 where it is not known. Kept when the container has stopped.
    pid: int
    #: As the runtime tells it: a path, or ``slice:prefix:name`` with the cgroup driver of systemd.
    cgroups_path: str
    #: Nanoseconds since the epoch; 0 where it is not known.
    created_at: int
    #: Grows with each instance that appears.
    sequence: int
    #: The message without what the inventory omits, serialized.
    data: bytes

    @property
    def message(self) -> Container:
        """The message, with what is remembered of earlier ones; a new copy each time."""
        return Container.FromString(self.data)

    @property
    def stopped(self) -> bool:
        """It has ended, or is being ended."""
        return self.state == _STOPPED

    @classmethod
    def of(
        cls,
        message: Container,
        old: ContainerRecord | None,
        sequence: int,
        event: str = "synchronize",
    ) -> ContainerRecord:
        """The record of a container that ``old`` was so far; ``old`` itself if nothing has changed.

        ``message`` becomes the callee's, to be changed. ``event`` is the handler that was called with it.
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

    def found_by(self) -> set[Key]:
        """What the container is found by."""
        keys: set[Key] = {("in pod", self.pod_id)}
        if self.cgroups_path:
            keys.add(("cgroup", cgroup_key(self.cgroups_path)))
        if self.pid and not self.stopped:  # the number may be another process' by now
            keys.add(("pid", str(self.pid)))
        return keys

    def __repr__(self) -> str:
        return printable(f"<container {self.name} {self.id}>")


def _state(told: int, before: int, event: str) -> int:
    """The state of a container after an event. Once stopped, only a Synchronize says that it is not.

    A container that ends at once may be told of as stopped before it is told of as started.
    """
    if event == "stop_container":
        return _STOPPED
    if event == "synchronize":
        return told or before
    if before == _STOPPED:
        return before
    state = told or before
    if state <= _CREATED:
        return max(state, _STATE_AFTER.get(event, 0))
    return state


def _merged(old: _Message, new: _Message) -> _Message:
    """``new`` with what it leaves out from ``old``, which is changed."""
    # Those that are not known here would add up, as nothing clears them one by one.
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
    """What is left out of the messages of containers: ``"env"``, ``"linux.seccomp_policy"``.

    Raises ValueError for what no Container has, and for what records are made of.
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
        """A copy of the message without them."""
        copy = Container()
        copy.CopyFrom(message)
        self.clear(copy)
        return copy

    def clear(self, message: Container) -> None:
        """Take them out of the message."""
        for parents, field in self._paths:
            inside: Any = message
            for parent in parents:
                if not inside.HasField(parent):
                    break
                inside = getattr(inside, parent)
            else:
                inside.ClearField(field)


def ip_key(address: str) -> str:
    """An address in the form in which addresses are compared."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address


def cgroup_key(path: str) -> str:
    """What a container's cgroup is recognised by, in whatever form its path comes: the last two names in it.

    The path may be what a runtime tells, with either cgroup driver, or what /proc/PID/cgroup shows, also with
    the mount point of the cgroup file system in front.
    """
    parts = path.split(":")
    if len(parts) == 3 and "/" not in parts[2]:
        # As cgroup_path() has it, of which only the end is needed here, but for each event.
        parent, prefix, name = parts
        scope = f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
        return f"{parent or 'system.slice'}/{name if name.endswith('.slice') else scope}"
    return "/".join(path.strip("/").split("/")[-2:])
