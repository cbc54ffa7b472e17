"""``nri-sync doctor``: reasons why a plugin receives no events."""

from __future__ import annotations

import argparse
import socket
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nri_sync
from nri_sync import api
from nri_sync.api import Container, PodSandbox
from nri_sync.api.handlers import HANDLERS, Handler
from nri_sync.api.runtimes import MEASURED
from nri_sync.api.services import PLUGIN
from nri_sync.cli.console import Console, Text, add_output_options, console, print_whole
from nri_sync.cli.errors import CommandError, ExitCode
from nri_sync.cli.node_checks import (
    Finding,
    Level,
    check_launched,
    check_socket,
    describe_listener,
    refused,
)
from nri_sync.cli.node_config import check_configuration
from nri_sync.deadline import Deadline
from nri_sync.errors import NRIError, StartError
from nri_sync.kit.config.durations import parse_duration
from nri_sync.net.sockets import connect, peer_credentials
from nri_sync.text import printable
from nri_sync.threads import Latch

__all__ = ["configure", "run"]

_MARKS = {
    Level.OK: ("\N{CHECK MARK}", "+", "green"),
    Level.INFO: ("\N{MIDDLE DOT}", "-", "dim"),
    Level.WARNING: ("!", "!", "yellow"),
    Level.PROBLEM: ("\N{BALLOT X}", "x", "bold red"),
}
# As wide as a mark and the name of a check.
_INDENT = " " * 16
# All runtimes know this event, few send it, and only another update waits for its handlers.
_LEAST = "post_update_container"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--socket", metavar="PATH", default=api.DEFAULT_SOCKET_PATH,
        help="socket of the runtime (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--name", default="doctor", help="name to register with (default: %(default)s)"
    )
    parser.add_argument(
        "--idx", default="99", metavar="NN", help="index to register with (default: %(default)s)"
    )
    parser.add_argument(
        "--root", metavar="DIRECTORY", type=Path, default=Path("/"),
        help="root of the node's file system, for example a mount in a container (default: /)",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=_seconds, default="10s", metavar="DURATION",
        help="time limit for the registration, and for the synchronization (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--wait", type=_seconds, default="0s", metavar="DURATION",
        help="wait for an event, too; create a pod meanwhile (default: do not wait)",
    )  # fmt: skip
    add_output_options(parser)


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(arguments: argparse.Namespace) -> int:
    """Blocks until all checks are done."""
    try:
        api.check_name(arguments.name)
        api.check_index(arguments.idx)
    except ValueError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    findings = []
    out = console(arguments) if arguments.output == "table" else None
    for finding in _findings(arguments):
        findings.append(finding)
        if out is not None:
            _show(out, finding)
    problems = sum(finding.level is Level.PROBLEM for finding in findings)
    if out is None:
        print_whole([_as_json(finding) for finding in findings], arguments.output)
    else:
        _conclude(out, problems)
    return ExitCode.FOUND if problems else ExitCode.OK


def _findings(arguments: argparse.Namespace) -> Iterator[Finding]:
    path = arguments.socket
    found = check_socket(path)
    yield found
    sock = None
    if found.level is not Level.PROBLEM:
        began = time.monotonic()
        try:
            sock = connect(path, Deadline(arguments.timeout))
        except OSError as error:
            yield refused(path, error)
        else:
            listener = describe_listener(peer_credentials(sock))
            listener.seconds = time.monotonic() - began
            yield listener
    yield from check_configuration(arguments.root, path)
    yield from check_launched(arguments.root, arguments.name, arguments.idx)
    if sock is not None:
        yield from _Attempt(arguments, sock).findings()


class _Probe:
    """A plugin that subscribes to one event (a plugin without handlers gets all), and answers nothing."""

    def __init__(self) -> None:
        self.configured_at = 0.0
        #: Set when the plugin is synchronized or disconnected.
        self.settled = Latch()
        self.synchronized_at: float | None = None
        self.pods = self.containers = 0
        self.happened = Latch()
        self.event = ""

    def configure(self, config: str, runtime: str, version: str) -> None:
        self.configured_at = time.monotonic()

    def synchronize(self, pods: Sequence[PodSandbox], containers: Sequence[Container]) -> None:
        self.pods, self.containers = len(pods), len(containers)
        self.synchronized_at = time.monotonic()
        self.settled.set()


