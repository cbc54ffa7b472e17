"""Runs a plugin and a runtime that talk to each other: ``make demo``. Needs no container runtime, and no root.

The plugin is examples/first_plugin/plugin.py, in its own process. The runtime is nri_sync.runtime.Runtime. Its
pods and containers are only messages.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nri_sync import api
from nri_sync.errors import RequestFailed
from nri_sync.runtime import Runtime
from nri_sync.runtime.oci import adjust_spec

__all__ = ["Node", "main"]

PLUGIN = Path(__file__).with_name("first_plugin") / "plugin.py"
TIMEOUT = 10.0
END = """
The plugin gave two containers a device, refused one a disk, and came back after the restart of the runtime.
Next: change examples/first_plugin/plugin.py, and run this again. Or run a plugin on a runtime that stays, in two
terminals:
  .venv/bin/nri-sync runtime --socket /tmp/nri.sock -f nri_sync/cli/samples/pod.yaml
  .venv/bin/nri-sync run nri_sync/cli/samples/plugin.py --socket /tmp/nri.sock"""
# A container of the OCI runtime specification without any settings.
BARE: dict[str, Any] = {"process": {"args": ["sh"]}, "linux": {}}


class Node:
    """A node of a cluster. It remembers its pods across restarts of the runtime."""

    def __init__(self, socket_path: str) -> None:
        self.pods: list[api.PodSandbox] = []
        self.containers: list[api.Container] = []
        self.runtime = Runtime(
            "demo", "1.0", synchronize=self.synchronize, update_containers=self.update,
            socket_path=socket_path, plugin_path=None,
        )  # fmt: skip

    def synchronize(self, send: Any) -> None:
        say(f"sending the list of {len(self.containers)} containers to the plugin")
        send(self.pods, self.containers)

    def update(
        self, updates: Sequence[api.ContainerUpdate], evictions: Sequence[api.ContainerEviction]
    ) -> list[api.ContainerUpdate]:
        return []

    def create(self, name: str, annotations: dict[str, str]) -> None:
        """Create a pod with one container, with the changes of the plugins."""
        pod = api.PodSandbox(id=f"pod-{name}", name=name, annotations=annotations)
        container = api.Container(id=name, pod_sandbox_id=pod.id, name="main")
        say(f"creating pod {name!r} with the annotations {annotations}")
        try:
            answer = self.runtime.create_container(pod, container)
        except RequestFailed as error:
            say(f"refused: {error}")
            return
        print(json.dumps(adjust_spec(BARE, answer.adjust), indent=2), flush=True)
        self.pods.append(pod)
        self.containers.append(container)


def say(text: str) -> None:
    print(f"runtime: {text}", flush=True)


def main() -> int:
    """Run both. Returns 0 on success."""
    with tempfile.TemporaryDirectory(prefix="nri") as directory:
        socket_path = f"{directory}/nri.sock"
        node = Node(socket_path)
        plugin = subprocess.Popen([sys.executable, str(PLUGIN), socket_path])
        try:
            with node.runtime:
                if not node.runtime.wait_for_plugins(bool, TIMEOUT):
                    return 1
                node.create("plain", {})
                node.create("writer", {"device.example.com": "/dev/null"})
                node.create("thief", {"device.example.com": "/dev/sda"})
                say("going down, as for an upgrade")
            say("coming back")
            with node.runtime:
                if not node.runtime.wait_for_plugins(bool, TIMEOUT):
                    return 1
                node.create("later", {"device.example.com/container.main": "/dev/zero"})
        finally:
            plugin.terminate()
            plugin.wait(TIMEOUT)
    print(END, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
