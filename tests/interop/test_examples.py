"""The example of README, as a process of its own, with the reference runtime side."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nri_sync.api import nri_pb2
from tests.interop.goruntime import RELEASES, GoRuntime
from tests.interop.plugins import CONTAINER

__all__: list[str] = []

PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "first_plugin" / "plugin.py"


def injected(runtime: GoRuntime) -> list[str]:
    pod = nri_pb2.PodSandbox(id="pod0", annotations={"device.example.com": "/dev/null"})
    reply = runtime.request("CreateContainer", pod=pod, container=CONTAINER)
    return [device.path for device in reply.adjust.linux.devices]


@pytest.mark.parametrize("release", RELEASES, ids=str)
class TestDeviceInjector:
    def test_over_the_socket_and_through_a_restart(
        self, runtime: GoRuntime, socket_path: Path
    ) -> None:
        runtime.start()
        plugin = subprocess.Popen([sys.executable, str(PLUGIN), str(socket_path)])
        try:
            for _ in range(2):
                runtime.wait_connected("10-device-injector")
                assert injected(runtime) == ["/dev/null"]
                runtime.call("restart")
        finally:
            plugin.terminate()
            plugin.wait()

    def test_launched_by_the_runtime(self, runtime: GoRuntime, socket_dir: Path) -> None:
        directory = socket_dir / "plugins"
        directory.mkdir()
        executable = directory / "10-device-injector"
        executable.write_text(f"#!{sys.executable}\n{PLUGIN.read_text()}")
        executable.chmod(0o755)
        # It is up when the reference has started.
        runtime.start(plugin_path=str(directory))
        assert injected(runtime) == ["/dev/null"]
