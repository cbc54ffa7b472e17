"""The check of a health file."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nri_sync.kit import probe

__all__: list[str] = []

FILE = "state: connecting\nlive: yes\nready: no\nreason: the stub: is idle\npid: 1\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "health"
    path.write_text(FILE)
    return path


def age(path: Path, seconds: float) -> None:
    at = time.time() - seconds
    os.utime(path, (at, at))


def test_the_verdict_has_state_and_reason(path: Path) -> None:
    assert probe.check(path) == ""
    assert probe.check(str(path), ready=True) == "not ready: connecting: the stub: is idle"
    path.write_text(FILE.replace("yes", "no").replace("connecting", "wedged"))
    assert probe.check(path) == "not live: wedged: the stub: is idle"
    path.write_text(FILE.replace("no", "yes"))
    assert probe.check(path, ready=True) == ""


def test_a_process_that_is_gone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    age(path, probe.MAX_AGE - 10)
    assert probe.check(path) == ""
    age(path, 100)
    assert probe.check(path).startswith(f"{path}: no heartbeat for 100 s")
    assert probe.check(path, max_age=200) == ""
    # The clock was set back after the process had ended.
    age(path, -100)
    assert probe.check(path).startswith(f"{path}: no heartbeat for 100 s")


def test_an_invalid_health_file_is_named(path: Path, tmp_path: Path) -> None:
    assert "No such file" in probe.check(tmp_path / "none")
    assert "Is a directory" in probe.check(tmp_path)
    for text in (b"", b"\xff\x00: \n", b"live\n", b"live:yes\n"):
        path.write_bytes(text)
        assert probe.check(path) == f"{path}: this is not a health file"
    path.write_text("x" * 1_000_000)
    assert "not a health file" in probe.check(path)
    path.write_text("live: no\n")
    assert probe.check(path) == "not live: unknown: "


def test_the_program(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main([str(path)]) == 0
    assert probe.main([str(path), "--ready"]) == 1
    assert capsys.readouterr().err == "not ready: connecting: the stub: is idle\n"
    age(path, 5)
    assert probe.main([str(path), "--max-age", "1"]) == 1
    with pytest.raises(SystemExit) as caught:
        probe.main([])
    assert caught.value.code == 2


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_program_as_a_process(path: Path) -> None:
    done = run("-m", "nri_sync.kit.probe", str(path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = run("-m", "nri_sync.kit.probe", "--ready", str(path))
    assert (done.returncode, done.stderr) == (1, "not ready: connecting: the stub: is idle\n")


def test_the_probe_loads_no_other_module() -> None:
    done = run(
        "-c",
        "import sys, nri_sync.kit.probe\n"
        "print([name for name in sys.modules if name.startswith(('grpc', 'google', 'nri_sync'))])",
    )
    assert done.stdout.strip() == "['nri_sync', 'nri_sync.kit', 'nri_sync.kit.probe']"


def test_a_named_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert (
        probe.check(tmp_path / "pipe")
        == f"{tmp_path}/pipe: this is not a health file: not a regular file"
    )
