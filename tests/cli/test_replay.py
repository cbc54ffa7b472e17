"""``nri-sync replay``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nri_sync import api
from nri_sync.cli import main
from nri_sync.cli.errors import ExitCode
from nri_sync.testing.recordings import Recorder, Recording
from nri_sync.testing.recordings.entries import PLUGIN, REQUEST, RESPONSE, RUNTIME, Entry

__all__: list[str] = []

PLUGIN_FILE = """
from nri_sync import api


class Namer:
    def create_container(self, pod, container):
        return api.Adjustment().add_env("{name}", pod.name)
"""

CONFIGURED_FILE = """
from dataclasses import dataclass

from nri_sync import api


class Namer:
    @dataclass
    class Config:
        name: str = "NAME"

    def create_container(self, pod, container):
        return api.Adjustment().add_env(self.config.name, pod.name)
"""


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A recording of a plugin that sets the variable POD."""
    pb2 = api.nri_pb2
    pod = api.PodSandbox(id="p0", name="web", namespace="default")
    container = api.Container(id="c0", pod_sandbox_id="p0", name="nginx")
    adjustment = api.Adjustment().add_env("POD", "web").message
    entries: list[tuple[str, str, int, Any, Any]] = [
        (
            PLUGIN, "RegisterPlugin", 1,
            pb2.RegisterPluginRequest(plugin_name="namer", plugin_idx="10"), pb2.Empty(),
        ),
        (
            RUNTIME, "Configure", 1,
            pb2.ConfigureRequest(runtime_name="containerd", runtime_version="v2.4.0"),
            pb2.ConfigureResponse(events=api.EventMask.parse("createcontainer")),
        ),
        (RUNTIME, "Synchronize", 3, pb2.SynchronizeRequest(), pb2.SynchronizeResponse()),
        (
            RUNTIME, "CreateContainer", 5,
            pb2.CreateContainerRequest(pod=pod, container=container),
            pb2.CreateContainerResponse(adjust=adjustment),
        ),
    ]  # fmt: skip
    path = tmp_path / "node.jsonl"
    with path.open("w") as file:
        recorder = Recorder(file)
        for number, (sender, rpc, stream, request, response) in enumerate(entries):
            other = RUNTIME if sender == PLUGIN else PLUGIN
            at = float(number)
            recorder.write(Entry(REQUEST, 1, at, sender, rpc, stream, message=request))
            recorder.write(Entry(RESPONSE, 1, at + 0.5, other, rpc, stream, message=response))
    return path


def plugin(directory: Path, name: str = "POD") -> str:
    path = directory / f"namer_{name.lower()}.py"
    path.write_text(PLUGIN_FILE.format(name=name))
    return str(path)


def test_as_recorded(recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(recording), plugin(tmp_path)]) == ExitCode.OK
    assert capsys.readouterr().out == "4 requests, all answers as recorded\n"


def test_a_difference(recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = recording.read_bytes()
    assert main(["replay", str(recording), plugin(tmp_path, "NAME")]) == ExitCode.FOUND
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "CreateContainer default/web:nginx  3.500 s into the recording"
    assert "  -  - key: POD" in lines
    assert "  +  - key: NAME" in lines
    assert lines[-1].startswith("4 requests, 1 difference")
    assert recording.read_bytes() == before


def test_as_json(recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["replay", str(recording), plugin(tmp_path, "NAME"), "-o", "json"])
    (difference,) = json.loads(capsys.readouterr().out)
    assert code == ExitCode.FOUND
    assert difference["what"] == "CreateContainer default/web:nginx"
    assert "POD" in difference["recorded"]
    assert "NAME" in difference["now"]


def test_updated(recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = plugin(tmp_path, "NAME")
    assert main(["replay", str(recording), target, "--update"]) == ExitCode.OK
    assert "has been updated" in capsys.readouterr().out
    assert main(["replay", str(recording), target]) == ExitCode.OK
    assert Recording.read(recording).entries[-1].message.adjust.env[0].key == "NAME"


def test_with_its_configuration(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "configured.py"
    target.write_text(CONFIGURED_FILE)
    config = tmp_path / "config.json"
    config.write_text('{"name": "POD"}')
    arguments = ["replay", str(recording), str(target)]
    assert main(arguments) == ExitCode.FOUND
    assert main([*arguments, "--config", str(config)]) == ExitCode.OK
    capsys.readouterr()
    config.write_text('{"nmae": "POD"}')
    assert main([*arguments, "--config", str(config)]) == ExitCode.CONFIG
    assert 'did you mean "name"?' in capsys.readouterr().err


def test_errors(recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = plugin(tmp_path)
    broken = tmp_path / "broken"
    broken.write_text("x\n")
    cases: list[tuple[list[object], ExitCode, str]] = [
        ([tmp_path / "none", target], ExitCode.INPUT, "No such file"),
        ([broken, target], ExitCode.INPUT, "broken, line 1"),
        ([recording, tmp_path / "none.py"], ExitCode.PLUGIN, "no such Python file"),
        ([recording, target, "--connection", "7"], ExitCode.INPUT, "no connection 7"),
    ]
    for arguments, code, text in cases:
        assert main(["replay", *map(str, arguments)]) == code
        errors = capsys.readouterr().err
        assert text in errors
        assert errors.count("\n") == 1


@pytest.mark.parametrize(
    "option",
    [
        ["--speed", "0"],
        ["--speed", "1e-308"],
        ["--speed", "nan"],
        ["--speed", "x"],
        ["--timeout", "soon"],
    ],
)
def test_wrong_options(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["replay", "r", "p", *option])
    assert end.value.code == 2
    assert option[0] in capsys.readouterr().err
