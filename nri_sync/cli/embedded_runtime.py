"""``nri-sync runtime``: a container runtime for plugins, with simulated pods and containers."""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from typing import Any, Callable

from nri_sync import api
from nri_sync.cli.console import add_output_options
from nri_sync.cli.errors import CommandError, ExitCode
from nri_sync.cli.runtime_view import RuntimeView, log_shown
from nri_sync.cli.simulate import add_node_options, workloads_of
from nri_sync.errors import StartError
from nri_sync.kit.config.durations import parse_duration
from nri_sync.runtime.runtime import DEFAULT_CONFIG_PATH
from nri_sync.testing.manifests import Workload, WorkloadContainer
from nri_sync.testing.simulation import Unsolicited, act_as
from nri_sync.testing.simulation.copies import another
from nri_sync.testing.simulation.lifecycle import LifecycleSimulator, Node
from nri_sync.threads import spawn

__all__ = ["configure", "run"]

# The commands: from keys, signals, connecting plugins, and the interval.
_ROUND, _RESTART, _END, _CHANGED = "round", "restart", "end", "changed"
_KEYS = {"p": _ROUND, "\n": _ROUND, "\r": _ROUND, "r": _RESTART, "q": _END, "\x04": _END}
_SIGNALS = {
    signal.SIGUSR1: _ROUND,
    signal.SIGHUP: _RESTART,
    signal.SIGTERM: _END,
    signal.SIGINT: _END,
}
_HELP = (
    "keys: p recreates the pods, r restarts the runtime, q quits; signals: USR1, HUP, TERM\n"
    "a plugin in another terminal: nri-sync run plugin.py --socket {}"
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--socket", required=True, metavar="PATH", help="socket for plugins")
    parser.add_argument(
        "-f", "--file", action="append", required=True, metavar="FILE",
        help="pods, as for nri-sync simulate; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--interval", type=_interval, metavar="DURATION",
        help="recreate the pods at this interval (default: when a plugin connects, at a key or a signal)",
    )  # fmt: skip
    parser.add_argument(
        "--plugins", metavar="DIRECTORY", help="directory of plugins to launch, with names NN-name"
    )
    parser.add_argument(
        "--plugin-config", metavar="DIRECTORY", default=DEFAULT_CONFIG_PATH,
        help="directory of their configuration, NN-name.conf or name.conf (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--request-timeout", type=_interval, default=api.DEFAULT_REQUEST_TIMEOUT, metavar="DURATION",
        help="time limit for an answer of a plugin (default: %(default)g s)",
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
    """Blocks until a key or a signal ends the runtime."""
    workloads = workloads_of(arguments.file, arguments)
    if arguments.plugins is not None and not os.path.isdir(arguments.plugins):
        raise CommandError(f"--plugins {arguments.plugins}: is no directory", ExitCode.USAGE)
    commands: queue.SimpleQueue[str] = queue.SimpleQueue()
    program = _RuntimeProgram(arguments, workloads, commands)
    with contextlib.ExitStack() as cleanup:
        cleanup.enter_context(_signals(commands))
        cleanup.enter_context(log_shown(program.view))
        program.start()
        cleanup.callback(program.close)
        cleanup.enter_context(_keys(commands))
        program.serve()
    return ExitCode.OK


class _Runtime(Node):
    """A node that calls ``changed``, if set, when a plugin has connected or disconnected."""

    changed: Callable[[], object] | None = None

    def _notify(self) -> None:
        super()._notify()
        if self.changed is not None:
            self.changed()


class _RuntimeProgram:
    """The runtime, its pods, and their view. For one thread."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        workloads: Sequence[Workload],
        commands: queue.SimpleQueue[str],
    ) -> None:
        self._socket = arguments.socket
        self._interval: float | None = arguments.interval
        self._workloads = workloads
        self._commands = commands
        acting_as: dict[str, Any] = {} if arguments.runtime is None else act_as(*arguments.runtime)
        self._runtime = _Runtime(
            **acting_as,
            registration_timeout=api.DEFAULT_REGISTRATION_TIMEOUT,
            request_timeout=arguments.request_timeout,
            socket_path=arguments.socket,
            plugin_path=arguments.plugins,
            plugin_config_path=arguments.plugin_config,
        )
        self._runtime.changed = lambda: commands.put(_CHANGED)
        self._simulator = LifecycleSimulator(self._runtime)
        self.view = RuntimeView(arguments)
        self._rounds = 0
        self._plugins: frozenset[str] = frozenset()
        # The plugins before a restart. When they reconnect, the pods already run and are not recreated.
        self._expected: frozenset[str] = frozenset()
        self._updates = self._evictions = 0
        #: The running pods, with their containers.
        self._running: list[tuple[Workload, list[WorkloadContainer]]] = []

    def start(self) -> None:
        """Listen, and launch plugins. Raises CommandError if that fails."""
        try:
            self._runtime.start()
        except StartError as error:
            raise CommandError(str(error), ExitCode.UNREACHABLE) from error
        pods = ", ".join(workload.name for workload in self._workloads)
        self.view.message("listening", f"on {self._socket}, with the pods {pods}")

    def close(self) -> None:
        self._runtime.changed = None
        self._runtime.stop()
        self.view.message("ended")

    def serve(self) -> None:
        """Execute commands until the one that ends the runtime."""
        due: float | None = None
        self.view.hint(_HELP.format(self._socket))
        while True:
            try:
                left = None if due is None else max(0.0, due - time.monotonic())
                command = self._commands.get(timeout=left)
            except queue.Empty:
                command = _ROUND
            if command == _CHANGED:
                command = self._note_changes()
            if command == _RESTART:
                self._restart()
            elif command == _ROUND:
                self._round()
                due = None if self._interval is None else time.monotonic() + self._interval
            if command == _END:
                return

    def _note_changes(self) -> str:
        """Print the plugins that have connected and disconnected, and their requests.

        Returns the next command; empty for none.
        """
        plugins = frozenset(self._runtime.plugins)
        new = plugins - self._plugins
        for name in sorted(new):
            pods, containers = len(self._runtime.pods), len(self._runtime.containers)
            self.view.message("connected", f"{name}, received {pods} pods, {containers} containers")
        for name in sorted(self._plugins - plugins):
            self.view.message("disconnected", name)
        new -= self._expected
        self._expected -= plugins
        self._plugins = plugins
        self._unsolicited()
        return _ROUND if new else ""

    def _unsolicited(self) -> None:
        updates = self._runtime.updates[self._updates :]
        evictions = self._runtime.evictions[self._evictions :]
        self._updates += len(updates)
        self._evictions += len(evictions)
        if updates or evictions:
            changed = [self._simulator.update(update) for update in updates]
            evicted = {item.container_id: item.reason for item in evictions}
            self.view.unsolicited(Unsolicited("a plugin", changed, evicted))

    def _restart(self) -> None:
        self.view.message("restarting")
        expected = self._plugins
        self._runtime.stop()
        self._note_changes()
        self._expected = expected
        self.start()

    def _round(self) -> None:
        """Remove the pods, and create them again."""
        for workload, containers in self._running:
            self._print(self._simulator.end(workload, containers))
        self._running = []
        for workload in self._workloads:
            lived = another(workload, self._rounds) if self._rounds else workload
            self.view.pod(lived)
            containers = self._print(self._simulator.begin(lived))
            if containers is not None:
                self._running.append((lived, containers))
        self._rounds += 1
        self._unsolicited()
        self.view.round_ended(self._plugins)

    def _print(self, events: Any) -> Any:
        """Print each event when it happens; returns the return value of the generator ``events``."""
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                return end.value
            self.view.event(event)


def _sends(commands: queue.SimpleQueue[str], command: str) -> Callable[[int, Any], None]:
    return lambda number, frame: commands.put(command)


@contextlib.contextmanager
def _signals(commands: queue.SimpleQueue[str]) -> Iterator[None]:
    """Signals send commands in the block. A signal handler may call SimpleQueue.put()."""
    before = {
        number: signal.signal(number, _sends(commands, command))
        for number, command in _SIGNALS.items()
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _keys(commands: queue.SimpleQueue[str]) -> Iterator[None]:
    """Keys send commands in the block, on a terminal. The thread that reads them ends with the process."""
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
                commands.put(_KEYS[key])

    tty.setcbreak(terminal, termios.TCSADRAIN)
    spawn("nri-keys", read)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
