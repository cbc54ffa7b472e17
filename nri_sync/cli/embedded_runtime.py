"""``nri-sync runtime``: a container runtime for plugins, whose pods and containers exist on paper only."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import queue
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Callable

from nri_sync import api
from nri_sync.cli.console import Console, Text, add_output_options, console, print_each
from nri_sync.cli.errors import CommandError, ExitCode
from nri_sync.cli.simulate import add_node_options, workloads_of
from nri_sync.cli.simulation_view import View
from nri_sync.errors import StartError
from nri_sync.kit.config.durations import parse_duration
from nri_sync.runtime.runtime import DEFAULT_CONFIG_PATH
from nri_sync.testing.manifests import Workload, WorkloadContainer
from nri_sync.testing.simulation import Event, Simulation, Unsolicited, act_as
from nri_sync.testing.simulation.copies import another
from nri_sync.testing.simulation.report import plain
from nri_sync.testing.simulation.walk import Node, Walk
from nri_sync.threads import spawn

__all__ = ["configure", "run"]

# What is asked for: by keys, by signals, by plugins that come, and by the clock.
_ROUND, _RESTART, _END, _CHANGED = "round", "restart", "end", "changed"
_KEYS = {"p": _ROUND, "\n": _ROUND, "\r": _ROUND, "r": _RESTART, "q": _END, "\x04": _END}
_SIGNALS = {
    signal.SIGUSR1: _ROUND,
    signal.SIGHUP: _RESTART,
    signal.SIGTERM: _END,
    signal.SIGINT: _END,
}
# The logger of what launched plugins print.
_LAUNCHED = "nri_sync.runtime.plugin"
_HELP = (
    "keys: p creates the pods anew, r restarts the runtime, q ends; signals: USR1, HUP, TERM\n"
    "a plugin in another terminal: nri-sync run plugin.py --socket {}"
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--socket", required=True, metavar="PATH", help="where to listen for plugins"
    )
    parser.add_argument(
        "-f", "--file", action="append", required=True, metavar="FILE",
        help="pods, as of nri-sync simulate; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--interval", type=_interval, metavar="DURATION",
        help="create the pods anew so often (default: when a plugin comes, at a key or a signal)",
    )  # fmt: skip
    parser.add_argument(
        "--plugins", metavar="DIRECTORY", help="launch the plugins in it, called NN-name"
    )
    parser.add_argument(
        "--plugin-config", metavar="DIRECTORY", default=DEFAULT_CONFIG_PATH,
        help="the configuration of launched plugins, NN-name.conf or name.conf (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--request-timeout", type=_interval, default=api.DEFAULT_REQUEST_TIMEOUT, metavar="DURATION",
        help="the time that plugins have for an answer (default: %(default)g s)",
    )  # fmt: skip
    parser.add_argument(
        "-a", "--all", action="store_true", help="show events without an effect, too"
    )
    add_output_options(parser)
    add_node_options(parser)


def _interval(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if seconds <= 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Blocks until it is ended by a key or a signal."""
    workloads = workloads_of(arguments.file, arguments)
    if arguments.plugins is not None and not os.path.isdir(arguments.plugins):
        raise CommandError(f"--plugins {arguments.plugins}: is no directory", ExitCode.USAGE)
    asked: queue.SimpleQueue[str] = queue.SimpleQueue()
    served = _Served(arguments, workloads, asked)
    with contextlib.ExitStack() as cleanup:
        cleanup.enter_context(_signals(asked))
        cleanup.enter_context(_logged(served.shown))
        served.start()
        cleanup.callback(served.close)
        cleanup.enter_context(_keys(asked))
        served.serve()
    return ExitCode.OK


class _Runtime(Node):
    """Calls ``changed``, if there is one, when a plugin has come or gone."""

    changed: Callable[[], object] | None = None

    def _notify(self) -> None:
        super()._notify()
        if self.changed is not None:
            self.changed()


