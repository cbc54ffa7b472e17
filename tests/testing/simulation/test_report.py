"""Reports as plain data, and their statistics."""

from __future__ import annotations

import json

import pytest

from nri_sync import api
from nri_sync.testing.simulation.diff import Change, Place
from nri_sync.testing.simulation.report import (
    Call,
    ContainerReport,
    Event,
    Failure,
    FailureKind,
    PodReport,
    Simulation,
    Statistics,
    plain,
    statistics,
)

__all__: list[str] = []


def test_plain() -> None:
    adjustment = api.Adjustment().add_env("A", "1").message
    change = Change(Place("process.env", "A"), None, "1", "10-a")
    event = Event(
        "CreateContainer",
        calls=[Call("10-a", "CreateContainer", 0.5, 1.0, adjustment=adjustment)],
        failure=Failure(FailureKind.CONFLICT, "no", "10-a"),
        created=ContainerReport({"a": 1}, None, [change], {"v.com/d=0": "10-a"}),
    )
    simulation = Simulation(pods=[PodReport("default/pod", "pod.yaml", "", [], [event])])
    found = json.loads(json.dumps(simulation.plain()))["pods"][0]["events"][0]
    assert found["calls"][0]["adjustment"]["env"] == [{"key": "A", "value": "1"}]
    assert found["failure"]["kind"] == "conflict"
    assert found["created"]["changes"] == [
        {"path": "process.env[A]", "before": None, "after": "1", "owner": "10-a"}
    ]
    assert found["created"]["cdi_devices"] == {"v.com/d=0": "10-a"}
    assert simulation.failures == [event.failure]


@pytest.mark.parametrize("value", [None, True, 3, 0.5, "text", {"a": [1, "b"]}])
def test_plain_values_stay(value: object) -> None:
    assert plain(value) == value


def test_statistics() -> None:
    calls = [
        ("10-a", "CreateContainer", number / 1000, number == 7) for number in range(200, 0, -1)
    ]
    calls.append(("20-b", "StopContainer", 0.25, False))
    assert statistics(calls) == [
        Statistics("10-a", "CreateContainer", 200, 1, p50=0.1, p99=0.198, most=0.2),
        Statistics("20-b", "StopContainer", 1, 0, p50=0.25, p99=0.25, most=0.25),
    ]
    assert statistics([]) == []