def _watch(plugin: Any, handler: Handler) -> None:
    def handle(*_arguments: Any) -> None:
        plugin.event = plugin.event or handler.rpc
        plugin.happened.set()

    setattr(plugin, handler.name, handle)


class _Attempt:
    """Registers the probe step by step, and disconnects it."""

    def __init__(self, arguments: argparse.Namespace, sock: socket.socket) -> None:
        self._timeout = arguments.timeout
        self._wait = arguments.wait
        self._probe = _Probe()
        for handler in HANDLERS:
            is_event = handler.event and handler.name != "validate_container_adjustment"
            if handler.name == _LEAST or (self._wait and is_event):
                _watch(self._probe, handler)
        self._stub = nri_sync.Stub(
            self._probe,
            name=arguments.name,
            idx=arguments.idx,
            connection=sock,
            registration_timeout=self._timeout,
            on_close=lambda stub: self._probe.settled.set(),
        )

    def findings(self) -> Iterator[Finding]:
        began = time.monotonic()
        try:
            self._stub.start()
        except NRIError as error:
            yield self._failed(error)
            return
        try:
            yield from self._started(began)
        finally:
            self._stub.stop()

    def _failed(self, error: NRIError) -> Finding:
        phase = error.phase if isinstance(error, StartError) else "register"
        cause = error.__cause__
        text = str(error).partition(": ")[2] or str(error)
        if cause is not None and str(cause) not in text:
            text += f" ({cause})"
        if isinstance(error, TimeoutError):
            advice = (
                "the runtime accepts connections, and does not answer: does this socket belong to NRI, and is "
                "the runtime healthy? See its log"
            )
        elif phase == "register":
            advice = (
                "the log of the runtime has the reason if this text has none. Another service, such as "
                "containerd.sock, rejects the registration, too"
            )
        else:
            advice = "the runtime has closed the connection: see its log"
        return Finding(Level.PROBLEM, phase, text, advice)

    def _started(self, began: float) -> Iterator[Finding]:
        stub, probe = self._stub, self._probe
        yield Finding(
            Level.OK, "register", f"accepted as {stub.name}", seconds=probe.configured_at - began
        )
        version = stub.runtime_nri_version
        yield Finding(
            Level.OK, "configure",
            f"{stub.runtime_name} {stub.runtime_version}, NRI {version}",
        )  # fmt: skip
        yield Finding(
            Level.INFO, "timeouts",
            f"{stub.registration_timeout:g} s to register, {stub.request_timeout:g} s to answer a request",
            "the runtime disconnects a plugin that answers later",
        )  # fmt: skip
        release = None if version == "unknown" else version
        facts = api.runtime_facts(stub.runtime_name, stub.runtime_version, release)
        yield _known_events(facts)
        yield _known_fields(facts)
        yield from _effectless(facts)
        yield self._synchronized()
        if probe.synchronized_at is not None and self._wait:
            yield self._first_event()

    def _synchronized(self) -> Finding:
        probe, stub = self._probe, self._stub
        settled = probe.settled.wait(Deadline(self._timeout))
        if probe.synchronized_at is not None:
            seconds = probe.synchronized_at - probe.configured_at
            text = f"received {probe.pods} pods and {probe.containers} containers"
            if seconds <= stub.request_timeout / 2:
                return Finding(Level.OK, "synchronize", text, seconds=seconds)
            return Finding(
                Level.WARNING, "synchronize", text,
                "slow: the runtime waits for other plugins, or for pods that are being created",
                seconds,
            )  # fmt: skip
        if settled:
            return Finding(
                Level.PROBLEM, "synchronize", str(stub.close_reason),
                "the runtime has closed the connection: see its log",
            )  # fmt: skip
        return Finding(
            Level.PROBLEM, "synchronize", f"not within {self._timeout:g} s",
            "no events come before it: other plugins, or pods that are being created, delay the runtime",
        )  # fmt: skip

    def _first_event(self) -> Finding:
        began = time.monotonic()
        if self._probe.happened.wait(Deadline(self._wait)):
            return Finding(
                Level.OK, "event", f"{self._probe.event} received", seconds=time.monotonic() - began
            )
        return Finding(
            Level.WARNING, "event", f"none within {self._wait:g} s",
            "has this runtime created, started or stopped a pod or container meanwhile? NRI does not report "
            "containers that ctr has created, or that belong to another runtime",
        )  # fmt: skip


