"""``nri-sync init``: what it makes works as it comes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nri_sync.cli import main
from nri_sync.cli.errors import ExitCode

__all__: list[str] = []

ROOT = Path(__file__).resolve().parents[2]


def made(directory: Path, *options: str) -> Path:
    assert main(["init", str(directory), *options]) == ExitCode.OK
    return directory


def run(directory: Path, *arguments: str) -> str:
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "MYPYPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, *arguments], cwd=directory, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_what_is_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = made(tmp_path / "pod_name")
    files = {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}
    assert files == {
        ".gitignore", "Dockerfile", "README.md", "daemonset.yaml", "pod_name.py", "pyproject.toml",
        "setup.cfg", "tests/test_pod_name.py", "tox.ini",
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert all(name in printed for name in files)
    for name in files:
        assert "$" not in (directory / name).read_text()
    (pod,) = yaml.safe_load_all((directory / "daemonset.yaml").read_text())
    assert pod["metadata"]["name"] == "pod-name"
    (container,) = pod["spec"]["template"]["spec"]["containers"]
    assert container["image"].endswith("/pod-name:0.1.0")
    assert pod["spec"]["template"]["spec"]["securityContext"] == {
        "seccompProfile": {"type": "RuntimeDefault"}
    }
    mounts = {mount["name"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    assert mounts == {"nri": True, "run": False, "handover": False}
    assert "\nUSER 65532:65532\nENTRYPOINT" in (directory / "Dockerfile").read_text()


def test_its_tests_pass(tmp_path: Path) -> None:
    directory = made(tmp_path / "pod-name")
    # As installed, without what is found by its name only in a source tree.
    plugins = [] if "nri_sync" in _entry_points() else ["-p", "nri_sync.pytest_plugin"]
    output = run(directory, "-m", "pytest", "-q", *plugins)
    assert "2 passed" in output


def _entry_points() -> set[str]:
    from importlib.metadata import distributions

    return {
        point.name
        for distribution in distributions()
        for point in distribution.entry_points
        if point.group == "pytest11"
    }


@pytest.mark.parametrize("name", ["x", "a-name-that-is-as-long-as-they-may-be-xx"])
def test_its_style_is_that_of_its_tools(tmp_path: Path, name: str) -> None:
    pytest.importorskip("ruff", reason="tox -e lint has it")
    directory = made(tmp_path / name)
    run(directory, "-m", "ruff", "check", "--no-cache")
    run(directory, "-m", "ruff", "format", "--check", "--no-cache")


def test_its_types_are_right(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="tox -e types has it")
    directory = made(tmp_path / "pod-name")
    # What is wrong in the package itself is told elsewhere.
    run(directory, "-m", "mypy", "--follow-imports", "silent", "--cache-dir", os.devnull)


def test_the_plugin_runs_as_a_program(tmp_path: Path) -> None:
    directory = made(tmp_path / "tuner")
    assert "--socket" in run(directory, "tuner.py", "--help")


def test_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Some Place").mkdir()
    monkeypatch.chdir(tmp_path / "Some Place")
    assert main(["init", ".", "--name", "tuner"]) == ExitCode.OK
    assert Path("tuner.py").exists()


@pytest.mark.parametrize("name", ["Ünder", "a--b", "-a", "9a", "a" * 41, "class", "json", "tests"])
def test_names_that_are_none(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path / "x"), f"--name={name}"]) == ExitCode.USAGE
    assert "--name" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tuner").mkdir()
    (tmp_path / "tuner" / "README.md").write_text("mine")
    assert main(["init", str(tmp_path / "tuner")]) == ExitCode.USAGE
    (tmp_path / "file").touch()
    assert main(["init", str(tmp_path / "file")]) == ExitCode.USAGE
    assert main(["init", str(tmp_path / "file" / "below")]) == ExitCode.USAGE
    assert capsys.readouterr().err.count("\n") == 3
    assert (tmp_path / "tuner" / "README.md").read_text() == "mine"
    assert os.listdir(tmp_path / "tuner") == ["README.md"]
