"""The manifests of the examples, built and parsed by `manifests/main.go`, and a plugin run according to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.interop import gopeer

__all__ = ["EXAMPLES", "NOT_DEPLOYED", "ROOT", "Deployment", "read"]

ROOT = Path(__file__).resolve().parents[2]
# Examples without manifests, with the reason.
NOT_DEPLOYED = {"first_plugin": "the shortest plugin there is, for README, without health"}
EXAMPLES = sorted(
    path.parent.name
    for path in (ROOT / "examples").glob("*/plugin.py")
    if path.parent.name not in NOT_DEPLOYED
)


def read(*paths: Path) -> dict[str, list[dict[str, Any]] | str]:
    """For each path (a folder to build, or a file): its objects, or an error."""
    done = subprocess.run(
        [str(gopeer.build("manifests")), *map(str, paths)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return {answer["path"]: answer.get("error") or answer["objects"] for answer in answers}


class Deployment:
    """The objects of one kustomization, above all its DaemonSet."""

    def __init__(self, objects: Sequence[dict[str, Any]]) -> None:
        (self.daemon_set,) = [item for item in objects if item["kind"] == "DaemonSet"]
        self.config_maps = {
            item["metadata"]["name"]: item["data"]
            for item in objects
            if item["kind"] == "ConfigMap"
        }
        assert len(objects) == 1 + len(self.config_maps)
        self.name: str = self.daemon_set["metadata"]["name"]
        self.template: dict[str, Any] = self.daemon_set["spec"]["template"]
        self.pod: dict[str, Any] = self.template["spec"]
        (self.container,) = self.pod["containers"]
        self.ports: list[dict[str, Any]] = self.container.get("ports", [])
        self.args: list[str] = self.container.get("args", [])
        self.mounts: dict[str, str] = {
            mount["mountPath"]: mount["name"] for mount in self.container["volumeMounts"]
        }
        self.volumes: dict[str, dict[str, Any]] = {
            volume["name"]: volume for volume in self.pod["volumes"]
        }

    def probe(self, name: str, directory: Path) -> int:
        """Run a probe, ``livenessProbe`` or ``readinessProbe``; returns its exit code."""
        command = self.container[name]["exec"]["command"]
        return subprocess.run(
            self._localized(command, directory),
            cwd=directory, env=_environment(), check=False, stderr=subprocess.DEVNULL,
        ).returncode  # fmt: skip

    @contextmanager
    def running(
        self, plugin: str, directory: Path, socket: Path
    ) -> Iterator[subprocess.Popen[str]]:
        """Run the plugin with its arguments. ``directory`` has the files that are mounted into the container."""
        for path, name in self.mounts.items():
            there = self._in(path, directory)
            there.parent.mkdir(parents=True, exist_ok=True)
            volume = self.volumes[name]
            if volume.get("hostPath", {}).get("type") == "File":
                there.symlink_to(volume["hostPath"]["path"])
                continue
            there.mkdir()
            if "configMap" in volume:
                for key, text in self.config_maps[volume["configMap"]["name"]].items():
                    (there / key).write_text(self._moved(text, directory))
        command = ["python", str(ROOT / "examples" / plugin / "plugin.py"), *self.args]
        process = subprocess.Popen(
            [*self._localized(command, directory), "--socket", str(socket)],
            cwd=directory, env=_environment(), stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def _localized(self, command: Sequence[str], directory: Path) -> list[str]:
        """A command of the container, translated for this machine and the directory."""
        assert command[0] == "python"
        found = [sys.executable]
        for word in command[1:]:
            option, equals, value = word.rpartition("=") if word[:1] == "-" else ("", "", word)
            if any(f"{value}/".startswith(f"{path}/") for path in self.mounts):
                value = str(self._in(value, directory))
            found.append(f"{option}{equals}{value}")
        return found

    def _moved(self, text: str, directory: Path) -> str:
        """A configuration with the host's paths moved below the directory."""
        for path, name in self.mounts.items():
            if "hostPath" in self.volumes[name]:
                text = text.replace(f" {path}/", f" {self._in(path, directory)}/")
        return text

    @staticmethod
    def _in(path: str, directory: Path) -> Path:
        return directory / path.lstrip("/")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
