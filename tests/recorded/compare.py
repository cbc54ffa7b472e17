"""Compares recorded events with simulated ones, field by field, and prints a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from tests.recorded.messages import Event
from tests.recorded.rules import RECORDED, RULES, SIMULATED, Rule, reason_of

__all__ = ["Comparison", "compare", "table"]

# A container's process may end before containerd reports its start: the two events have no fixed order.
_STARTED = ["StopContainer", "PostStartContainer"]
# The kubelet stops the containers of a pod at the same time, and the runtime removes them in any order.
_UNORDERED = ("StopContainer", "RemoveContainer")
_ABSENT = "<absent>"


@dataclass
class Comparison:
    """The compared fields of all events of one manifest."""

    equal: int = 0
    #: Texts ``event: path: recorded, simulated``.
    different: list[str] = field(default_factory=list)
    #: The numbers of skipped fields, by reason.
    skipped: Counter[str] = field(default_factory=Counter)

    def count(
        self,
        what: str,
        path: str,
        recorded: Any,
        simulated: Any,
        rules: tuple[Rule, ...] = RULES,
    ) -> None:
        sides = {RECORDED: recorded, SIMULATED: simulated}
        present = tuple(name for name, value in sides.items() if value is not _ABSENT)
        reason = reason_of(rules, what.partition(" ")[0], path, present)
        if reason:
            self.skipped[reason] += 1
        elif recorded == simulated:
            self.equal += 1
        else:
            self.different.append(f"{what}: {path}: recorded {recorded!r}, simulated {simulated!r}")


def compare(
    recorded: Sequence[Sequence[Event]],
    simulated: Sequence[Sequence[Event]],
    rules: tuple[Rule, ...] = RULES,
) -> Comparison:
    """Compare the recorded and the simulated events of each pod."""
    found = Comparison()
    found.count("the manifest", "pods", len(recorded), len(simulated))
    for real, model in zip(recorded, simulated):
        real, model = _arranged(real), _arranged(model)
        found.count("the pod", "events", _titles(real), _titles(model))
        if _titles(real) != _titles(model):
            continue
        for one, other in zip(real, model):
            left, right = dict(_flat("", one)), dict(_flat("", other))
            for path in {**left, **right}:
                values = left.get(path, _ABSENT), right.get(path, _ABSENT)
                found.count(_title(one), path, *values, rules)
    return found


def _title(event: Event) -> str:
    name = event.get("container", {}).get("name", "")
    return f"{event['event']} of {name}" if name else str(event["event"])


def _titles(events: Sequence[Event]) -> list[str]:
    return [_title(event) for event in events]


def _arranged(events: Sequence[Event]) -> list[Event]:
    """The events, with those of no fixed order sorted by their containers."""
    events = list(events)
    for number, pair in enumerate(zip(events, events[1:])):
        names = {event.get("container", {}).get("name") for event in pair}
        if [event["event"] for event in pair] == _STARTED and len(names) == 1:
            events[number : number + 2] = reversed(pair)
    found: list[Event] = []
    for name, group in groupby(events, key=lambda event: str(event["event"])):
        members = list(group)
        found += sorted(members, key=_title) if name in _UNORDERED else members
    return found


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """All scalar values and empty objects, by their paths."""
    if path == "container.env":
        yield from _variables(value)
    elif path == "container.mounts":
        for number, item in enumerate(_with_volumes_in_order(value)):
            yield from _flat(f"{path}[{number}]", item)
    elif isinstance(value, Mapping) and value:
        for key, item in value.items():
            plain = key.replace("_", "").isalnum()
            inner = f"{path}.{key}" if plain else f"{path}[{key}]"
            if path.endswith((".labels", ".annotations")):
                inner = f"{path}[{key}]"
            yield from _flat(inner.lstrip("."), item)
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield from _flat(f"{path}[{number}]", item)
    else:
        yield path, value


def _variables(entries: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Variables by name and number of occurrence: the order of the kubelet's variables differs from run to run."""
    seen: Counter[str] = Counter()
    for entry in entries:
        name, _, value = entry.partition("=")
        yield f"container.env[{name}][{seen[name]}]", value
        seen[name] += 1


def _with_volumes_in_order(mounts: Sequence[Any]) -> list[Any]:
    """The mounts in a fixed order: that of an image's volumes of the same depth differs from run to run."""
    found: list[Any] = []
    for is_volume, group in groupby(mounts, lambda item: "/volumes/<random>" in item["source"]):
        members = list(group)
        found += (
            sorted(members, key=lambda item: str(item["destination"])) if is_volume else members
        )
    return found


def table(found: Mapping[str, Comparison]) -> str:
    """A Markdown table: a row for each manifest, and the sum."""
    lines = ["| manifest | equal | different | skipped |", "|---|---|---|---|"]
    total = Comparison()
    for name, item in found.items():
        lines.append(_row(name, item))
        total.equal += item.equal
        total.different += item.different
        total.skipped += item.skipped
    return "\n".join([*lines, _row(f"{len(found)} manifests", total)])


def _row(name: str, item: Comparison) -> str:
    skipped = ", ".join(f"{reason}: {n}" for reason, n in sorted(item.skipped.items()))
    return f"| {name} | {item.equal} | {len(item.different)} | {skipped} |"