class _Served:
    """The runtime, its pods, and what is shown of them. Used by one thread."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        workloads: Sequence[Workload],
        asked: queue.SimpleQueue[str],
    ) -> None:
        self._socket = arguments.socket
        self._interval: float | None = arguments.interval
        self._workloads = workloads
        self._asked = asked
        acting_as: dict[str, Any] = {} if arguments.runtime is None else act_as(*arguments.runtime)
        self._runtime = _Runtime(
            **acting_as,
            registration_timeout=api.DEFAULT_REGISTRATION_TIMEOUT,
            request_timeout=arguments.request_timeout,
            socket_path=arguments.socket,
            plugin_path=arguments.plugins,
            plugin_config_path=arguments.plugin_config,
        )
        self._runtime.changed = lambda: asked.put(_CHANGED)
        self._walk = Walk(self._runtime)
        self.shown = _Shown(arguments)
        self._rounds = 0
        self._plugins: frozenset[str] = frozenset()
        # Those that were there before a restart: they come back to the pods that run.
        self._expected: frozenset[str] = frozenset()
        self._updates = self._evictions = 0
        #: The pods that run, with their containers.
        self._running: list[tuple[Workload, list[WorkloadContainer]]] = []

    def start(self) -> None:
        """Listen, and launch plugins. Raises CommandError where that is not possible."""
        try:
            self._runtime.start()
        except StartError as error:
            raise CommandError(str(error), ExitCode.UNREACHABLE) from error
        pods = ", ".join(workload.name for workload in self._workloads)
        self.shown.say("listening", f"on {self._socket}, with the pods {pods}")

    def close(self) -> None:
        self._runtime.changed = None
        self._runtime.stop()
        self.shown.say("ended")

    def serve(self) -> None:
        """Do what is asked for, until the end is."""
        due: float | None = None
        self.shown.hint(_HELP.format(self._socket))
        while True:
            try:
                left = None if due is None else max(0.0, due - time.monotonic())
                what = self._asked.get(timeout=left)
            except queue.Empty:
                what = _ROUND
            if what == _CHANGED:
                what = self._look()
            if what == _RESTART:
                self._restart()
            elif what == _ROUND:
                self._round()
                due = None if self._interval is None else time.monotonic() + self._interval
            if what == _END:
                return

    def _look(self) -> str:
        """Show the plugins that have come and gone, and their requests; returns what to do then."""
        plugins = frozenset(self._runtime.plugins)
        come = plugins - self._plugins
        for name in sorted(come):
            pods, containers = len(self._runtime.pods), len(self._runtime.containers)
            self.shown.say("connected", f"{name}, told of {pods} pods, {containers} containers")
        for name in sorted(self._plugins - plugins):
            self.shown.say("disconnected", name)
        come -= self._expected
        self._expected -= plugins
        self._plugins = plugins
        self._unsolicited()
        return _ROUND if come else ""

    def _unsolicited(self) -> None:
        updates = self._runtime.updates[self._updates :]
        evictions = self._runtime.evictions[self._evictions :]
        self._updates += len(updates)
        self._evictions += len(evictions)
        if updates or evictions:
            changed = [self._walk.update(update) for update in updates]
            evicted = {item.container_id: item.reason for item in evictions}
            self.shown.unsolicited(Unsolicited("a plugin", changed, evicted))

    def _restart(self) -> None:
        self.shown.say("restarting")
        expected = self._plugins
        self._runtime.stop()
        self._look()
        self._expected = expected
        self.start()

    def _round(self) -> None:
        """Remove the pods, and create them anew."""
        for workload, containers in self._running:
            self._show(self._walk.end(workload, containers))
        self._running = []
        for workload in self._workloads:
            lived = another(workload, self._rounds) if self._rounds else workload
            self.shown.pod(lived)
            containers = self._show(self._walk.begin(lived))
            if containers is not None:
                self._running.append((lived, containers))
        self._rounds += 1
        self._unsolicited()
        self.shown.over(self._plugins)

    def _show(self, events: Any) -> Any:
        """Show events as they happen; returns what their generator returns."""
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                return end.value
            self.shown.event(event)


class _Shown:
    """Prints what happens: for people, or a document for each event."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._format = arguments.output
        self._out: Console | None = console(arguments) if self._format == "table" else None
        self._view = View(Simulation(), self._out, arguments.all) if self._out else None
        self._asked = 0

    def say(self, what: str, about: str = "") -> None:
        if self._out is None:
            self._document({"event": what, "note": about})
            return
        clock = datetime.now().strftime("%H:%M:%S")
        self._out.print(Text(f"{clock}  ", "dim"), Text(f"{what} {about}".rstrip(), "bold"), sep="")
        sys.stdout.flush()

    def hint(self, text: str) -> None:
        """For people, and for the beginning only."""
        if self._out is not None:
            for line in text.splitlines():
                self._out.print(Text(line, "dim"))
            sys.stdout.flush()

    def pod(self, workload: Workload) -> None:
        self._asked = 0
        if self._out is not None:
            self._out.print(Text("Pod ", "bold").append(workload.name, "bold"))

    def event(self, event: Event) -> None:
        self._asked += len(event.calls)
        if self._view is None:
            self._document(plain(event))
            return
        self._view.event(event)
        sys.stdout.flush()

    def unsolicited(self, request: Unsolicited) -> None:
        if self._view is None:
            self._document({"event": "UpdateContainers", **plain(request)})
        else:
            self._view.unsolicited([request])
            sys.stdout.flush()

    def over(self, plugins: frozenset[str]) -> None:
        if self._out is None or self._asked:
            return
        reason = "has asked for none of its events" if plugins else "is connected"
        self._out.print(Text(f"  no plugin {reason}", "dim"))
        sys.stdout.flush()

    def _document(self, values: dict[str, Any]) -> None:
        now = datetime.now().astimezone().isoformat(timespec="milliseconds")
        print_each({"time": now, **values}, self._format)


