"""The report of a simulation: plain data, for printing and for JSON."""

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
    """The reason why an event has failed."""

    #: Two plugins set the same field.
    CONFLICT = "conflict"
    #: A validator rejects the adjustments of the other plugins.
    REJECTED = "rejected"
    #: A plugin has answered with an error, because its handler has raised.
    ERROR = "error"
    #: A plugin has not answered in time, or not at all.
    NO_ANSWER = "no answer"
    #: The requested adjustments cannot be applied to the specification.
    SPEC = "specification"


@dataclass(frozen=True)
class Failure:
    kind: FailureKind
    message: str
    #: The full name of the plugin that caused the failure; for a conflict, the later one.
    plugin: str = ""
    #: The traceback of the handler, if it has raised.
    traceback: str = ""


@dataclass(frozen=True)
class UpdatedContainer:
    """The changes that plugins have requested in an existing container."""

    pod: str
    container: str
    id: str
    changes: Sequence[Change]
    #: Whether the container does not exist.
    unknown: bool = False


@dataclass(frozen=True)
class Unsolicited:
    """A request that a plugin has made on its own initiative, outside of events."""

    plugin: str
    updates: Sequence[UpdatedContainer] = ()
    #: The ids of the containers to evict, with the reason.
    evictions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One call of one plugin for one event."""

    plugin: str
    #: The RPC. Post-events and validation are separate calls.
    event: str
    #: The time in the handler (None if it has not returned), and the time that the runtime has waited, in seconds.
    handler_seconds: float | None
    seconds: float
    #: The requested adjustment of a new container, by the message's fields; None for other events.
    adjustment: Message | None = None
    #: The numbers of updates and evictions in the answer.
    updates: int = 0
    evictions: int = 0
    error: str = ""
    traceback: str = ""


@dataclass(frozen=True)
class ContainerReport:
    """The specification of a new container before and after the adjustments."""

    before: Mapping[str, Any]
    #: None if the container was not created.
    after: Mapping[str, Any] | None
    changes: Sequence[Change]
    #: The requested CDI devices by name, with the plugin. The report does not know the effects of a CDI device.
    cdi_devices: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Event:
    """One event in the lifecycle of a pod: an RPC, for example CreateContainer, together with its post-event."""

    name: str
    pod: str = ""
    container: str = ""
    id: str = ""
    #: "init", "sidecar" or "ordinary"; empty if the event has no container.
    kind: str = ""
    calls: Sequence[Call] = ()
    failure: Failure | None = None
    created: ContainerReport | None = None
    #: In an UpdateContainer, this includes the container itself.
    updates: Sequence[UpdatedContainer] = ()
    unsolicited: Sequence[Unsolicited] = ()
    #: The warnings of the runtime: settings that are lost, plugins that it has disconnected.
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class PluginReport:
    name: str
    #: The subscribed RPCs.
    events: Sequence[str]


@dataclass
class PodReport:
    """The lifecycle of one pod, from its workload."""

    name: str
    source: str
    qos: str
    #: The assumptions about the pod.
    notes: Sequence[str]
    events: list[Event] = field(default_factory=list)

    @property
    def failures(self) -> list[Failure]:
        return [event.failure for event in self.events if event.failure is not None]


@dataclass(frozen=True)
class Statistics:
    """The duration of a plugin's handler for one event, in seconds, over all rounds."""

    plugin: str
    event: str
    calls: int
    errors: int
    p50: float
    p99: float
    most: float


@dataclass
class Simulation:
    """The result of a simulation."""

    plugins: list[PluginReport] = field(default_factory=list)
    #: The answers of all plugins to Synchronize, before the first pod.
    synchronized: Event = field(default_factory=lambda: Event("Synchronize"))
    #: The pods of the first round.
    pods: list[PodReport] = field(default_factory=list)
    statistics: list[Statistics] = field(default_factory=list)
    rounds: int = 0
    #: The numbers of events and of failed events in all rounds, and the duration of the simulation in seconds.
    events: int = 0
    failed: int = 0
    seconds: float = 0.0
    #: Requests that plugins have made on their own initiative after the last event.
    unsolicited: list[Unsolicited] = field(default_factory=list)

    @property
    def failures(self) -> list[Failure]:
        """The failures of the first round, in order."""
        return [failure for pod in self.pods for failure in pod.failures]

    def plain(self) -> dict[str, Any]:
        """The whole simulation, for JSON."""
        found: dict[str, Any] = plain(self)
        return found


def plain(value: Any) -> Any:
    """Convert a value for ``json.dumps``."""
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
    """Statistics of calls (plugin, event, seconds, whether it failed), in the order of first appearance."""
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
    """The percentile by the nearest-rank method."""
    return times[max(0, math.ceil(share * len(times)) - 1)]
