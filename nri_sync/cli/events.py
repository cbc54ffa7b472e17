"""``nri-sync events``: prints the events of a runtime's pods and containers, when they happen."""

from __future__ import annotations

import argparse
import fnmatch
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Callable

from rich.live import Live
from rich.table import Table

import nri_sync
from nri_sync import api, kit
from nri_sync.api import Container, EventMask, PodSandbox
from nri_sync.cli.console import Text, add_output_options, console, print_each
from nri_sync.cli.errors import CommandError, ExitCode
from nri_sync.cli.observer import Observation, Observer, StubThread
from nri_sync.errors import StartError

__all__ = ["configure", "live_table", "run"]

# Seconds between two updates of the live table.
_REFRESH = 0.25
_STYLES = {
    "run": "green",
    "create": "green",
    "start": "cyan",
    "update": "yellow",
    "stop": "magenta",
    "remove": "red",
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--socket",
        metavar="PATH",
        help=f"socket of the runtime (default: {api.DEFAULT_SOCKET_PATH})",
    )
    parser.add_argument(
        "--name", default="events", help="name to register with (default: %(default)s)"
    )
    parser.add_argument(
        "--idx", default="99", metavar="NN",
        help="index to register with; the last plugin sees the changes of the others (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "-e", "--event", default="all", metavar="EVENTS",
        help="events to show: names such as createcontainer, or pod, container, all; separated by commas",
    )  # fmt: skip
    parser.add_argument(
        "-n", "--namespace", action="append", default=[], metavar="NAMESPACE",
        help="show only this namespace; may contain *; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "-p",
        "--pod",
        action="append",
        default=[],
        metavar="POD",
        help="show only this pod; may contain *; may be repeated",
    )
    parser.add_argument(
        "-l", "--selector", metavar="LABELS", help="show only pods with these labels"
    )
    parser.add_argument(
        "--live", action="store_true", help="show a table of all pods and containers, kept current"
    )
    parser.add_argument(
        "--no-reconnect", action="store_true", help="end when the connection is lost"
    )
    add_output_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Blocks until interrupted, until connecting fails, or, with --no-reconnect, until the connection is lost."""
    try:
        events = EventMask.parse(arguments.event)
    except ValueError as error:
        raise CommandError(f"--event: {error}", ExitCode.USAGE) from error
    observer = Observer(events, _selector(arguments))
    inventory = kit.Inventory()
    # The inventory needs all events. The observer selects the events to show.
    plugin = kit.chain(inventory, observer) if arguments.live else observer
    try:
        stub = nri_sync.Stub(
            plugin, name=arguments.name, idx=arguments.idx, socket_path=arguments.socket
        )
    except ValueError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    thread = StubThread(stub, observer, reconnect=not arguments.no_reconnect)
    thread.start()
    try:
        if arguments.live:
            _show_live(arguments, inventory, observer)
        else:
            _print(arguments, observer)
    finally:
        thread.end()
    if thread.error is not None:
        dialing = isinstance(thread.error, StartError) and thread.error.phase == "dial"
        raise CommandError(
            str(thread.error), ExitCode.UNREACHABLE if dialing else ExitCode.LOST
        ) from thread.error
    return ExitCode.OK


def _selector(arguments: argparse.Namespace) -> Callable[[PodSandbox], bool]:
    try:
        selector = kit.Selector(namespaces=arguments.namespace, labels=arguments.selector or "")
    except ValueError as error:
        raise CommandError(f"--selector: {error}", ExitCode.USAGE) from error
    patterns = arguments.pod or ["*"]
    return lambda pod: (
        selector(pod) and any(fnmatch.fnmatchcase(pod.name, pattern) for pattern in patterns)
    )


def _print(arguments: argparse.Namespace, observer: Iterable[Observation]) -> None:
    if arguments.output != "table":
        for observation in observer:
            print_each(observation.as_dict(), arguments.output)
    else:
        out = console(arguments)
        for observation in observer:
            out.print(_line(observation), soft_wrap=True)
            sys.stdout.flush()


def _line(observation: Observation) -> Text:
    clock = datetime.fromtimestamp(observation.at).strftime("%H:%M:%S.%f")[:-3]
    line = Text().append(f"{clock}  ", style="dim")
    line.append(f"{observation.event:<20} ", style=_style(observation.event))
    if observation.pod is not None:
        line.append(
            f"{observation.pod.namespace}/{observation.pod.name or observation.pod.id[:13]}"
        )
        if observation.container is not None:
            name = kit.container_name(observation.container) or observation.container.id[:13]
            line.append(f":{name}", style="bold")
        line.append(f"  {_details(observation.pod, observation.container)}", style="dim")
    line.append(observation.note)
    line.rstrip()
    return line


def _style(event: str) -> str:
    word = event.lower()
    word = word[4:] if word.startswith("post") else word
    return next((style for start, style in _STYLES.items() if word.startswith(start)), "bold")


def _details(pod: PodSandbox, container: Container | None) -> str:
    if container is None:
        return " ".join(pod.ips)
    parts = [
        _state(container.state),
        f"pid {container.pid}" if container.pid else "",
        _image(container),
    ]
    return "  ".join(part for part in parts if part)


def _state(state: int) -> str:
    name = api.ContainerState.Name(state)[len("CONTAINER_") :].lower()
    return "" if name == "unknown" else name


def _image(container: Container) -> str:
    image = kit.container_image(container)
    return str(image.reference or image.digest or "")


def _show_live(arguments: argparse.Namespace, inventory: kit.Inventory, observer: Observer) -> None:
    out = console(arguments)
    wanted = _selector(arguments)
    last: dict[str, Observation] = {}
    with Live(console=out, auto_refresh=False, screen=out.is_terminal) as live:
        more = True
        while more:
            for observation in observer.take():
                subject = observation.container or observation.pod
                if subject is not None:
                    last[subject.id] = observation
            snapshot = inventory.snapshot()
            for gone in last.keys() - snapshot.pods.keys() - snapshot.containers.keys():
                del last[gone]
            live.update(live_table(snapshot, last, wanted), refresh=True)
            more = observer.wait(_REFRESH)


def live_table(snapshot: kit.Snapshot, last: Mapping[str, Observation], wanted: Any) -> Table:
    """All pods and their containers, each with its last event."""
    table = Table(box=None, pad_edge=False, expand=True)
    # On a narrow terminal only the names are shortened.
    for title, ratio in (
        ("NAMESPACE/POD", 3),
        ("CONTAINER", 2),
        ("STATE", 0),
        ("PID", 0),
        ("LAST EVENT", 0),
    ):
        table.add_column(title, ratio=ratio or None, no_wrap=True, overflow="ellipsis")
    for pod in sorted(snapshot.pods.values(), key=lambda pod: (pod.namespace, pod.name)):
        message = pod.message
        if not wanted(message):
            continue
        name = f"{pod.namespace}/{pod.name}"
        state = "stopped" if pod.stopped else "ready"
        table.add_row(name, "", state, str(pod.pid or ""), _last(last.get(pod.id)))
        for container in snapshot.containers_of(pod.id):
            state = _state(container.state)
            table.add_row(
                "", container.name, state, str(container.pid or ""), _last(last.get(container.id))
            )
    return table


def _last(observation: Observation | None) -> Text:
    if observation is None:
        return Text("")
    clock = datetime.fromtimestamp(observation.at).strftime("%H:%M:%S ")
    return (
        Text().append(clock, style="dim").append(observation.event, style=_style(observation.event))
    )
