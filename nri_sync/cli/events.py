"""``nri-sync events``: what happens to the pods and containers of a runtime, as it happens."""

from __future__ import annotations

import argparse
import fnmatch
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Callable

from google.protobuf.json_format import MessageToDict
from rich.live import Live
from rich.table import Table

import nri_sync
from nri_sync import api, kit
from nri_sync.api import Container, EventMask, PodSandbox
from nri_sync.api.handlers import HANDLERS, Handler
from nri_sync.cli.console import Text, add_output_options, console, print_each
from nri_sync.cli.errors import CommandError, ExitCode
from nri_sync.deadline import Deadline
from nri_sync.errors import NRIError, StartError
from nri_sync.threads import Latch, off_main, spawn

__all__ = ["configure", "run"]

# What waits to be printed; a terminal that is stopped must not hold up the containers of the node.
_WAITING_MAX = 10_000
_REFRESH = 0.25
_EVENTS = [
    handler
    for handler in HANDLERS
    if handler.event and handler.name != "validate_container_adjustment"
]
_ALL_EVENTS = EventMask.of(*(handler.event for handler in _EVENTS))
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
        "--socket", metavar="PATH", help=f"of the runtime (default: {api.DEFAULT_SOCKET_PATH})"
    )
    parser.add_argument("--name", default="events", help="to register with (default: %(default)s)")
    parser.add_argument(
        "--idx", default="99", metavar="NN",
        help="to register with; the last sees what others have changed (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "-e", "--event", default="all", metavar="EVENTS",
        help="which: names such as createcontainer, or pod, container, all; with commas between them",
    )  # fmt: skip
    parser.add_argument(
        "-n", "--namespace", action="append", default=[], metavar="NAMESPACE",
        help="only of this one; may have * in it; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "-p", "--pod", action="append", default=[], metavar="POD", help="only of this pod; the same"
    )
    parser.add_argument("-l", "--selector", metavar="LABELS", help="only of pods with these labels")
    parser.add_argument(
        "--live", action="store_true", help="a table of what there is, kept current"
    )
    parser.add_argument(
        "--no-reconnect", action="store_true", help="end when the connection is lost"
    )
    add_output_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Blocks until interrupted, or until the connection cannot be had, or is lost and not to come back."""
    try:
        events = EventMask.parse(arguments.event)
    except ValueError as error:
        raise CommandError(f"--event: {error}", ExitCode.USAGE) from error
    watcher = _Watcher(events, _selector(arguments))
    inventory = kit.Inventory()
    # The inventory needs all events; what is shown of them is the watcher's business.
    plugin = kit.chain(inventory, watcher) if arguments.live else watcher
    try:
        stub = nri_sync.Stub(
            plugin, name=arguments.name, idx=arguments.idx, socket_path=arguments.socket
        )
    except ValueError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    session = _Session(stub, watcher, reconnect=not arguments.no_reconnect)
    session.start()
    try:
        if arguments.live:
            _show_live(arguments, inventory, watcher)
        else:
            _print(arguments, watcher)
    finally:
        session.end()
    if session.error is not None:
        dialing = isinstance(session.error, StartError) and session.error.phase == "dial"
        raise CommandError(
            str(session.error), ExitCode.UNREACHABLE if dialing else ExitCode.LOST
        ) from session.error
    return ExitCode.OK


@dataclass
class _Happening:
    """An event, or something to tell about the connection."""

    event: str
    pod: PodSandbox | None = None
    container: Container | None = None
    note: str = ""
    at: float = field(default_factory=time.time)

    def as_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "time": datetime.fromtimestamp(self.at).astimezone().isoformat(timespec="milliseconds"),
            "event": self.event,
        }
        if self.note:
            values["note"] = self.note
        if self.pod is not None:
            values["pod"] = _plain(self.pod)
        if self.container is not None:
            values["container"] = _plain(self.container)
        return values


def _plain(message: Any) -> Any:
    return MessageToDict(message, preserving_proto_field_name=True)


def _selector(arguments: argparse.Namespace) -> Callable[[PodSandbox], bool]:
    try:
        selector = kit.Selector(namespaces=arguments.namespace, labels=arguments.selector or "")
    except ValueError as error:
        raise CommandError(f"--selector: {error}", ExitCode.USAGE) from error
    patterns = arguments.pod or ["*"]
    return lambda pod: (
        selector(pod) and any(fnmatch.fnmatchcase(pod.name, pattern) for pattern in patterns)
    )


class _Watcher:
    """A plugin that asks for nothing, and hands on what it sees.

    It is taken on the main thread, so without a lock: one that is held when the user interrupts would stay
    so, and the handlers would wait for it for good.
    """

    def __init__(self, events: EventMask, selector: Callable[[PodSandbox], bool]) -> None:
        self._events, self._selector = events & _ALL_EVENTS, selector
        self._happenings: deque[_Happening] = deque()
        self._closed = False
        #: Set when there is something new, by those who put it there; whoever waits brings a new one.
        self._news = Latch()
        # For those who put.
        self._lock = threading.Lock()
        self._lost = 0

    def configure(self, config: str, runtime: str, version: str) -> EventMask:
        self.tell("connected", f"to {runtime} {version}")
        return self._events

    def synchronize(self, pods: Sequence[PodSandbox], containers: Sequence[Container]) -> None:
        by_id = {pod.id: pod for pod in pods}
        for pod in pods:
            self.see("Synchronize", pod, None)
        for container in containers:
            pod = by_id.get(container.pod_sandbox_id, PodSandbox(id=container.pod_sandbox_id))
            self.see("Synchronize", pod, container)

    def see(self, event: str, pod: PodSandbox, container: Container | None) -> None:
        if self._selector(pod):
            self._put(_Happening(event, pod, container))

    def tell(self, event: str, note: str) -> None:
        self._put(_Happening(event, note=note))

    def close(self) -> None:
        """No more will come."""
        with self._lock:
            self._tell_of_the_lost_locked()
            self._closed = True
        self._news.set()

    def _put(self, happening: _Happening) -> None:
        with self._lock:
            if len(self._happenings) >= _WAITING_MAX:
                self._lost += 1
                return
            self._tell_of_the_lost_locked()
            self._happenings.append(happening)
        self._news.set()

    def _tell_of_the_lost_locked(self) -> None:
        assert self._lock.locked()
        if self._lost:
            note = f"{self._lost} events, as they came faster than they could be printed"
            self._happenings.append(_Happening("lost", note=note))
            self._lost = 0

    def __iter__(self) -> Iterator[_Happening]:
        while self.wait():
            yield from self.take()

    def take(self) -> Iterator[_Happening]:
        """What has happened since the last time."""
        while self._happenings:
            yield self._happenings.popleft()

    def wait(self, seconds: float | None = None) -> bool:
        """Until there is something to take; False: there is not, and will not be."""
        # Attach, then look, as those who put do it the other way round.
        self._news = news = Latch()
        if not (self._happenings or self._closed):
            news.wait(Deadline(seconds))
        return not self._closed or bool(self._happenings)


def _handler(handler: Handler) -> Any:
    def handle(self: _Watcher, pod: PodSandbox, *rest: Any) -> None:
        container = rest[0] if rest and isinstance(rest[0], Container) else None
        self.see(handler.rpc, pod, container)

    return handle


for _event in _EVENTS:
    setattr(_Watcher, _event.name, _handler(_event))


class _Session:
    """Keeps the stub connected, on a thread of its own."""

    def __init__(self, stub: nri_sync.Stub, watcher: _Watcher, *, reconnect: bool) -> None:
        self.stub = stub
        self.error: NRIError | None = None
        self._watcher = watcher
        self._reconnect = reconnect
        self._over = threading.Event()
        self._ended = Latch()

    def start(self) -> None:
        spawn("events", self._run)

    def _run(self) -> None:
        try:
            nri_sync.run_forever(
                self.stub,
                stop_event=self._over,
                fail_fast=True,
                on_disconnected=self._disconnected,
            )
        except NRIError as error:
            self.error = error
        finally:
            self._watcher.close()
            self._ended.set()

    def _disconnected(self, stub: nri_sync.Stub, reason: NRIError) -> None:
        if not self._reconnect:
            raise reason
        self._watcher.tell("disconnected", str(reason))

    def end(self) -> None:
        # An event has a lock, too.
        off_main("events-end", self._over.set)
        self.stub.stop()
        self._ended.wait()


def _print(arguments: argparse.Namespace, watcher: Iterable[_Happening]) -> None:
    if arguments.output != "table":
        for happening in watcher:
            print_each(happening.as_dict(), arguments.output)
    else:
        out = console(arguments)
        for happening in watcher:
            out.print(_line(happening), soft_wrap=True)
            sys.stdout.flush()


def _line(happening: _Happening) -> Text:
    clock = datetime.fromtimestamp(happening.at).strftime("%H:%M:%S.%f")[:-3]
    line = Text().append(f"{clock}  ", style="dim")
    line.append(f"{happening.event:<20} ", style=_style(happening.event))
    if happening.pod is not None:
        line.append(f"{happening.pod.namespace}/{happening.pod.name or happening.pod.id[:13]}")
        if happening.container is not None:
            name = kit.container_name(happening.container) or happening.container.id[:13]
            line.append(f":{name}", style="bold")
        line.append(f"  {_details(happening.pod, happening.container)}", style="dim")
    line.append(happening.note)
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


def _show_live(arguments: argparse.Namespace, inventory: kit.Inventory, watcher: _Watcher) -> None:
    out = console(arguments)
    wanted = _selector(arguments)
    last: dict[str, _Happening] = {}
    with Live(console=out, auto_refresh=False, screen=out.is_terminal) as live:
        more = True
        while more:
            for happening in watcher.take():
                subject = happening.container or happening.pod
                if subject is not None:
                    last[subject.id] = happening
            snapshot = inventory.snapshot()
            for gone in last.keys() - snapshot.pods.keys() - snapshot.containers.keys():
                del last[gone]
            live.update(_table(snapshot, last, wanted), refresh=True)
            more = watcher.wait(_REFRESH)


def _table(snapshot: kit.Snapshot, last: Mapping[str, _Happening], wanted: Any) -> Table:
    """All pods and their containers, and what has happened to them last."""
    table = Table(box=None, pad_edge=False, expand=True)
    # The names give way on a narrow terminal.
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


def _last(happening: _Happening | None) -> Text:
    if happening is None:
        return Text("")
    clock = datetime.fromtimestamp(happening.at).strftime("%H:%M:%S ")
    return Text().append(clock, style="dim").append(happening.event, style=_style(happening.event))
