"""The examples behave as their pages say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from examples.first_plugin.plugin import DeviceInjector
from nri_sync import api

__all__: list[str] = []

ROOT = Path(__file__).resolve().parent.parent


class TestDeviceInjector:
    @pytest.fixture
    def plugin(self) -> Any:
        return DeviceInjector()

    @pytest.fixture
    def container(self) -> api.Container:
        return api.Container(id="c0", name="main")

    @pytest.mark.parametrize(
        "key", ["device.example.com", "device.example.com/pod", "device.example.com/container.main"]
    )
    def test_the_device_that_is_named(
        self, key: str, plugin: Any, container: api.Container
    ) -> None:
        pod = api.PodSandbox(annotations={key: "/dev/zero"})
        (device,) = plugin.create_container(pod, container).message.linux.devices
        status = os.stat("/dev/zero")
        assert (device.path, device.type) == ("/dev/zero", "c")
        assert os.makedev(device.major, device.minor) == status.st_rdev

    def test_no_device_without_the_annotation(self, plugin: Any, container: api.Container) -> None:
        pod = api.PodSandbox(annotations={"device.example.com/container.other": "/dev/zero"})
        assert plugin.create_container(pod, container) is None

    @pytest.mark.parametrize(
        "path", ["/dev/sda", "/dev/no-such", "/etc/passwd", "/dev/../dev/null", ""]
    )
    def test_devices_that_are_not_allowed(
        self, path: str, plugin: Any, container: api.Container
    ) -> None:
        pod = api.PodSandbox(annotations={"device.example.com": path})
        with pytest.raises(PermissionError, match="is not among those that pods may have"):
            plugin.create_container(pod, container)

    def test_an_allowed_path_has_to_be_a_device(
        self, plugin: Any, container: api.Container, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("examples.first_plugin.plugin.ALLOWED", ["/etc/passwd", "/dev/no-such"])
        pod = api.PodSandbox(annotations={"device.example.com": "/etc/passwd"})
        with pytest.raises(ValueError, match="'/etc/passwd' is not a device node"):
            plugin.create_container(pod, container)
        pod = api.PodSandbox(annotations={"device.example.com": "/dev/no-such"})
        with pytest.raises(FileNotFoundError, match="/dev/no-such"):
            plugin.create_container(pod, container)

    def test_the_container_is_found_where_crio_has_its_name_in_a_label(self, plugin: Any) -> None:
        pod = api.PodSandbox(annotations={"device.example.com/container.main": "/dev/zero"})
        container = api.Container(id="c0", labels={"io.kubernetes.container.name": "main"})
        assert plugin.create_container(pod, container) is not None


def test_the_demo() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "demo.py")],
        capture_output=True, text=True, check=False, timeout=50,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    answers = [
        json.loads(text) for text in re.findall(r"^\{\}$|^\{\n.*?^\}$", done.stdout, re.M | re.S)
    ]
    assert [devices(answer) for answer in answers] == [[], ["/dev/null"], ["/dev/zero"]]
    assert "'/dev/sda' is not among those that pods may have" in done.stdout
    assert done.stderr.count("registered with the runtime") == 2


def devices(answer: dict[str, Any]) -> list[str]:
    return [device["path"] for device in answer.get("linux", {}).get("devices", [])]
