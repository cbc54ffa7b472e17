"""The Dockerfile of the examples: its steps work, and the result runs a plugin. (Slow, hence here.)"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nri_sync.runtime import Runtime
from tests.interop.deployed import EXAMPLES, ROOT
from tests.interop.dockerfile import Stage, build, instructions

__all__: list[str] = []

DOCKERFILE = ROOT / "examples" / "Dockerfile"
PLUGIN = "template"
LONG = 20.0


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    directory = tmp_path_factory.mktemp("image")
    # Like the base image: a Python with pip, and nothing else.
    base = directory / "base"
    subprocess.run([sys.executable, "-m", "venv", str(base)], check=True)
    path = f"{base}/bin:/usr/bin:/bin"
    try:
        return build(DOCKERFILE, ROOT, directory, path, PLUGIN=PLUGIN)
    except subprocess.CalledProcessError as error:
        pytest.fail(f"{error}\n{error.stdout}{error.stderr}")


@pytest.mark.timeout(300)
class TestImage:
    def test_is_not_root_by_default(self, image: Stage) -> None:
        user, _, group = image.user.partition(":")
        assert user.isdigit()
        assert int(user) > 0
        assert int(group) > 0

    def test_has_no_tools_to_install_with(self, image: Stage) -> None:
        assert not list(image.root.rglob("pip*"))

    def test_runs_a_plugin_without_writing(
        self, image: Stage, socket_path: Path, socket_dir: Path
    ) -> None:
        before = snapshot(image.root)
        runtime = Runtime(
            "node", "1.0",
            synchronize=lambda deliver: deliver([], []),
            update_containers=lambda updates, evictions: [],
            socket_path=str(socket_path), plugin_path=None,
        )  # fmt: skip
        environment = {
            name: image.localized(value).replace("$PATH", os.defpath)
            for name, value in image.environment.items()
        }
        program, *arguments = map(image.localized, image.entrypoint)
        found = shutil.which(program, path=environment["PATH"])
        assert found is not None
        assert Path(found).is_relative_to(image.root)
        command = [*powerless(), found, *arguments, "--socket", str(socket_path)]
        health = socket_dir / "health"
        with runtime:
            process = subprocess.Popen(
                [*command, f"--health-file={health}"],
                cwd="/", env=environment, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            try:
                assert runtime.wait_for_plugins(bool, LONG), process.communicate(timeout=LONG)
                assert health.exists()
                process.send_signal(signal.SIGTERM)
                _, log = process.communicate(timeout=LONG)
            finally:
                process.kill()
                process.wait()
        assert process.returncode == 0, log
        assert snapshot(image.root) == before


def powerless() -> list[str]:
    """A command prefix for root without capabilities, as in the manifests. Other users have none."""
    if os.getuid() != 0:
        return []
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--clear-groups"]


def snapshot(root: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in root.rglob("*")}


@pytest.mark.parametrize("example", EXAMPLES)
def test_imports_of_an_example_are_in_its_requirements(example: str) -> None:
    """Imports of packages that the image does not have."""
    needs = {"pyroute2": "network_device_injector"}
    text = (ROOT / "examples" / example / "plugin.py").read_text()
    requirements = ROOT / "examples" / example / "requirements.txt"
    for package, only in needs.items():
        assert (f"import {package}" in text or f"from {package}" in text) == (example == only)
        assert requirements.exists() == (example == only)


def test_the_context_has_all_that_is_copied() -> None:
    ignored = Path(f"{DOCKERFILE}.dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        source.split("/")[0]
        for keyword, rest in instructions(DOCKERFILE.read_text())
        if keyword == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert copied == kept
