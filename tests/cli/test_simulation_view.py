"""The printed form of a simulation."""

from __future__ import annotations

import io

from nri_sync.cli.console import Console
from nri_sync.cli.simulation_view import show
from nri_sync.testing.simulation import (
    Call,
    Change,
    ContainerReport,
    Event,
    Failure,
    FailureKind,
    Place,
    PluginReport,
    PodReport,
    Simulation,
    Unsolicited,
    UpdatedContainer,
)

__all__: list[str] = []


def shown(*events: Event, width: int = 200, everything: bool = False) -> str:
    simulation = Simulation(
        [PluginReport("10-a", ["CreateContainer"]), PluginReport("20-b", [])],
        pods=[PodReport("default/web", "pod.yaml", "Burstable", ["a note"], list(events))],
        events=len(events),
        failed=sum(event.failure is not None for event in events),
    )
    stream = io.StringIO()
    show(simulation, Console(file=stream, width=width, highlight=False), everything=everything)
    return stream.getvalue()


def created(*changes: Change, **report: object) -> Event:
    made = ContainerReport({}, {}, changes, **report)  # type: ignore[arg-type]
    return Event("CreateContainer", "web", "app", created=made)


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_added_changed_and_removed() -> None:
    text = shown(
        created(
            Change(Place("process.env", "A"), None, "1", "10-a"),
            Change(Place("linux.resources.cpu.shares"), 2, 512, "20-b"),
            Change(Place("mounts", "/data"), {"destination": "/data"}, None),
        )
    )
    assert "+ process.env[A] 1 10-a" in lines(text)
    assert "~ linux.resources.cpu.shares 2 -> 512 20-b" in lines(text)
    assert '- mounts[/data] {"destination": "/data"} the runtime' in lines(text)


def test_a_long_value_is_cut() -> None:
    text = shown(created(Change(Place("annotations", "a"), None, "x" * 1000, "10-a")), width=1000)
    assert "x" * 197 + "..." in text
    assert "x" * 198 not in text


def test_calls_and_their_durations() -> None:
    calls = [
        Call("10-a", "CreateContainer", 0.0015, 0.01),
        Call("20-b", "CreateContainer", None, 2.0),
    ]
    event = created(Change(Place("hostname"), None, "x", "10-a"))
    event.calls = calls
    assert "CreateContainer app 10-a 1.50 ms 20-b 2.00 s" in lines(shown(event))


def test_a_failure() -> None:
    failure = Failure(FailureKind.CONFLICT, "both", "20-b", "Traceback: here")
    event = Event("CreateContainer", "web", "app", failure=failure)
    assert "x conflict: both" in lines(shown(event))
    assert "Traceback" not in shown(event)
    assert "Traceback: here" in shown(event, everything=True)
    assert "1 events, 1 failed, in 0.00 s" in lines(shown(event))


def test_updates_evictions_warnings_and_devices() -> None:
    change = Change(Place("linux.resources.pids.limit"), None, 7, "10-a")
    update = UpdatedContainer("web", "other", "id1", [change])
    unknown = UpdatedContainer("web", "", "id2", [], unknown=True)
    event = created(cdi_devices={"vendor.com/gpu=0": "20-b"})
    event.updates = [update, unknown]
    event.unsolicited = [Unsolicited("20-b", [update], {"id1": "too hungry"})]
    event.warnings = ["it got lost"]
    text = lines(shown(event))
    assert "+ CDI device vendor.com/gpu=0 20-b" in text
    assert text.count("update of web:other") == 2
    assert "update of web:id2 (there is no such container)" in text
    assert "20-b requests:" in text
    assert "eviction of id1: too hungry" in text
    assert "! it got lost" in text


def test_events_without_an_effect_are_summed_up() -> None:
    call = Call("10-a", "StartContainer", 0.001, 0.001)
    events = [Event("StartContainer", "web", "app", calls=[call]), Event("StopPodSandbox", "web")]
    assert "without effect: StartContainer app" in lines(shown(*events))
    text = lines(shown(*events, everything=True))
    assert "StopPodSandbox" in text
    assert "assumed: a note" in text


def test_markup_in_values_is_no_markup() -> None:
    assert "[red]x[/red]" in shown(created(Change(Place("hostname"), None, "[red]x[/red]", "10-a")))


def test_eighty_columns_are_enough() -> None:
    event = created(Change(Place("annotations", "a.example.com/b"), None, "word " * 30, "10-a"))
    assert max(map(len, shown(event, width=80).splitlines())) <= 80
