"""The examples, as processes of their own, with the reference runtime side."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nri_sync import api
from nri_sync.api import nri_pb2
from tests.examples.cases import CASES, OPTIONS, files, recorded
from tests.interop.goruntime import RELEASES, GoRuntime
from tests.interop.plugins import CONTAINER
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
        # It is up when the reference has started.
        runtime.start(plugin_path=str(directory))
        assert injected(runtime) == ["/dev/null"]


@contextlib.contextmanager
def running(example: str, runtime: GoRuntime, *options: str) -> Iterator[None]:
    """That example as a process, connected; it must end without an error."""
    runtime.start()
    socket = ["--socket", str(runtime.socket_path)]
    command = [sys.executable, str(EXAMPLES / example / "plugin.py"), *socket, *options]
    plugin = subprocess.Popen(command)
    try:
        runtime.wait_connected(f"10-{example.replace('_', '-')}")
        yield
    finally:
        plugin.terminate()
        assert plugin.wait() == 0


@pytest.mark.parametrize("example", CASES)
def test_the_answers_of_the_plugins_in_go(
    example: str, runtime: GoRuntime, socket_dir: Path
) -> None:
    files(socket_dir)
    files_of = {name: str(socket_dir / name) for name in ("HOOKS", "MOUNTINFO")}
    options = [files_of.get(option, option) for option in OPTIONS.get(example, ())]
    expected = recorded(example)
    with running(example, runtime, *options):
        for name, case in CASES[example].items():
            found = answer(runtime, case)
            if "error" in expected[name]:
                # In other words, but an error.
                assert "error" in found, f"{name}: {found}"
            else:
                assert found == expected[name], name


@pytest.mark.parametrize(
    "example",
    ["differ", "default_validator", "network_device_injector", "network_logger", "v010_adapter"],
)
def test_the_other_examples_register(example: str, runtime: GoRuntime) -> None:
    options = ["--indices", "10,20"] if example == "differ" else ["--idx", "10"]
    with running(example, runtime, *options):
        reply = runtime.request(
            "CreateContainer", pod=nri_pb2.PodSandbox(id="pod0"), container=CONTAINER
        )
        assert not api.strip(reply.adjust)
