"""A run of the tests that is interrupted leaves no traces on the machine either."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e import machine
from tests.e2e.build import Tools
from tests.e2e.node import Node

__all__: list[str] = []

# A test with a process, a mount and a network namespace of each kind.
PROGRAM = """
import signal, sys
from tests.e2e.build import build
from tests.e2e.conftest import RUNTIME

# What starts the tests may ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
with RUNTIME(build()) as node:
    node.start()
    node.cri.run_pod(own_network=True).run()
    print(node.root, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted(tools: Tools, how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=machine.SOURCE, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        root = Path(process.stdout.readline().strip())
        assert root.name.startswith(machine.PREFIX)
        Node.made.append(root)
        there = {trace.split()[0] for trace in machine.traces(root)}
        process.send_signal(how)
        _, errors = process.communicate()
    assert there == {"process", "mount", "cgroup", "file"}
    assert process.returncode == -how, errors
    machine.wait_for(lambda: not root.exists())
    assert machine.traces(root) == []