class _Log(logging.Handler):
    """Shows the warnings of the runtime, and the output of the plugins that it has launched."""

    def __init__(self, shown: _Shown) -> None:
        super().__init__()
        self._shown = shown

    def emit(self, record: logging.LogRecord) -> None:
        self._shown.say("log", record.getMessage())


@contextlib.contextmanager
def _logged(shown: _Shown) -> Iterator[None]:
    handler = _Log(shown)
    loggers = [logging.getLogger(name) for name in ("nri_sync.runtime", _LAUNCHED)]
    before = [logger.level for logger in loggers]
    loggers[0].addHandler(handler)
    for logger, level in zip(loggers, (logging.WARNING, logging.INFO)):
        logger.setLevel(level)
    try:
        yield
    finally:
        loggers[0].removeHandler(handler)
        for logger, level in zip(loggers, before):
            logger.setLevel(level)


def _asking(asked: queue.SimpleQueue[str], what: str) -> Callable[[int, Any], None]:
    return lambda number, frame: asked.put(what)


@contextlib.contextmanager
def _signals(asked: queue.SimpleQueue[str]) -> Iterator[None]:
    """Signals ask for something in the block. SimpleQueue.put() may be called in a signal handler."""
    before = {
        number: signal.signal(number, _asking(asked, what)) for number, what in _SIGNALS.items()
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _keys(asked: queue.SimpleQueue[str]) -> Iterator[None]:
    """Keys ask for something in the block, on a terminal. The thread that reads them ends with the process."""
    if not sys.stdin or not sys.stdin.isatty():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def read() -> None:
        while True:
            try:
                key = os.read(terminal, 1).decode("ascii", "replace")
            except OSError:
                return
            if not key:
                return
            if key in _KEYS:
                asked.put(_KEYS[key])

    tty.setcbreak(terminal, termios.TCSADRAIN)
    spawn("nri-keys", read)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
