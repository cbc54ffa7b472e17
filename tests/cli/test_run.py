"""``nri-sync run`` as a separate process."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nri_sync.cli.errors import ExitCode
from nri_sync.runtime import Runtime

__all__: list[str] = []

LONG = 20.0
PLUGIN = """
import dataclasses

@dataclasses.dataclass
class Settings:
    label: str = "none"

class Labeller:
    Config = Settings

    def create_container(self, pod, container):
        from nri_sync import api
        return api.Adjustment().add_env("LABEL", self.config.label)
"""


def command(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nri_sync", "run", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def runtime(path: Path) -> Runtime:
    def synchronize(sync: Any) -> None:
        sync([], [])

    def update_containers(updates: Any, evictions: Any) -> Any:
        return []

    return Runtime(
        "runtime",
        "1.0",
        synchronize=synchronize,
        update_containers=update_containers,
        socket_path=str(path),
        plugin_path=None,
        registration_timeout=LONG,
        request_timeout=LONG,
    )


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "20-labeller.py"
    path.write_text(PLUGIN)
    return path


def test_the_plugin_serves_with_its_configuration_until_a_signal_comes(
    plugin: Path, socket_dir: Path, tmp_path: Path
) -> None:
    from nri_sync import api

    config = tmp_path / "config.json"
    config.write_text('{"label": "blue"}')
    with runtime(socket_dir / "s") as embedded:
        process = command(plugin, "--socket", socket_dir / "s", "--config", config)
        try:
            assert embedded.wait_for_plugins(lambda names: "20-labeller" in names, timeout=LONG)
            reply = embedded.create_container(
                api.PodSandbox(id="pod0", name="pod"),
                api.Container(id="ctr0", pod_sandbox_id="pod0", name="ctr"),
            )
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=LONG)
        finally:
            process.kill()
            process.wait()
    assert [(env.key, env.value) for env in reply.adjust.env] == [("LABEL", "blue")]
    assert process.returncode == ExitCode.OK, output


def test_a_wrong_configuration(plugin: Path, socket_dir: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"lable": "blue"}')
    process = command(plugin, "--socket", socket_dir / "s", "--config", config)
    output, _ = process.communicate(timeout=LONG)
    assert process.returncode == ExitCode.CONFIG
    assert "label" in output
    assert "Traceback" not in output


def test_no_runtime(plugin: Path, socket_dir: Path) -> None:
    process = command(plugin, "--socket", socket_dir / "s")
    output, _ = process.communicate(timeout=LONG)
    assert process.returncode == ExitCode.UNREACHABLE
    assert f"{socket_dir}/s" in output
    assert "Traceback" not in output


def test_no_plugin(tmp_path: Path) -> None:
    process = command(tmp_path / "none.py")
    output, _ = process.communicate(timeout=LONG)
    assert process.returncode == ExitCode.PLUGIN
    assert output == f"nri-sync run: {tmp_path}/none.py: there is no such Python file\n"
