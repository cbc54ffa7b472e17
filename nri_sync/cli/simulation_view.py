"""Prints a simulation: the events of each pod, the changes with the plugins that made them, the durations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.padding import Padding
from rich.table import Table

from nri_sync.cli.console import Console, Text
from nri_sync.testing.simulation import (
    Call,
    Change,
    Event,
    Failure,
    PodReport,
    Simulation,
    Statistics,
    Unsolicited,
    UpdatedContainer,
)

__all__ = ["View", "show"]

# One colour for each plugin, so that a reader sees at once which plugin made a change.
_COLORS = ("cyan", "magenta", "yellow", "blue", "green", "bright_red")
_LONGEST = 200


def show(simulation: Simulation, out: Console, *, everything: bool = False) -> None:
    """Print the simulation. ``everything`` adds events without an effect, and the assumptions about the pods."""
    View(simulation, out, everything).show()


class View:
    """Prints a simulation, or its events one by one."""

    def __init__(self, simulation: Simulation, out: Console, everything: bool) -> None:
        self._simulation = simulation
        self._out = out
        self._everything = everything
        self._styles = {
            plugin.name: _COLORS[number % len(_COLORS)]
            for number, plugin in enumerate(simulation.plugins)
        }

    def show(self) -> None:
        for plugin in self._simulation.plugins:
            events = ", ".join(plugin.events) or "no events"
            self._line(self._by(plugin.name), Text(f" subscribes to {events}", "dim"))
        self.event(self._simulation.synchronized)
        for pod in self._simulation.pods:
            self._pod(pod)
        self.unsolicited(self._simulation.unsolicited, 0)
        self._line()
        self._out.print(self._times(self._simulation.statistics))
        self._summary()

    def _pod(self, pod: PodReport) -> None:
        self._line()
        head = Text("Pod ", "bold").append(pod.name, "bold")
        qos = f"  {pod.qos}" if pod.qos else ""
        self._line(head, Text(f"{qos}  from {pod.source}", "dim"))
        if self._everything:
            for note in pod.notes:
                self._line(Text(f"  assumed: {note}", "dim"))
        quiet: list[str] = []
        for event in pod.events:
            if self._everything or _has_effect(event):
                self.event(event)
            elif event.calls:
                quiet.append(f"{event.name} {event.container}".rstrip())
        if quiet:
            self._line(Text(f"  without effect: {', '.join(quiet)}", "dim"))

    def event(self, event: Event) -> None:
        """Print the event if it had an effect, or if the view shows everything."""
        if not (self._everything or _has_effect(event)):
            return
        line = Text(f"  {event.name}", "bold")
        if event.container:
            line.append(f" {event.container}", "default not bold")
            if event.kind not in ("", "ordinary"):
                line.append(f" ({event.kind})", "dim")
        self._line(line, *self._calls(event.calls))
        if event.failure is not None:
            self._failure(event.failure)
        if event.created is not None and event.failure is None:
            self._changes(event.created.changes)
            for device, owner in event.created.cdi_devices.items():
                self._line(Text("    + ", "green"), Text(f"CDI device {device}  "), self._by(owner))
        for update in event.updates:
            self._update(update)
        self.unsolicited(event.unsolicited, 4)
        for warning in event.warnings:
            self._line(Text(f"    ! {warning}", "yellow"))

    def _calls(self, calls: Sequence[Call]) -> Iterable[Text]:
        for call in calls:
            seconds = call.seconds if call.handler_seconds is None else call.handler_seconds
            yield (
                Text("  ")
                .append(self._by(call.plugin))
                .append(f" {_time(seconds)}", "red" if call.error else "dim")
            )

    def _failure(self, failure: Failure) -> None:
        self._line(Text(f"    x {failure.kind.value}: ", "bold red"), Text(failure.message))
        if self._everything and failure.traceback:
            self._out.print(Padding(Text.lines(failure.traceback.rstrip(), "dim"), (0, 0, 0, 6)))

    def _update(self, update: UpdatedContainer) -> None:
        unknown = "  (there is no such container)" if update.unknown else ""
        self._line(Text(f"    update of {update.pod}:{update.container or update.id}{unknown}"))
        self._changes(update.changes, 6)

    def unsolicited(self, unsolicited: Iterable[Unsolicited], indent: int = 0) -> None:
        """Print the requests that plugins have made on their own initiative."""
        margin = " " * indent
        for request in unsolicited:
            self._line(Text(margin), self._by(request.plugin), Text(" requests:"))
            for update in request.updates:
                self._update(update)
            for container, reason in request.evictions.items():
                self._line(Text(f"{margin}  eviction of {container}: {reason}", "red"))

    def _changes(self, changes: Sequence[Change], indent: int = 4) -> None:
        if not changes:
            return
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        table.add_column(overflow="fold")
        table.add_column(no_wrap=True)
        for change in changes:
            sign, style = ("+", "green") if change.before is None else ("~", "yellow")
            sign, style = ("-", "red") if change.after is None else (sign, style)
            table.add_row(
                Text(sign, style),
                Text(str(change.place)),
                _values(change),
                self._by(change.owner) if change.owner else Text("the runtime", "dim"),
            )
        self._out.print(Padding(table, (0, 0, 0, indent), expand=False))

    def _times(self, statistics: Sequence[Statistics]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("PLUGIN")
        table.add_column("EVENT")
        for title in ("CALLS", "ERRORS", "P50", "P99", "MAX"):
            table.add_column(title, justify="right")
        for entry in statistics:
            table.add_row(
                self._by(entry.plugin),
                entry.event,
                str(entry.calls),
                Text(str(entry.errors), "red" if entry.errors else ""),
                _time(entry.p50),
                _time(entry.p99),
                _time(entry.most),
            )
        return table

    def _summary(self) -> None:
        simulation = self._simulation
        failed = f"{simulation.failed} failed" if simulation.failed else "none failed"
        self._line()
        self._line(
            Text(f"{simulation.events} events, "),
            Text(failed, "bold red" if simulation.failed else "green"),
            Text(f", in {simulation.seconds:.2f} s"),
        )

    def _by(self, plugin: str) -> Text:
        return Text(plugin, self._styles.get(plugin, ""))

    def _line(self, *parts: Text) -> None:
        self._out.print(Text.assemble(*parts), soft_wrap=False)


def _has_effect(event: Event) -> bool:
    changed = event.created is not None and (event.created.changes or event.created.cdi_devices)
    updated = any(update.changes or update.unknown for update in event.updates)
    return bool(changed or updated or event.failure or event.unsolicited or event.warnings)


def _values(change: Change) -> Text:
    if change.before is None:
        return Text(_value(change.after), "green")
    if change.after is None:
        return Text(_value(change.before), "red strike")
    before, after = _value(change.before), _value(change.after)
    return Text(before, "red").append(" -> ", "dim").append(after, "green")


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"
