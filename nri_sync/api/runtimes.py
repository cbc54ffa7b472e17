"""The facts about releases of runtimes: known events and fields, and fields without an effect.

The NRI release of a runtime decides which events and fields the runtime knows (:mod:`nri_sync.api.compat`).
Runtimes also accept some fields and ignore them. The table has the results of the end-to-end tests (docs/e2e.md),
with the releases that were tested. The package assumes the same for other releases of a runtime.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from google.protobuf.message import Message

from nri_sync.api.compat import fields_unknown_to, unknown_fields, valid_events
from nri_sync.api.events import EventMask
from nri_sync.api.version import infer_nri_version

__all__ = ["EFFECTLESS", "MEASURED", "Effectless", "RuntimeFacts", "runtime_facts"]

#: The tested release of each runtime.
MEASURED = {"containerd": "v2.4.2", "cri-o": "v1.34.0"}

# These runtimes hold one lock while they relay an event, and while they apply unsolicited updates.
_LOCKING = frozenset(MEASURED)


class Effectless(NamedTuple):
    """Fields that a runtime accepts and ignores."""

    runtimes: tuple[str, ...]
    #: The message that has the paths: ``ContainerAdjustment``, ``ContainerUpdate``, ``UpdateContainersRequest``.
    message: str
    paths: tuple[str, ...]
    reason: str


_MEMORY = tuple(
    f"linux.resources.memory.{name}"
    for name in (
        "reservation", "swap", "kernel", "kernel_tcp", "swappiness", "disable_oom_killer", "use_hierarchy",
    )
)  # fmt: skip
_BOTH = ("containerd", "cri-o")

EFFECTLESS = (
    Effectless(
        _BOTH,
        "ContainerAdjustment",
        _MEMORY,
        "of memory only the limit is applied, to swap as well",
    ),
    Effectless(
        ("containerd",),
        "ContainerUpdate",
        _MEMORY,
        "of memory only the limit is applied, to swap as well",
    ),
    Effectless(
        ("containerd",),
        "ContainerUpdate",
        ("linux.resources.pids",),
        "an update leaves the limit of processes as it is",
    ),
    Effectless(("cri-o",), "ContainerAdjustment", ("CDI_devices",), "CDI devices are not injected"),
    Effectless(_BOTH, "UpdateContainersRequest", ("evict",), "no runtime evicts containers"),
)


class RuntimeFacts(NamedTuple):
    """One release of a runtime."""

    #: ``"containerd"``, ``"cri-o"``, or another.
    name: str
    version: str
    #: None where it is not known.
    nri_version: str | None

    @property
    def events(self) -> EventMask:
        """The events that the runtime accepts in a subscription; all events if its NRI release is unknown."""
        return valid_events(self.nri_version)

    @property
    def missing_events(self) -> EventMask:
        return EventMask.ALL & ~self.events

    @property
    def locks_while_relaying(self) -> bool:
        """Whether the runtime answers no ``update_containers()`` while a handler runs."""
        return self.name in _LOCKING

    def unknown(self, message: Message) -> list[str]:
        """The fields that a message sets and the runtime does not know, as paths."""
        return unknown_fields(message, self.nri_version)

    def all_unknown(self, kind: object) -> list[str]:
        """All fields of a message, by its descriptor, that the runtime does not know, as paths."""
        return fields_unknown_to(kind, self.nri_version)

    def effectless(self) -> Iterator[Effectless]:
        """The fields that the runtime accepts without an effect."""
        return (entry for entry in EFFECTLESS if self.name in entry.runtimes)

    def without_effect(self, message: Message, *, clear: bool = False) -> dict[str, str]:
        """The fields that a message sets without an effect, although the runtime knows them: path and reason.

        ``clear`` clears them.
        """
        found: dict[str, str] = {}
        for entry in self.effectless():
            if entry.message == message.DESCRIPTOR.name:
                for path in entry.paths:
                    *parents, last = path.split(".")
                    holder = _holder(message, parents)
                    if holder is not None and _is_set(holder, last):
                        found[path] = entry.reason
                        if clear:
                            holder.ClearField(last)
        return found


def runtime_facts(name: str, version: str, nri_version: str | None = None) -> RuntimeFacts:
    """The facts about a release of a runtime. Without ``nri_version``, the release implies the NRI release."""
    if nri_version is None:
        nri_version = infer_nri_version(name, version)
    return RuntimeFacts(name, version, nri_version)


def _holder(message: Message, parents: list[str]) -> Message | None:
    for parent in parents:
        if not message.HasField(parent):
            return None
        message = getattr(message, parent)
    return message


def _is_set(message: Message, field: str) -> bool:
    descriptor = message.DESCRIPTOR.fields_by_name[field]
    if not descriptor.has_presence:
        return bool(getattr(message, field))
    return message.HasField(field)
