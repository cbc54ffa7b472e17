"""``nri-sync doctor``."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nri_sync import api
from nri_sync.cli import main
from nri_sync.cli.errors import ExitCode
from nri_sync.testing import FakeRuntime, ScriptedRuntime, make_container, make_pod, steps

__all__: list[str] = []


@pytest.fixture
def examined(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Runs the command; returns its exit code, and its findings by check."""

    def examine(path: object, *options: str) -> tuple[int, dict[str, Any]]:
        arguments = ["doctor", "--socket", str(path), "--root", str(tmp_path), "-o", "json"]
        code = main([*arguments, *options])
        output = capsys.readouterr()
        assert output.err == ""
        return code, {found["check"]: found for found in json.loads(output.out)}

    return examine


@pytest.fixture
def runtime() -> Iterator[FakeRuntime]:
    with FakeRuntime(request_timeout=30) as runtime:
        yield runtime


def test_a_healthy_runtime(runtime: FakeRuntime, examined: Any) -> None:
    pod = make_pod()
    runtime.add(pod, make_container(pod))
    code, found = examined(runtime.socket_path)
    assert code == ExitCode.OK
    assert list(found) == [
        "socket", "listener", "configuration", "register", "configure", "timeouts", "events",
        "fields", "effects", "synchronize",
    ]  # fmt: skip
    assert "linux.resources.memory.swap, " in found["effects"]["text"]
    assert {each["level"] for each in found.values()} == {"ok", "info"}
    assert found["configure"]["text"] == f"containerd v2.4.2, NRI {api.NRI_VERSION}"
    assert "30 s to answer" in found["timeouts"]["text"]
    assert found["synchronize"]["text"] == "received 1 pods and 1 containers"
    runtime.wait_for(lambda: not runtime.plugins)


@pytest.mark.parametrize(
    ("name", "version", "nri_version", "level", "text"),
    [
        ("containerd", "v2.4.2", api.NRI_VERSION, "ok", "knows all fields that a plugin may set"),
        ("containerd", "1.7.28", "v0.8.0", "info", "adjust.linux.sysctl, "),
        (
            "cri-o",
            "1.36.0",
            "v0.12.0",
            "info",
            "ignores these fields, without an error: failure_policy",
        ),
        ("other", "1.0", "", "info", "release of the runtime is unknown"),
    ],
)
def test_fields_that_the_runtime_ignores(
    examined: Any, name: str, version: str, nri_version: str, level: str, text: str
) -> None:
    with FakeRuntime(name, version, nri_version=nri_version) as runtime:
        code, found = examined(runtime.socket_path)
    assert code == ExitCode.OK
    assert found["fields"]["level"] == level
    assert text in found["fields"]["text"]


def test_the_text_output(runtime: FakeRuntime, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--socket", runtime.socket_path]) == ExitCode.OK
    text = capsys.readouterr().out
    assert "✓ register      accepted as 99-doctor" in text
    assert text.endswith("A plugin receives events here\n")
    assert "\x1b" not in text
    # Without a terminal, lines are not folded.
    assert "            the runtime disconnects a plugin that answers later\n" in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_no_socket(examined: Any, socket_dir: Path) -> None:
    code, found = examined(socket_dir / "none")
    assert code == ExitCode.FOUND
    assert found["socket"]["level"] == "problem"
    assert list(found) == ["socket", "configuration"]


def test_problems_for_people(capsys: pytest.CaptureFixture[str], socket_dir: Path) -> None:
    assert main(["doctor", "--socket", str(socket_dir / "none")]) == ExitCode.FOUND
    text = capsys.readouterr().out
    assert text.startswith("✗ socket")
    assert "1 problem" in text


def test_no_process_listens(examined: Any, socket_dir: Path) -> None:
    path = socket_dir / "s"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    code, found = examined(path)
    assert (code, found["listener"]["level"]) == (ExitCode.FOUND, "problem")
    assert "no process listens" in found["listener"]["text"]


def test_disabled(examined: Any, runtime: FakeRuntime, tmp_path: Path) -> None:
    path = tmp_path / "etc/crio/crio.conf"
    path.parent.mkdir(parents=True)
    path.write_text("[crio.nri]\nenable_nri = false\n")
    code, found = examined(runtime.socket_path)
    assert (code, found["CRI-O"]["level"]) == (ExitCode.FOUND, "problem")


@pytest.mark.parametrize(
    ("script", "check", "text"),
    [
        ([steps.register(refuse="too busy")], "register", "too busy"),
        ([steps.cut()], "register", ""),
        ([steps.garbage()], "register", ""),
        ([steps.register(answered=False), steps.silence()], "register", "time"),
        ([steps.register(), steps.cut()], "configure", ""),
        ([steps.register(), steps.silence()], "configure", "time"),
        ([steps.register(), steps.configure(), steps.silence()], "synchronize", "not within"),
        ([steps.register(), steps.configure(), steps.cut()], "synchronize", ""),
    ],
)
def test_the_check_at_which_the_runtime_fails(
    examined: Any, script: Any, check: str, text: str
) -> None:
    # The command waits for the whole timeout only if the runtime is silent. All steps before the silence share it.
    timeout = "3s" if "silence" in map(str, script) else "20s"
    with ScriptedRuntime(script) as runtime:
        code, found = examined(runtime.socket_path, "--timeout", timeout)
    assert code == ExitCode.FOUND
    assert list(found)[-1] == check, found
    assert found[check]["level"] == "problem"
    assert text in found[check]["text"]
    assert found[check]["advice"]


def test_an_older_runtime(examined: Any) -> None:
    with FakeRuntime("containerd", "v1.7.20", nri_version="") as runtime:
        _, found = examined(runtime.socket_path)
    assert found["events"]["level"] == "info"
    assert "ValidateContainerAdjustment" in found["events"]["text"]


def test_an_unknown_runtime(examined: Any) -> None:
    with FakeRuntime("own", "x", nri_version="") as runtime:
        code, found = examined(runtime.socket_path)
    assert code == ExitCode.OK
    assert "release of the runtime is unknown" in found["events"]["text"]


def test_an_event(examined: Any, runtime: FakeRuntime) -> None:
    def make() -> None:
        runtime.wait_for(lambda: runtime.plugins)
        runtime.run_pod(make_pod())

    thread = threading.Thread(target=make)
    thread.start()
    code, found = examined(runtime.socket_path, "--wait", "20s")
    thread.join()
    assert (code, found["event"]["text"]) == (ExitCode.OK, "RunPodSandbox received")


def test_no_event(examined: Any, runtime: FakeRuntime) -> None:
    code, found = examined(runtime.socket_path, "--wait", "50ms")
    assert (code, found["event"]["level"]) == (ExitCode.OK, "warning")


def test_a_name_that_is_launched(examined: Any, runtime: FakeRuntime, tmp_path: Path) -> None:
    (tmp_path / "opt/nri/plugins").mkdir(parents=True)
    (tmp_path / "opt/nri/plugins/10-mine").touch()
    _, found = examined(runtime.socket_path, "--name", "mine", "--idx", "10")
    assert found["launched"]["level"] == "warning"
    assert found["register"]["text"] == "accepted as 10-mine"


def test_a_wrong_index(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--idx", "7"]) == ExitCode.USAGE
    assert "index" in capsys.readouterr().err
