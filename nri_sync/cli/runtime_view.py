"""Prints the events of ``nri-sync runtime``, its messages, and the log of the plugins that it has launched."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from nri_sync.cli.console import Console, Text, console, print_each
from nri_sync.cli.simulation_view import View
from nri_sync.testing.manifests import Workload
from nri_sync.testing.simulation import Event, Simulation, Unsolicited
from nri_sync.testing.simulation.report import plain

__all__ = ["RuntimeView", "log_shown"]

# The logger for the output of launched plugins.
_LAUNCHED = "nri_sync.runtime.plugin"


class RuntimeView:
    """Prints the runtime's messages and events: lines for people, or a document for each."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._format = arguments.output
        self._out: Console | None = console(arguments) if self._format == "table" else None
        self._view = View(Simulation(), self._out, arguments.all) if self._out else None
        self._calls = 0

    def message(self, name: str, note: str = "") -> None:
        """Print a message about the runtime itself."""
        if self._out is None:
            self._document({"event": name, "note": note})
            return
        clock = datetime.now().strftime("%H:%M:%S")
        self._out.print(Text(f"{clock}  ", "dim"), Text(f"{name} {note}".rstrip(), "bold"), sep="")
        sys.stdout.flush()

    def hint(self, text: str) -> None:
        """Print a hint for people; programs do not get it."""
        if self._out is not None:
            for line in text.splitlines():
                self._out.print(Text(line, "dim"))
            sys.stdout.flush()

    def pod(self, workload: Workload) -> None:
        """Begin the output of a pod."""
        self._calls = 0
        if self._out is not None:
            self._out.print(Text("Pod ", "bold").append(workload.name, "bold"))

    def event(self, event: Event) -> None:
        """Print an event and its calls."""
        self._calls += len(event.calls)
        if self._view is None:
            self._document(plain(event))
            return
        self._view.event(event)
        sys.stdout.flush()

    def unsolicited(self, request: Unsolicited) -> None:
        """Print a request that a plugin has made on its own initiative."""
        if self._view is None:
            self._document({"event": "UpdateContainers", **plain(request)})
        else:
            self._view.unsolicited([request])
            sys.stdout.flush()

    def round_ended(self, plugins: frozenset[str]) -> None:
        """Explain to people why no plugin has received an event of the pods, if that is so."""
        if self._out is None or self._calls:
            return
        reason = "has subscribed to any of these events" if plugins else "is connected"
        self._out.print(Text(f"  no plugin {reason}", "dim"))
        sys.stdout.flush()

    def _document(self, values: dict[str, Any]) -> None:
        now = datetime.now().astimezone().isoformat(timespec="milliseconds")
        print_each({"time": now, **values}, self._format)


class _LogHandler(logging.Handler):
    """Prints the warnings of the runtime, and the output of the plugins that it has launched."""

    def __init__(self, view: RuntimeView) -> None:
        super().__init__()
        self._view = view

    def emit(self, record: logging.LogRecord) -> None:
        self._view.message("log", record.getMessage())


@contextlib.contextmanager
def log_shown(view: RuntimeView) -> Iterator[None]:
    """The view prints the log of the runtime and of the launched plugins in the block."""
    handler = _LogHandler(view)
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
