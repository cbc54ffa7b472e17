"""``nri-sync trace``, between the embedded runtime and a plugin."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from nri_sync import Stub, api
from nri_sync.cli import main
from nri_sync.cli.errors import ExitCode
from nri_sync.cli.trace import EntryPrinter, duration_text, size_text
from nri_sync.testing import FakeRuntime, make_container, make_pod
from nri_sync.testing.recordings import Recording
from nri_sync.testing.recordings.entries import CLOSED, REQUEST, Entry
from tests.listening import is_listening

__all__: list[str] = []

LONG = 20.0


class Namer:
    def create_container(self, pod: Any, container: Any) -> Any:
        if container.name == "bad":
            raise ValueError("not this one")
        return api.Adjustment().add_env("POD", pod.name)


@pytest.fixture
def runtime() -> Iterator[FakeRuntime]:
    with FakeRuntime() as runtime:
        yield runtime


def traced(runtime: FakeRuntime, *options: object, environment: Any = None) -> str:
    """The output of the command while a plugin is connected."""
    listen = f"{os.path.dirname(runtime.socket_path)}/trace.sock"
    process = subprocess.Popen(
        [
            sys.executable, "-m", "nri_sync", "trace", "--socket", runtime.socket_path,
            *map(str, options),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    try:
        give_up = time.monotonic() + LONG
        while not is_listening(listen):
            assert time.monotonic() < give_up
            time.sleep(0.02)
        with Stub(Namer(), name="namer", idx="10", socket_path=listen):
            runtime.wait_for(lambda: runtime.plugins)
            pod = make_pod("web")
            runtime.run_pod(pod)
            runtime.create_container(pod, make_container(pod))
            runtime.create_container(pod, make_container(pod, name="bad"), check=False)
        runtime.wait_for(lambda: not runtime.plugins)
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or "closed" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1]
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=LONG)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in errors
    assert not os.path.exists(listen)
    return "".join(lines) + output


def test_lines_for_people(runtime: FakeRuntime) -> None:
    lines = [line.split(maxsplit=1)[1] for line in traced(runtime).splitlines()]
    assert lines[0].startswith("opened")
    assert lines[-1].split() == ["closed", "by", "the", "plugin"]
    shown = [line for line in lines if "CreateContainer " in line]
    assert [line.split()[0] for line in shown] == ["→", "←", "→", "←"]
    assert shown[0].endswith(" B   default/web:container")
    assert " ms  adjust env" in shown[1]
    assert shown[3].endswith("error UNKNOWN: ValueError: not this one")
    assert any("10-namer, NRI v0" in line for line in lines)
    assert any("subscribes to CreateContainer" in line for line in lines)
    assert any("0 pods, 0 containers" in line for line in lines)


def test_filtered_and_in_full(runtime: FakeRuntime) -> None:
    text = traced(
        runtime, "-e", "configure,registerplugin", "--full",
        environment={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert "CreateContainer " not in text
    assert "<- RegisterPlugin" in text
    assert "-> Configure" in text
    assert "\n    runtime_name: containerd\n" in text


def test_json_and_a_recording(runtime: FakeRuntime, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    text = traced(runtime, "-o", "json", "-e", "createcontainer", "--record", path)
    shown = [json.loads(line) for line in text.splitlines()]
    assert [value["kind"] for value in shown] == [
        "opened", "request", "response", "request", "response", "closed",
    ]  # fmt: skip
    assert shown[2]["message"]["adjust"]["env"] == [{"key": "POD", "value": "web"}]
    recording = Recording.read(path)
    assert recording.entries[-1].kind == CLOSED
    assert [e.rpc for e in recording.entries if e.kind == REQUEST] == [
        "RegisterPlugin", "Configure", "Synchronize", "CreateContainer", "CreateContainer",
    ]  # fmt: skip
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_secrets_are_left_out_on_demand(runtime: FakeRuntime, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    text = traced(runtime, "-o", "json", "--mask", "p?d,other", "--record", path)
    for lines in (text, path.read_text()):
        assert '"key":"POD","value":"(masked)"' in lines.replace(": ", ":").replace(", ", ",")
    text = traced(runtime, "--full", "--mask")
    assert "value: web" in text


def test_interrupted_while_a_plugin_is_connected(runtime: FakeRuntime, tmp_path: Path) -> None:
    listen = f"{os.path.dirname(runtime.socket_path)}/trace.sock"
    path = tmp_path / "r.jsonl"
    ended = threading.Event()
    command = ["trace", "--socket", runtime.socket_path, "--record", str(path)]
    with subprocess.Popen(
        [sys.executable, "-m", "nri_sync", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        give_up = time.monotonic() + LONG
        while not is_listening(listen):
            assert time.monotonic() < give_up
            time.sleep(0.02)
        stub = Stub(
            Namer(), name="namer", idx="10", socket_path=listen, on_close=lambda stub: ended.set()
        )
        stub.start()
        runtime.wait_for(lambda: runtime.plugins)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LONG)
    assert ended.wait(LONG)
    assert process.returncode == 128 + signal.SIGINT
    entries = Recording.read(path).entries
    assert entries[-1].kind == CLOSED
    assert "Synchronize" in [entry.rpc for entry in entries]


def test_interrupted_before_the_command_waits(
    runtime: FakeRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin may have connected by then."""
    listen = f"{os.path.dirname(runtime.socket_path)}/trace.sock"
    path = tmp_path / "r.jsonl"
    stub = Stub(Namer(), name="namer", idx="10", socket_path=listen)

    def interrupted(socket_path: str) -> str:
        stub.start(LONG)
        runtime.wait_for(lambda: runtime.plugins)
        raise KeyboardInterrupt

    monkeypatch.setattr("nri_sync.cli.trace._missing", interrupted)
    command = ["trace", "--socket", runtime.socket_path, "--record", str(path)]
    assert main(command) == 128 + signal.SIGINT
    assert stub.wait(LONG)
    entries = Recording.read(path).entries
    assert entries[-1].kind == CLOSED
    assert "Synchronize" in [entry.rpc for entry in entries]


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main(["trace", *map(str, arguments)])
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    return code, errors


