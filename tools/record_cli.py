"""Runs the commands in docs/cli.md, and writes their output into the page; ``--check`` only compares.

A block that opens with ```` ```console recorded ```` has a command on each line that begins with ``$``; the lines
after it are its output. All commands run in order, in one directory, next to a runtime whose socket replaces
``/var/run/nri`` of the page. ``/host`` stands for the files of a node, ``/mnt/other`` for those of a node with NRI
disabled. While ``nri-sync trace`` or ``nri-sync events`` runs, the script starts a plugin, creates a pod and
removes it; then it interrupts the command. Times, process ids and sizes differ from run to run, and are not
compared.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nri_sync import Stub
from nri_sync.cli.loading import load_program
from nri_sync.testing import FakeRuntime, make_container, make_pod

__all__ = ["lasting", "main", "record", "same"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
BLOCK = re.compile(r"^(```console recorded\n)(.*?)(^```$)", re.MULTILINE | re.DOTALL)
SOCKETS = "/var/run/nri"
# Directories for the files of a node, and the value of NRI's setting "disable" there.
NODES = {"/host": "false", "/mnt/other": "true"}
# Commands that run until they are interrupted, and the output after which the script interrupts them.
UNTIL_INTERRUPTED = {
    "nri-sync trace": " closed ",
    "nri-sync events": "RemovePodSandbox",
    "nri-sync run": "configured, subscribed",
}
WITHIN = 20.0
# The parts of an output that differ from run to run.
VARIABLE = [
    (re.compile(r"(\d{4}-\d\d-\d\dT)?\d\d:\d\d:\d\d\.\d{3}Z?"), "TIME"),
    (re.compile(r" *\b\d+(\.\d+)? (ms|s)\b"), " SECONDS"),
    (re.compile(r" *\b\d+ k?B\b"), " SIZE"),
    (re.compile(r"\S+, pid \d+, user \d+, \S+"), "PROCESS"),
    (re.compile(r"\bpid \d+"), "PID"),
    (re.compile(r"\b[0-9a-f]{6}-\d+\b"), "OPERATION"),
]


class Scene:
    """The environment in which the commands run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "w"
        self._sockets = directory / "s"
        self._directory.mkdir()
        self._sockets.mkdir()
        shutil.copy(PAGE.parents[1] / "nri_sync/cli/samples/pod.yaml", self._directory)
        self._shown = {SOCKETS: str(self._sockets)}
        for number, (node, disabled) in enumerate(NODES.items()):
            root = directory / f"n{number}"
            self._shown[node] = str(root)
            (root / "etc/containerd").mkdir(parents=True)
            (root / "etc/containerd/config.toml").write_text(
                f"version = 3\n[plugins.'io.containerd.nri.v1.nri']\n  disable = {disabled}\n"
            )
        programs = directory / "b"
        programs.mkdir()
        program = programs / "nri-sync"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m nri_sync "$@"\n')
        program.chmod(0o755)
        self._environment = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": str(PAGE.parents[1]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "COLUMNS": "100",
        }
        self.runtime = FakeRuntime(
            registration_timeout=5.0,
            request_timeout=2.0,
            socket_path=str(self._sockets / "nri.sock"),
        )

    def run(self, command: str) -> str:
        """Run a command; returns its output in the form of the page."""
        here = command
        for shown, path in self._shown.items():
            here = here.replace(shown, path)
        with subprocess.Popen(
            here, shell=True, cwd=self._directory, env=self._environment, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            output = ""
            for begin, last in UNTIL_INTERRUPTED.items():
                if command.startswith(begin):
                    self._something_happens(command)
                    while last not in output:
                        line = process.stdout.readline()
                        assert line, output
                        output += line
                    os.killpg(process.pid, signal.SIGINT)
            output += process.stdout.read()
            process.wait(WITHIN)
        code = process.returncode
        for shown, path in self._shown.items():
            output = output.replace(path, shown)
        output = output.replace(os.path.realpath(sys.executable), "/usr/bin/python3")
        output = output.replace(f"{PAGE.parents[1]}/", "")
        lines = [line.rstrip() for line in output.splitlines()]
        if code > 0 and code != 128 + signal.SIGINT:
            lines.append(f"exit code {code}")
        return "".join(f"{line}\n" for line in lines)

    def _something_happens(self, command: str) -> None:
        if command.startswith("nri-sync trace"):
            path = self._sockets / "trace.sock"
            _wait(path.exists)
            program = load_program(str(self._directory / "pod-name" / "pod_name.py"))
            with Stub(program.plugin, name="pod-name", idx="10", socket_path=str(path)):
                self._a_pod("10-pod-name")
            _wait(lambda: not self.runtime.plugins)
        elif command.startswith("nri-sync events"):
            self._a_pod("99-events")

    def _a_pod(self, plugin: str) -> None:
        runtime = self.runtime
        runtime.wait_for(lambda: plugin in runtime.plugins)
        pod = make_pod("web")
        container = make_container(pod, name="nginx")
        runtime.run_pod(pod)
        runtime.create_container(pod, container)
        runtime.start_container(container)
        runtime.remove_pod(pod)


def _wait(condition: Any) -> None:
    give_up = time.monotonic() + WITHIN
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError("the command does not get to where it should")
        time.sleep(0.02)


@contextlib.contextmanager
def _scene() -> Iterator[Scene]:
    # The path is short enough for sockets.
    directory = Path(tempfile.mkdtemp(prefix="nri", dir="/tmp"))
    try:
        scene = Scene(directory)
        with scene.runtime:
            yield scene
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def record(page: str) -> str:
    """The page with the current outputs of its commands."""
    with _scene() as scene:

        def block(match: re.Match[str]) -> str:
            commands = re.findall(r"^\$ (.*)$", match[2], re.MULTILINE)
            shown = "".join(f"$ {command}\n{scene.run(command)}" for command in commands)
            return f"{match[1]}{shown}{match[3]}"

        return BLOCK.sub(block, page)


def same(one: str, other: str) -> list[str]:
    """The lines in which two pages differ, except for times and the like."""
    lines = difflib.unified_diff(
        lasting(one), lasting(other), "in the page", "now", lineterm="", n=0
    )
    return list(lines)


def lasting(text: str) -> list[str]:
    """The lines of an output without the parts that differ from run to run."""
    for pattern, name in VARIABLE:
        text = pattern.sub(name, text)
    return [" ".join(line.split()) for line in text.splitlines()]


def main(argv: list[str] | None = None) -> int:
    """Write the page; with ``--check``, return 1 if it is not current."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args(argv)
    page = PAGE.read_text(encoding="utf-8")
    recorded = record(page)
    different = same(page, recorded)
    if arguments.check:
        print("\n".join(different))
        return 1 if different else 0
    if different:
        PAGE.write_text(recorded, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
