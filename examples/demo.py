"""A plugin and a runtime talk to each other: ``make demo``. Needs no container runtime, and no root.

The plugin is examples/device_injector/plugin.py, in a process of its own. The runtime is the smallest one
that nri_sync.runtime allows: it starts "containers" that exist in its tables only, and asks the plugin what to
change in them.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import json_format

from nri_sync import api
from nri_sync.runtime import Peer

__all__ = ["Runtime", "main"]

PLUGIN = Path(__file__).with_name("device_injector") / "plugin.py"
TIMEOUT = 10.0


class Runtime:
    """Takes one plugin, and forgets none of its containers when it is restarted."""

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path
        self.pods: list[api.PodSandbox] = []
        self.containers: list[api.Container] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[Peer]:
        """Listen until a plugin has connected, registered, and been told what there is."""
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
            listener.bind(self.socket_path)
            listener.listen()
            listener.settimeout(TIMEOUT)
            peer = Peer(listener.accept()[0])
            Path(self.socket_path).unlink()
        try:
            peer.registered(TIMEOUT)
            identity = api.ConfigureRequest(
                runtime_name="demo", runtime_version="1.0", NRI_version=api.NRI_VERSION
            )
            peer.configure(identity, TIMEOUT)
            say(f"plugin {peer.name} is registered, for the events: {peer.events}")
            peer.synchronize(self.pods, self.containers, TIMEOUT)
            yield peer
        finally:
            peer.close()
            peer.wait_closed(TIMEOUT)

    def create(self, peer: Peer, name: str, annotations: dict[str, str]) -> None:
        """Create a pod with one container, the way that the plugin wants it."""
        pod = api.PodSandbox(id=f"pod-{name}", name=name, annotations=annotations)
        container = api.Container(id=name, pod_sandbox_id=pod.id, name="main")
        request = api.CreateContainerRequest(pod=pod, container=container)
        adjustment = peer.call("CreateContainer", request, TIMEOUT).adjust
        self.pods.append(pod)
        self.containers.append(container)
        say(f"pod {name!r} has the annotations {annotations or 'of nobody'}; the plugin answers:")
        print(json.dumps(json_format.MessageToDict(adjustment), indent=2), flush=True)


def say(text: str) -> None:
    print(f"runtime: {text}", flush=True)


def main() -> int:
    """Run both; returns 0 when all went well."""
    with tempfile.TemporaryDirectory(prefix="nri") as directory:
        runtime = Runtime(f"{directory}/nri.sock")
        command = [sys.executable, str(PLUGIN), runtime.socket_path]
        plugin = subprocess.Popen(command)
        try:
            with runtime.running() as peer:
                runtime.create(peer, "plain", {})
                runtime.create(peer, "writer", {"device.example.com": "/dev/null"})
                say("goes down, as for an upgrade")
            with runtime.running() as peer:
                say(f"is back, with {len(runtime.containers)} containers, and so is the plugin")
                runtime.create(peer, "later", {"device.example.com/container.main": "/dev/zero"})
        finally:
            plugin.terminate()
            plugin.wait(TIMEOUT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