def _known_events(facts: api.RuntimeFacts) -> Finding:
    unknown = facts.missing_events
    if facts.nri_version is None:
        return Finding(Level.INFO, "events", "the NRI release of the runtime is unknown")
    if not unknown:
        return Finding(
            Level.OK, "events", f"the runtime knows all {len(facts.events.numbers)} events"
        )
    return Finding(
        Level.INFO, "events", f"the runtime does not know {str(unknown).replace(',', ', ')}",
        "only newer runtimes send these events; plugins of nri_sync do not subscribe to them here",
    )  # fmt: skip


def _known_fields(facts: api.RuntimeFacts) -> Finding:
    """The fields that plugins may set, and that this runtime ignores because it does not know them."""
    if facts.nri_version is None:
        return Finding(Level.INFO, "fields", "the NRI release of the runtime is unknown")
    answers = [
        PLUGIN.methods[rpc].response.DESCRIPTOR
        for rpc in ("CreateContainer", "UpdateContainer", "Configure")
    ]
    unknown = dict.fromkeys(path for answer in answers for path in facts.all_unknown(answer))
    if not unknown:
        return Finding(Level.OK, "fields", "the runtime knows all fields that a plugin may set")
    return Finding(
        Level.INFO, "fields",
        f"the runtime ignores these fields, without an error: {', '.join(unknown)}",
        "a stub of nri_sync warns of each such field that its plugin sets, and counts it in "
        "counters.ignored_fields",
    )  # fmt: skip


def _effectless(facts: api.RuntimeFacts) -> Iterator[Finding]:
    """The fields that this runtime knows, and that have no effect."""
    found = dict.fromkeys(path for entry in facts.effectless() for path in entry.paths)
    if found:
        yield Finding(
            Level.INFO, "effects",
            f"the runtime accepts these fields, and they have no effect: {', '.join(found)}",
            f"measured with {facts.name} {MEASURED[facts.name]}; docs/api.md of nri_sync names the messages "
            "that have these fields",
        )  # fmt: skip


def _as_json(finding: Finding) -> dict[str, Any]:
    values: dict[str, Any] = {
        "check": finding.check,
        "level": finding.level.value,
        "text": finding.text,
    }
    if finding.advice:
        values["advice"] = finding.advice
    if finding.seconds is not None:
        values["seconds"] = round(finding.seconds, 6)
    return values


def _show(out: Console, finding: Finding) -> None:
    mark, plain, style = _MARKS[finding.level]
    seconds = "" if finding.seconds is None else f"  {finding.seconds * 1000:.1f} ms"
    first, *rest = _folded(out, finding.text + seconds)
    line = Text().append(plain if out.options.ascii_only else mark, style=style)
    line.append(f" {finding.check:<13} ", style="bold")
    out.print(
        line.append(first, style=style if finding.level is Level.PROBLEM else ""), soft_wrap=True
    )
    for text in rest:
        out.print(Text(_INDENT + text), soft_wrap=True)
    for text in _folded(out, finding.advice):
        out.print(Text(_INDENT + text, style="dim"), soft_wrap=True)


def _folded(out: Console, text: str) -> list[str]:
    return textwrap.wrap(
        printable(text),
        max(30, out.width - len(_INDENT)),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _conclude(out: Console, problems: int) -> None:
    if problems:
        count = "1 problem" if problems == 1 else f"{problems} problems"
        out.print()
        out.print(Text(f"{count}; the first is probably the cause of the others", style="red"))
    else:
        out.print()
        out.print(Text("A plugin receives events here", style="green"))
