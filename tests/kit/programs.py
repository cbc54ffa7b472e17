"""Plugins in separate processes, on a runtime in this process."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nri_sync.runtime import Runtime
from tests.runtime.rig import LONG, Host, host_options

__all__ = ["PLUGIN", "ROOT", "Program", "program", "serving"]

ROOT = Path(__file__).resolve().parents[2]

#: A plugin whose configuration sets its behaviour.
PLUGIN = '''
import sys, threading, time
from dataclasses import dataclass, field
from nri_sync import api, kit

def say(*words):
    # In one piece: several threads print.
    print(" ".join(map(str, words)) + "\\n", end="", flush=True)

@dataclass
class Device:
    path: str

@dataclass
class Config:
    value: str = "default"
    devices: list[Device] = field(default_factory=list)

class Plugin:
    """Does what it is configured to."""

    def on_config(self, config):
        if config.value == "refused":
            raise ValueError("value: not today")
        if config.value == "bug":
            raise KeyError("bug")
        say("config", config.value)

    def on_connected(self, stub):
        say("connected", stub.name)

    def on_disconnected(self, stub, reason):
        say("disconnected", type(reason).__name__)

    def on_stop(self):
        say("stopped")

    def create_container(self, pod, container):
        if container.name == "slow":
            say("busy")
            time.sleep(0.5)
        if container.name == "stuck":
            say("stuck")
            time.sleep(60)
        if container.name == "stop":
            self.stub.stop()
        return api.Adjustment().add_annotation("value", self.config.value)
'''
MAIN = 'kit.main(Plugin, config=Config, name="test", idx=10)'


class Program:
    """A process, and its output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid
        #: All lines so far, of both streams.
        self.lines: list[str] = []
        self._new: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._new.put(line.rstrip("\n"))
        self._new.put(None)

    def expect(self, text: str) -> str:
        """Wait for a line with ``text`` that no earlier call has returned."""
        give_up = time.monotonic() + LONG
        while True:
            try:
                line = self._new.get(timeout=max(0.0, give_up - time.monotonic()))
            except queue.Empty:
                line = None
            assert line is not None, f"{text!r} has not come, but:\n{self.output}"
            self.lines.append(line)
            if text in line:
                return line

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end of the process; returns its exit code."""
        code = self.process.wait(LONG)
        self._reader.join(LONG)
        with contextlib.suppress(queue.Empty):
            while True:
                line = self._new.get_nowait()
                self.lines += [] if line is None else [line]
        return code

    @property
    def output(self) -> str:
        return "\n".join(self.lines)


@contextlib.contextmanager
def program(
    directory: Path,
    *arguments: str,
    source: str = PLUGIN,
    main: str = MAIN,
    environ: dict[str, str] | None = None,
) -> Iterator[Program]:
    """Run a plugin against the socket in ``directory``; kills it at the end if necessary."""
    script = directory / "plugin.py"
    script.write_text(textwrap.dedent(source) + "\n" + main + "\n")
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("NRI_", "NOTIFY_", "WATCHDOG_"))
    }
    variables.update({"PYTHONPATH": str(ROOT), "NRI_SYNC_SOCKET": str(directory / "nri.sock")})
    variables.update(environ or {})
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=variables, cwd=directory, text=True,
        start_new_session=True,
    )  # fmt: skip
    running = Program(process)
    try:
        yield running
    finally:
        # Also its children, which may hold the other end of its output.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        running.wait()
        assert process.stdout is not None
        process.stdout.close()


@contextlib.contextmanager
def serving(directory: Path, **options: Any) -> Iterator[Runtime]:
    """A runtime that listens in ``directory``."""
    with Runtime("test", "v1", **host_options(Host(), directory, **options)) as runtime:
        yield runtime
