"""Plugins that the runtime launches from its plugin directory, with configuration files."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.inside import Inside
from tests.e2e.node import Node
from tests.interop.plugins import PROMPTLY

__all__: list[str] = []

feature = pytest.mark.feature

# The first line finds the virtual environment by the absolute path of its interpreter.
PLUGIN = f"""#!{sys.executable}
import json, os, sys

environment = dict(os.environ)

import nri_sync
from nri_sync import api


class Launched:
    def configure(self, config, runtime, version):
        options = json.loads(config)
        self.greeting = options["greeting"]
        told = {{"env": environment, "pid": os.getpid(), "python": sys.prefix, "cwd": os.getcwd()}}
        with open(options["report"], "w") as file:
            json.dump(told, file)

    def create_container(self, pod, container):
        return api.Adjustment().add_env("GREETING", self.greeting)


nri_sync.Stub(Launched()).run()
"""


@pytest.fixture
def node(new_node: Node) -> Node:
    """A runtime with a plugin to launch, not started."""
    program = new_node.root / "my-plugin"
    program.write_text(PLUGIN)
    program.chmod(0o755)
    (new_node.plugin_path / "20-launched").symlink_to(program)
    configuration = {"greeting": "hello", "report": str(new_node.root / "report")}
    (new_node.config_path / "20-launched.conf").write_text(json.dumps(configuration))
    return new_node


def report(node: Node) -> Any:
    return json.loads((node.root / "report").read_text())


def wait_gone(pid: int) -> None:
    give_up = time.monotonic() + PROMPTLY
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < give_up, f"process {pid} is still there"
        time.sleep(0.02)


@feature("Launched by the runtime, with a configuration file")
def test_launched(node: Node) -> None:
    node.start()
    assert Inside(node.cri.run_pod().run()).env["GREETING"] == "hello"
    told = report(node)
    assert told["python"] == sys.prefix
    # The environment has no other variables; Python itself may add LC_CTYPE.
    told["env"].pop("LC_CTYPE", None)
    assert told["env"] == {
        "NRI_PLUGIN_NAME": "launched",
        "NRI_PLUGIN_IDX": "20",
        "NRI_PLUGIN_SOCKET": "3",
    }


@feature("Launched by the runtime: ends with it, and is launched again")
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_restart(node: Node, how: str) -> None:
    node.start()
    first = report(node)["pid"]
    getattr(node, how)()
    wait_gone(first)
    node.start()
    second = report(node)["pid"]
    assert second != first
    os.kill(second, 0)
    assert Inside(node.cri.run_pod().run()).env["GREETING"] == "hello"
