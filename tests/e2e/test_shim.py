"""The example of a shim: containerd starts it, and calls it over ttRPC; no NRI takes part."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import machine
from tests.e2e.build import IMAGE
from tests.e2e.containerd import Containerd
from tests.e2e.node import Node

__all__: list[str] = []

TIMEOUT = 60.0
WRAPPER = f"""\
#!/bin/sh
PYTHONPATH={machine.SOURCE} exec {sys.executable} -m examples.shim "$@"
"""


class Ctr:
    """The command ctr of containerd, with the shim as its runtime."""

    def __init__(self, node: Node) -> None:
        self.node = node
        # A separate namespace, so that the tests of pods do not see the containers.
        self._command = [str(node.tools.ctr), "-a", str(node.root / "c.sock"), "-n", "shim"]
        self.shim = node.root / "containerd-shim-python-v1"
        self.shim.write_text(WRAPPER)
        self.shim.chmod(0o755)

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """The output of a command; with ``check=False`` also the error of a failed one."""
        done = subprocess.run(
            [*self._command, *arguments],
            capture_output=True, text=True, errors="replace", check=False, timeout=TIMEOUT,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr
        return done.stdout if check else done.stderr

    def run(self, *options: str) -> str:
        """``ctr run`` with these options, image, id, and so on."""
        return self("run", "--runtime", str(self.shim), *options)

    def status(self, id: str) -> tuple[int, str]:
        """PID and status of a task."""
        for line in self("task", "ls").splitlines():
            if line.startswith(f"{id} "):
                return int(line.split()[1]), line.split()[2]
        raise KeyError(id)

    def tasks(self) -> list[str]:
        return self("task", "ls", "--quiet").split()


@pytest.fixture
def ctr(node: Node) -> Iterator[Ctr]:
    if not isinstance(node, Containerd):
        pytest.skip("only containerd has shims of this kind")
    ctr = Ctr(node)
    ctr("images", "import", str(node.tools.image))
    yield ctr
    for id in ctr.tasks():
        ctr("task", "rm", "--force", id)
    for id in ctr("container", "ls", "--quiet").split():
        ctr("container", "rm", id)


@pytest.fixture
def running(ctr: Ctr) -> int:
    """The PID of a container named ``c1``. The directory in its arguments marks it as belonging to the tests."""
    ctr.run("--detach", IMAGE, "c1", "/probe", str(ctr.node.root))
    pid, status = ctr.status("c1")
    assert status == "RUNNING"
    return pid


def has_no_traces(ctr: Ctr) -> bool:
    """Whether the shims, mounts and sockets of the namespace are gone."""
    mine = [trace for trace in machine.traces(ctr.node.root) if "/shim/" in trace]
    shims = [pid for pid in processes() if b"examples.shim" in arguments(pid)]
    return not mine and not shims and not list((ctr.node.root / "s").glob("?" * 32))


def processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def arguments(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_container_runs_in_its_root_file_system_and_its_output_arrives(ctr: Ctr) -> None:
    assert ctr.run("--rm", IMAGE, "c1", "/probe", "cat", "/probe").startswith("\x7fELF")
    assert ctr.tasks() == []
    machine.wait_for(lambda: has_no_traces(ctr))


def test_the_exit_status_arrives(ctr: Ctr) -> None:
    arguments = [
        "run",
        "--rm",
        "--runtime",
        str(ctr.shim),
        IMAGE,
        "c1",
        "/probe",
        "cat",
        "/no-such",
    ]
    assert "/no-such: no such file or directory" in ctr(*arguments, check=False)
    assert ctr.tasks() == []


def test_kill_and_rm(ctr: Ctr, running: int) -> None:
    assert os.readlink(f"/proc/{running}/root").startswith(str(ctr.node.root))
    assert os.readlink(f"/proc/{running}/exe").endswith("/rootfs/probe")
    assert str(running) in ctr("task", "ps", "c1")
    metrics = json.loads(ctr("task", "metrics", "--format", "json", "c1"))
    assert metrics["pids"]["current"] == 1
    assert metrics["memory"]["usage"] > 0
    assert "task must be stopped before deletion" in ctr("task", "rm", "c1", check=False)
    ctr("task", "kill", "--signal", "SIGKILL", "c1")
    machine.wait_for(lambda: ctr.status("c1") == (running, "STOPPED"))
    ctr("task", "rm", "c1")
    ctr("container", "rm", "c1")
    machine.wait_for(lambda: has_no_traces(ctr))


def test_a_program_that_is_not_there_fails_the_start(ctr: Ctr) -> None:
    arguments = ["run", "--rm", "--runtime", str(ctr.shim), IMAGE, "c1", "/no-such"]
    assert "cannot execute '/no-such': No such file or directory" in ctr(*arguments, check=False)
    machine.wait_for(lambda: has_no_traces(ctr))


def test_the_events_arrive(ctr: Ctr) -> None:
    command = [str(ctr.node.tools.ctr), "-a", str(ctr.node.root / "c.sock"), "-n", "shim", "events"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as events:
        assert events.stdout is not None
        lines: queue.Queue[str] = queue.Queue()
        output = events.stdout
        reader = threading.Thread(target=lambda: deque(map(lines.put, output), maxlen=0))
        reader.start()
        # ctr does not report its subscription. Events that arrive show that it exists.
        while lines.empty():
            ctr("images", "tag", "--force", IMAGE, "nri-sync.test/again:1")
        ctr.run("--rm", IMAGE, "c1", "/probe", "cat", "/probe")
        topics: list[str] = []
        while "delete" not in topics:
            found = re.search(r" /tasks/(\S+)", lines.get(timeout=TIMEOUT))
            topics += [found[1]] if found else []
        events.terminate()
        reader.join()
    assert topics == ["create", "start", "exit", "delete"]


def test_a_task_outlives_a_restart_of_containerd(new_node: Node) -> None:
    if not isinstance(new_node, Containerd):
        pytest.skip("only containerd has shims of this kind")
    new_node.start()
    ctr = Ctr(new_node)
    ctr("images", "import", str(new_node.tools.image))
    ctr.run("--detach", IMAGE, "c1", "/probe", str(new_node.root))
    before = ctr.status("c1")
    new_node.kill()
    new_node.start()
    assert ctr.status("c1") == before
    ctr("task", "rm", "--force", "c1")
    ctr("container", "rm", "c1")
    machine.wait_for(lambda: has_no_traces(ctr))


def test_containerd_cleans_up_after_a_shim_that_was_killed(ctr: Ctr, running: int) -> None:
    shims = [pid for pid in processes() if b"examples.shim" in arguments(pid)]
    assert len(shims) == 1
    os.kill(shims[0], signal.SIGKILL)
    machine.wait_for(lambda: not Path(f"/proc/{running}").exists())
    machine.wait_for(lambda: ctr.tasks() == [] and has_no_traces(ctr))
