"""Each example with a configuration, in every way to run a plugin."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

from nri_sync.cli import main
from nri_sync.cli.errors import ExitCode
from nri_sync.cli.loading import load_program
from nri_sync.testing import FakeRuntime

__all__: list[str] = []

Files = Callable[[str], "tuple[str, str]"]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CONFIGURED = sorted(path.parent.name for path in EXAMPLES.glob("*/config.yaml"))
# Examples that refuse the sample pod because of this machine, or of the pod.
REFUSING = {"cpu_pinning", "default_validator", "image_policy", "network_device_injector"}


@pytest.fixture(autouse=True)
def _modules_of_this_test_only(monkeypatch: pytest.MonkeyPatch) -> None:
    # The module name of each example's file. It is removed at the end.
    monkeypatch.setitem(sys.modules, "plugin", sys)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Return a function that returns the paths of an example's plugin and of its configuration."""

    def of(example: str) -> tuple[str, str]:
        config = EXAMPLES / example / "config.yaml"
        if example == "slow_hook":
            # The sample fetches for ten seconds, into directories that all programs of the machine share.
            config = tmp_path / "slow_hook.yaml"
            config.write_text(
                f"command: ['true']\nsets: [weather]\ndata: {tmp_path}/data\noutcomes: {tmp_path}/outcomes\n"
            )
        return str(EXAMPLES / example / "plugin.py"), str(config)

    return of


@pytest.mark.parametrize("example", CONFIGURED)
def test_in_simulate(example: str, files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    plugin, config = files(example)
    pod = str(EXAMPLES / example / "pod.yaml")
    # More than the real runtimes' two seconds: the machine may be busy.
    arguments = ["simulate", plugin, "-c", config, "-f", pod, "--request-timeout", "20s"]
    if example == "network_device_injector":
        # pyroute2 leaves an event loop open where there is no such network namespace: run it in a new process.
        done = subprocess.run(
            [sys.executable, "-m", "nri_sync", *arguments],
            env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        code, errors = done.returncode, done.stderr
    else:
        code, errors = main(arguments), capsys.readouterr().err
    assert code in ((ExitCode.OK, ExitCode.FOUND) if example in REFUSING else (ExitCode.OK,))
    assert "Traceback" not in errors


@pytest.mark.parametrize("example", CONFIGURED)
def test_a_wrong_configuration_in_simulate(
    example: str, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin, _ = files(example)
    config = tmp_path / "config.yaml"
    config.write_text("no_such_key_anywhere: 1\n")
    pod = str(EXAMPLES / example / "pod.yaml")
    assert main(["simulate", plugin, "-c", str(config), "-f", pod]) == ExitCode.CONFIG
    assert "no_such_key_anywhere" in capsys.readouterr().err


@pytest.mark.parametrize("example", CONFIGURED)
def test_in_a_test(example: str, files: Files, nri_plugin: Any) -> None:
    plugin, config = files(example)
    program = load_program(plugin)
    nri_plugin(program, config=Path(config).read_text())
    assert program.plugin.config is not None


@pytest.mark.parametrize("example", CONFIGURED)
def test_in_run(example: str, files: Files, tmp_path: Path) -> None:
    plugin, config = files(example)
    with FakeRuntime() as runtime:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "nri_sync", "run", plugin, "--config", config,
                "--socket", runtime.socket_path,
            ],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)},
        )  # fmt: skip
        try:
            runtime.wait_for(lambda: runtime.plugins or process.poll() is not None)
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=20)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == ExitCode.OK, output
    assert f"configured from {config}" in output
