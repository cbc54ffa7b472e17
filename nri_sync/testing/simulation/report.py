"""What a simulation has shown: plain data, for people to look at and for JSON."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from nri_sync.testing.simulation.diff import Change

__all__ = [
    "Call",
    "ContainerReport",
    "Event",
    "Failure",
    "FailureKind",
    "PluginReport",
    "PodReport",
    "Simulation",
    "Statistics",
    "Unsolicited",
    "UpdatedContainer",
    "plain",
    "statistics",
]


class FailureKind(str, enum.Enum):
    """Why an event has failed."""

    #: Two plugins want different things.
    CONFLICT = "conflict"
    #: A validator does not want what the others have asked for.
    REJECTED = "rejected"
    #: A plugin has answered with an error: its handler has raised.
    ERROR = "error"
    #: A plugin has not answered in time, or at all.
    NO_ANSWER = "no answer"
    #: What plugins have asked for cannot be put into the specification.
    SPEC = "specification"


@dataclass(frozen=True)
class Failure:
    kind: FailureKind
    message: str
    #: The full name of the plugin that is to blame; for a conflict, the one that came later.
    plugin: str = ""
    #: Where its handler has raised, if it has.
    traceback: str = ""


@dataclass(frozen=True)
class UpdatedContainer:
    """What plugins have asked to be changed in a container that exists."""

    pod: str
    container: str
    id: str
    changes: Sequence[Change]
    #: Whether there is no such container.
    unknown: bool = False


@dataclass(frozen=True)
class Unsolicited:
    """What a plugin has asked for by itself, outside of any event."""

    plugin: str
    updates: Sequence[UpdatedContainer] = ()
    #: Ids of containers that are to be stopped, with the reason.
    evictions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One plugin, asked about one event."""

    plugin: str
    #: The RPC: what follows from an event, and validation, are calls of their own.
    event: str
    #: What its handler took; None if it has not returned. And all that the runtime has waited.
    handler_seconds: float | None
    seconds: float
    #: What it wants of a new container, as the message's fields; None where there is no such thing.
    adjustment: Message | None = None
    #: How many updates and evictions there are in its answer.
    updates: int = 0
    evictions: int = 0
    error: str = ""
    traceback: str = ""


@dataclass(frozen=True)
class ContainerReport:
    """What has become of the specification of a new container."""

    before: Mapping[str, Any]
    #: None where the container has failed.
    after: Mapping[str, Any] | None
    changes: Sequence[Change]
    #: CDI devices by name, and who has asked for them. What they add is known where they are defined.
    cdi_devices: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Event:
    """One event in the life of a pod: an RPC, and what belongs to it (CreateContainer and PostCreateContainer)."""

    name: str
    pod: str = ""
    container: str = ""
    id: str = ""
    #: "init", "sidecar" or "ordinary"; "" if it is not about a container.
    kind: str = ""
    calls: Sequence[Call] = ()
    failure: Failure | None = None
    created: ContainerReport | None = None
    #: The container itself is among them, if it is being updated.
    updates: Sequence[UpdatedContainer] = ()
    unsolicited: Sequence[Unsolicited] = ()
    #: What the runtime has logged: what is lost, whom it has cut off.
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class PluginReport:
    name: str
    #: The RPCs that it is subscribed to.
    events: Sequence[str]


@dataclass
class PodReport:
    """The life of one pod, from its workload."""

    name: str
    source: str
    qos: str
    #: What was assumed of it.
    notes: Sequence[str]
    events: list[Event] = field(default_factory=list)

    @property
    def failures(self) -> list[Failure]:
        return [event.failure for event in self.events if event.failure is not None]


@dataclass(frozen=True)
class Statistics:
    """How long the handler of an event of a plugin took, in seconds, over all rounds."""

    plugin: str
    event: str
    calls: int
    errors: int
    p50: float
    p99: float
    most: float


@dataclass
class Simulation:
    """All of it."""

    plugins: list[PluginReport] = field(default_factory=list)
    #: What all of them have said to Synchronize, before all pods.
    synchronized: Event = field(default_factory=lambda: Event("Synchronize"))
    #: Those of the first round.
    pods: list[PodReport] = field(default_factory=list)
    statistics: list[Statistics] = field(default_factory=list)
    rounds: int = 0
    #: Events of all rounds, how many of them failed, and how long it all took, in seconds.
    events: int = 0
    failed: int = 0
    seconds: float = 0.0
    #: What plugins have asked for by themselves after the last event.
    unsolicited: list[Unsolicited] = field(default_factory=list)

    @property
    def failures(self) -> list[Failure]:
        """Those of the first round, in order."""
        return [failure for pod in self.pods for failure in pod.failures]

    def plain(self) -> dict[str, Any]:
        """All of it, for JSON."""
        found: dict[str, Any] = plain(self)
        return found


def plain(value: Any) -> Any:
    """What ``json.dumps`` takes."""
    if isinstance(value, Change):
        return value.plain()
    if isinstance(value, Message):
        return json_format.MessageToDict(value, preserving_proto_field_name=True)
    if isinstance(value, enum.Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


def statistics(calls: Iterable[tuple[str, str, float, bool]]) -> list[Statistics]:
    """Of calls as plugin, event, seconds and whether it failed; in the order of their first mention."""
    found: dict[tuple[str, str], list[tuple[float, bool]]] = {}
    for plugin, event, seconds, failed in calls:
        found.setdefault((plugin, event), []).append((seconds, failed))
    return [_of(*key, entries) for key, entries in found.items()]


def _of(plugin: str, event: str, entries: Sequence[tuple[float, bool]]) -> Statistics:
    times = sorted(seconds for seconds, _ in entries)
    return Statistics(
        plugin,
        event,
        calls=len(entries),
        errors=sum(failed for _, failed in entries),
        p50=_percentile(times, 0.50),
        p99=_percentile(times, 0.99),
        most=times[-1],
    )


def _percentile(times: Sequence[float], share: float) -> float:
    """The least that at least so many are not above (the nearest rank)."""
    return times[max(0, math.ceil(share * len(times)) - 1)]