def test_errors(capsys: pytest.CaptureFixture[str], runtime: FakeRuntime, tmp_path: Path) -> None:
    path = runtime.socket_path
    there = tmp_path / "there"
    there.touch()
    cases: list[tuple[list[object], ExitCode, str]] = [
        (["--listen", path], ExitCode.USAGE, "is the socket of the runtime"),
        (["-e", "createcontiner"], ExitCode.USAGE, "createcontainer"),
        (["--record", there], ExitCode.USAGE, "is there already"),
        (["--record", tmp_path / "no" / "r"], ExitCode.USAGE, "No such file"),
        (["--listen", tmp_path / "no" / "s"], ExitCode.UNREACHABLE, "choose another path"),
    ]
    for options, code, text in cases:
        found, errors = failure(capsys, "--socket", path, *options)
        assert (found, text in errors) == (code, True), errors


def test_a_disk_that_is_full(
    runtime: FakeRuntime, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listen = f"{os.path.dirname(runtime.socket_path)}/trace.sock"
    opened = os.open

    def open_full(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        full = path == "recording"
        return opened(
            "/dev/full" if full else path, os.O_WRONLY if full else flags, *rest, **options
        )

    def connect() -> None:
        give_up = time.monotonic() + LONG
        while time.monotonic() < give_up:
            with socket.socket(socket.AF_UNIX) as sock:
                if sock.connect_ex(listen) == 0:
                    sock.recv(1)  # until the command ends
                    return

    monkeypatch.setattr(os, "open", open_full)
    thread = threading.Thread(target=connect)
    thread.start()
    code, errors = failure(
        capsys, "--socket", runtime.socket_path, "--record", "recording", "-o", "json"
    )
    thread.join()
    assert code == ExitCode.CRASHED
    assert "--record recording: No space left" in errors


def test_dim_parts_end() -> None:
    arguments = argparse.Namespace(output="table", full=False, color="always")
    line = EntryPrinter(arguments, datetime(2026, 1, 1)).line(
        Entry(REQUEST, 1, rpc="Shutdown"), False
    )
    assert str(line.style) == ""
    assert {str(span.style) for span in line.spans} >= {"dim", "bold"}


def test_numbers_are_short() -> None:
    assert [size_text(0), size_text(9999), size_text(12345)] == ["0 B", "9999 B", "12 kB"]
    assert [duration_text(0.00123), duration_text(2.5)] == ["1.2 ms", "2.50 s"]


def test_a_runtime_that_is_not_there_and_sigterm(socket_dir: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "nri_sync", "trace", "--socket", f"{socket_dir}/none.sock"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == f"plugins connect to {socket_dir}/trace.sock\n"
        assert process.stderr.readline() == (
            f"nri-sync trace: --socket {socket_dir}/none.sock: No such file or directory: no runtime "
            "listens there; trace rejects plugins until one does\n"
        )
        assert (socket_dir / "trace.sock").exists()
        process.terminate()
        process.communicate(timeout=LONG)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert not (socket_dir / "trace.sock").exists()
