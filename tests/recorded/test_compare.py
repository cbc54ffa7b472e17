"""The comparison: the differences that it finds, and those that it skips."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.recorded.compare import compare, table
from tests.recorded.messages import Event, read, write
from tests.recorded.rules import OF_CRICTL
from tests.recorded.scenarios import KUBERNETES

__all__: list[str] = []


@pytest.fixture
def events() -> list[list[Event]]:
    return read(KUBERNETES / "sidecar.json")


def index_of(events: list[Event], title: str) -> int:
    name, _, container = title.partition(" of ")
    [found] = [
        number
        for number, event in enumerate(events)
        if event["event"] == name and event.get("container", {}).get("name", "") == container
    ]
    return found


def changed(events: list[list[Event]], title: str, path: str, value: Any) -> list[list[Event]]:
    """The events with another value; without the value for None."""
    result = copy.deepcopy(events)
    holder: Any = result[0][index_of(result[0], title)]
    *keys, last = path.split("/")
    for key in keys:
        holder = holder[int(key) if key.isdecimal() else key]
    if value is None:
        del holder[last]
    else:
        holder[last] = value
    return result


@pytest.mark.parametrize(
    ("title", "path", "value"),
    [
        ("RunPodSandbox", "pod/linux/cgroup_parent", "/other"),
        ("CreateContainer of app", "container/hooks", None),
        ("CreateContainer of app", "container/mounts/3/source", "other"),
        ("CreateContainer of app", "container/labels/new", "1"),
        ("StartContainer of app", "container/created_at", None),
        ("StopContainer of app", "container/state", "CONTAINER_RUNNING"),
        ("StopPodSandbox", "pod/annotations", None),
    ],
)
def test_differences(events: list[list[Event]], title: str, path: str, value: Any) -> None:
    other = changed(events, title, path, value)
    for pair in ((events, other), (other, events)):
        assert compare(*pair).different
        assert title in compare(*pair).different[0]


def test_order_of_events(events: list[list[Event]]) -> None:
    other = [events[0].copy()]
    first, second = (index_of(other[0], f"StartContainer of {name}") for name in ("app", "proxy"))
    other[0][first], other[0][second] = other[0][second], other[0][first]
    assert "the pod: events" in compare(events, other).different[0]
    assert compare(events, []).different


@pytest.mark.parametrize(
    ("title", "path", "value", "reason"),
    [
        ("StartContainer of app", "container/created_at", "1", "times"),
        ("StartContainer of app", "container/pid", 1, "process ids"),
        ("StopContainer of app", "container/state", None, "stops that are sent before the exit"),
    ],
)
def test_skipped(events: list[list[Event]], title: str, path: str, value: Any, reason: str) -> None:
    before = compare(events, events)
    found = compare(changed(events, title, path, value), events)
    assert (found.different, before.different) == ([], [])
    assert found.skipped[reason] >= before.skipped[reason]
    assert found.skipped[reason] > 0


def test_fields_that_crictl_does_not_show_are_ignored(events: list[list[Event]]) -> None:
    without = changed(events, "CreateContainer of app", "container/image/digest", None)
    assert compare(events, without).different
    assert compare(events, without, OF_CRICTL).different == []


def test_files_keep_all_fields(events: list[list[Event]], tmp_path: Path) -> None:
    path = tmp_path / "events.json"
    write(path, events)
    assert read(path) == events


def test_the_table(events: list[list[Event]]) -> None:
    found = compare(events, changed(events, "StopPodSandbox", "pod/name", "other"))
    lines = table({"sidecar": found}).splitlines()
    assert lines[2].startswith(f"| sidecar | {found.equal} | 1 | ")
    assert lines[3].startswith(f"| 1 manifests | {found.equal} | 1 | ")
