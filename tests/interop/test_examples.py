"""The examples as separate processes, on the Go runtime side."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nri_sync import api
from nri_sync.api import nri_pb2
from nri_sync.testing import make_pod
from tests.examples.cases import CASES, MORE_OPTIONS, OPTIONS, files, recorded
from tests.interop.conftest import Connect
from tests.interop.gopeer import PeerError
from tests.interop.goruntime import RELEASES, GoRuntime
from tests.interop.plugins import CONTAINER, Recorder
from tests.interop.record import answer

__all__: list[str] = []

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PLUGIN = EXAMPLES / "first_plugin" / "plugin.py"


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
        # When start() returns, the plugin is connected.
        runtime.start(plugin_path=str(directory))
        assert injected(runtime) == ["/dev/null"]


class Running:
    """The example as a process, connected. It must end without an error."""

    def __init__(
        self, example: str, runtime: GoRuntime, *options: str, indices: str = "10"
    ) -> None:
        runtime.start()
        self._log = runtime.socket_path.with_name("log")
        socket = ["--socket", str(runtime.socket_path)]
        command = [sys.executable, str(EXAMPLES / example / "plugin.py"), *socket, *options]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, stderr=log)
        for idx in indices.split(","):
            runtime.wait_connected(f"{idx}-{example.replace('_', '-')}")

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        assert self._process.wait() == 0, self.log

    @property
    def log(self) -> str:
        return self._log.read_text()


@pytest.mark.parametrize("example", CASES)
def test_the_answers_of_the_plugins_in_go(
    example: str, runtime: GoRuntime, socket_dir: Path
) -> None:
    files(socket_dir)
    files_of = {name: str(socket_dir / name) for name in ("HOOKS", "MOUNTINFO")}
    files_of[f"{example}.json"] = str(socket_dir / f"{example}.json")
    given = [*OPTIONS.get(example, ()), *MORE_OPTIONS.get(example, ())]
    options = [files_of.get(option, option) for option in given]
    expected = recorded(example)
    with Running(example, runtime, *options):
        for name, case in CASES[example].items():
            found = answer(runtime, case)
            if "error" in expected[name]:
                # Our error has another text.
                assert "error" in found, f"{name}: {found}"
            else:
                assert found == expected[name], name


POD = make_pod("web", namespace="shop", namespaces=[])


class TestWithoutAdjustments:
    """Examples whose answers are not adjustments."""

    def test_network_logger(self, runtime: GoRuntime) -> None:
        with Running("network_logger", runtime) as plugin:
            runtime.request("RunPodSandbox", pod=POD)
            assert "Started pod shop/web: namespace=<host-network> ips=[10.88.0.2]" in plugin.log

    def test_network_device_injector(self, runtime: GoRuntime, socket_dir: Path) -> None:
        config = socket_dir / "config.json"
        config.write_text('{"devices": ["eth*"]}')
        with Running("network_device_injector", runtime, "--config", str(config)):
            runtime.request("RunPodSandbox", pod=POD)
            pod = make_pod(
                annotations={"netdevices.noderesource.dev": "[{name: eth7}]"}, namespaces=[]
            )
            with pytest.raises(PeerError, match="network device on host network Pod"):
                runtime.request("RunPodSandbox", pod=pod)

    def test_differ(self, runtime: GoRuntime, connect: Connect) -> None:
        with Running("differ", runtime, "--indices", "5,20", indices="05,20") as plugin:
            adjustment = api.Adjustment().add_annotation("greeting", "hello")
            connect(Recorder(create_container=adjustment))
            runtime.request("CreateContainer", pod=POD, container=CONTAINER)
            changed = "container: create: [annotations]: From: None -> To: {'greeting': 'hello'}"
            assert f"[20] CreateContainer: {changed}" in plugin.log

    def test_default_validator(
        self, runtime: GoRuntime, connect: Connect, socket_dir: Path
    ) -> None:
        config = socket_dir / "config.yaml"
        config.write_text("rejectOCIHookAdjustment: true")
        options = ["--config", str(config), "--idx", "10"]
        with Running("default_validator", runtime, *options):
            runtime.request("CreateContainer", pod=POD, container=CONTAINER)
            hook = api.Adjustment().add_hook("poststop", "/bin/true")
            connect(Recorder(create_container=hook))
            with pytest.raises(PeerError, match="attempted restricted OCI hook injection"):
                runtime.request("CreateContainer", pod=POD, container=CONTAINER)

    def test_v010_adapter(self, runtime: GoRuntime, socket_dir: Path) -> None:
        program, config = socket_dir / "no-room", socket_dir / "conf.json"
        program.write_text('#!/bin/sh\necho \'{"error": "no room"}\'\n')
        program.chmod(0o755)
        options = ["--conf", str(config), "--bin-dir", str(socket_dir)]
        with Running("v010_adapter", runtime, *options):
            runtime.request("RunPodSandbox", pod=POD)
            config.write_text('{"version": "0.1", "plugins": [{"type": "no-room"}]}')
            with pytest.raises(PeerError, match="plugin: no-room: no room"):
                runtime.request("RunPodSandbox", pod=POD)
