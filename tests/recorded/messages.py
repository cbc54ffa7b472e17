"""Requests as JSON data without the specifics of a node, and their format in a file.

A file has the requests of all pods, one pod after another. Each message is a merge patch (RFC 7396) to the
previous message of the same pod or container, because most requests repeat all of that message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict

from tests.recorded.recorder import Request, by_pod
from tests.recorded.rules import substituted

__all__ = ["Event", "plain", "read", "write"]

#: ``event``, ``pod``, ``container`` and further messages, by name.
Event = dict[str, Any]


def plain(
    requests: Sequence[Request], places: Mapping[str, str], *, generated: bool = False
) -> list[list[Event]]:
    """The events of each pod, with ids replaced by names.

    ``places`` are the directories of the node; ``generated``: a controller has generated the names of the pods.
    """
    return [_of_pod(pod, places, generated) for pod in by_pod(requests)]


def _of_pod(requests: Sequence[Request], places: Mapping[str, str], generated: bool) -> list[Event]:
    names = _names(requests)
    if generated:
        names[requests[0].pod.name] = "<pod>"
    events = []
    for request in requests:
        event: Event = {"event": request.event, "pod": _dict(request.pod)}
        if request.container is not None:
            event["container"] = _dict(request.container)
        event.update({name: _dict(message) for name, message in request.resources.items()})
        events.append(substituted(event, {**places, **names}))
    return events


def _dict(message: Any) -> dict[str, Any]:
    found: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return found


def _names(requests: Sequence[Request]) -> dict[str, str]:
    """The names for the ids of a pod and its containers, and for the paths of their processes."""
    names = {}
    for request in requests:
        pod, container = request.pod, request.container
        names[pod.id], names[pod.uid or pod.id] = "<pod id>", "<pod uid>"
        if pod.pid:
            names[f"/proc/{pod.pid}/"] = "/proc/<pod pid>/"
        if container is not None:
            names[container.id] = f"<id of {container.name}>"
            if container.pid:
                names[f"/proc/{container.pid}/"] = f"/proc/<pid of {container.name}>/"
    return names


# Files


def write(path: Path, pods: Sequence[Sequence[Event]]) -> None:
    data = [_packed(events) for events in pods]
    path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")


def read(path: Path) -> list[list[Event]]:
    return [_unpacked(events) for events in json.loads(path.read_text())]


def _subjects(event: Event) -> dict[str, str]:
    """The messages of an event that may be repeated, with their subjects."""
    subjects = {"pod": "pod"}
    if "container" in event:
        subjects["container"] = event["container"].get("id", "")
    return subjects


def _packed(events: Sequence[Event]) -> list[Event]:
    known: dict[str, Any] = {}
    packed = []
    for event in events:
        written = dict(event)
        for key, subject in _subjects(event).items():
            written[key] = _patch(known.get(subject, {}), event[key])
            if key == "container":
                written[key]["id"] = subject
            known[subject] = event[key]
        packed.append(written)
    return packed


def _unpacked(packed: Sequence[Event]) -> list[Event]:
    known: dict[str, Any] = {}
    events = []
    for written in packed:
        event = dict(written)
        for key, subject in _subjects(written).items():
            event[key] = known[subject] = _patched(known.get(subject, {}), written[key])
        events.append(event)
    return events


def _patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            inner = _patch(old, value)
            if inner:
                patch[key] = inner
        elif key not in before or old != value:
            patch[key] = value
    return patch


def _patched(before: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    after = dict(before)
    for key, value in patch.items():
        if value is None:
            after.pop(key, None)
        elif isinstance(value, dict):
            after[key] = _patched(before.get(key) or {}, value)
        else:
            after[key] = value
    return after
