"""``nri-sync init``: the created project works without changes."""

from __future__ import annotations

import configparser
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nri_sync.cli import main
from nri_sync.cli.errors import ExitCode

__all__: list[str] = []

# The tests start the tools as processes. On a busy machine, mypy alone takes more than a minute.
pytestmark = pytest.mark.timeout(300)

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


def test_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = made(tmp_path / "pod_name")
    files = {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}
    assert files == {
        ".gitignore", "Dockerfile", "README.md", "daemonset.yaml", "pod_name.py", "pyproject.toml",
        "setup.cfg", "tests/test_pod_name.py", "tox.ini", "pod.yaml", "config.yaml",
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
    # Run as if nri_sync were installed. Without its entry points (a source tree), name the pytest plugin.
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
def test_the_project_passes_its_linter_and_formatter(tmp_path: Path, name: str) -> None:
    pytest.importorskip("ruff", reason="tox -e lint has it")
    directory = made(tmp_path / name)
    run(directory, "-m", "ruff", "check", "--no-cache")
    run(directory, "-m", "ruff", "format", "--check", "--no-cache")


@pytest.mark.slow
def test_its_types_are_right(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="tox -e lint has it")
    directory = made(tmp_path / "pod-name")
    # Other tests check the types of the package itself.
    run(directory, "-m", "mypy", "--follow-imports", "silent", "--cache-dir", os.devnull)


def test_the_plugin_runs_as_a_program(tmp_path: Path) -> None:
    directory = made(tmp_path / "tuner")
    assert "--socket" in run(directory, "tuner.py", "--help")


def test_a_given_name_replaces_that_of_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Some Place").mkdir()
    monkeypatch.chdir(tmp_path / "Some Place")
    assert main(["init", ".", "--name", "tuner"]) == ExitCode.OK
    assert Path("tuner.py").exists()


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("Ünder", "may have lower-case letters, digits and hyphens only"),
        ("a_b", "may have lower-case letters, digits and hyphens only"),
        ("a b\n", "may have lower-case letters, digits and hyphens only"),
        ("a--b", "must not have two hyphens side by side"),
        ("-a", "must begin with a letter"),
        ("9a", "must begin with a letter"),
        ("a-", "must not end with a hyphen"),
        ("a" * 41, "must be at most 40 characters"),
        ("class", "a keyword of Python"),
        ("json", "there is a Python module json already"),
        ("yaml", "there is a Python module yaml already"),
        ("tests", "there is a Python module tests already"),
    ],
)
def test_an_invalid_name_is_refused(
    tmp_path: Path, name: str, rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tmp_path / "x"), f"--name={name}"]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert rule in error
    assert error.endswith("choose another, with --name\n")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["x", "pod-name"])
def test_its_tables_are_aligned(tmp_path: Path, name: str) -> None:
    readme = (made(tmp_path / name) / "README.md").read_text()
    rows = [line for line in readme.splitlines() if line.startswith("|")]
    bars = {tuple(at for at, char in enumerate(row) if char == "|") for row in rows}
    assert (len(rows), len(bars)) == (8, 1)


class TestReadme:
    """Each command of the README, in order, in a shell whose PATH has the installed commands."""

    # Commands that need a network, a node or a cluster. Another test checks the files that they name.
    ELSEWHERE = ("pip", "python3", ".", "docker", "kubectl")

    @pytest.fixture
    def place(self, tmp_path: Path, socket_dir: Path) -> Path:
        directory = made(tmp_path / "pod-name")
        programs = tmp_path / "bin"
        programs.mkdir()
        plugins = "" if "nri_sync" in _entry_points() else "-p nri_sync.pytest_plugin"
        for name, command in (
            ("nri-sync", "-m nri_sync"),
            ("pytest", f"-m pytest -p no:cacheprovider {plugins}"),
            ("pod-name", str(directory / "pod_name.py")),
        ):
            (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {command} "$@"\n')
            (programs / name).chmod(0o755)
        return directory

    def commands(self, place: Path) -> list[str]:
        blocks = re.findall(r"^```sh\n(.*?)^```$", (place / "README.md").read_text(), re.M | re.S)
        return [line for block in blocks for line in block.splitlines()]

    def start(self, place: Path, command: str, path: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command.replace("/tmp/nri.sock", str(path / "nri.sock")),
            shell=True, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
            env={
                **os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1",
                "PATH": f"{place.parent / 'bin'}{os.pathsep}{os.environ['PATH']}",
            },
        )  # fmt: skip

    def test_each_command(self, place: Path, socket_dir: Path) -> None:
        codes: dict[str, tuple[int, str]] = {}
        running: list[subprocess.Popen[str]] = []
        try:
            for command in self.commands(place):
                if command.split()[0] in self.ELSEWHERE:
                    continue
                process = self.start(place, command, socket_dir)
                if "nri.sock" in command:
                    running.append(process)
                    self._expect(process, "listening" if len(running) == 1 else "configured")
                    continue
                output, _ = process.communicate(timeout=60)
                codes[command] = process.returncode, output
            self._expect(running[0], "process.env[POD_NAME]")
        finally:
            for process in running:
                os.killpg(process.pid, signal.SIGTERM)
                process.communicate(timeout=60)
        (tested, simulated, ran, examined) = codes.values()
        assert tested[0] == 0
        assert "2 passed" in tested[1]
        assert simulated[0] == 0
        assert "process.env[POD_NAME]" in simulated[1]
        # This machine has no runtime.
        assert (ran[0], examined[0]) == (ExitCode.UNREACHABLE, ExitCode.FOUND)

    def _expect(self, process: subprocess.Popen[str], text: str) -> None:
        assert process.stdout is not None
        output = ""
        while text not in output:
            line = process.stdout.readline()
            assert line, output
            output += line

    def test_without_the_extra(self, place: Path, socket_dir: Path) -> None:
        # Simulate an installation without the extra: its packages cannot be imported.
        (place / "rich.py").write_text("raise ModuleNotFoundError(name='rich')\n")
        commands = [c for c in self.commands(place) if c.startswith("nri-sync")]
        for command in commands:
            process = self.start(place, f"PYTHONPATH={place}:{ROOT} {command}", socket_dir)
            output, _ = process.communicate(timeout=60)
            if command.startswith("nri-sync run "):
                assert process.returncode == ExitCode.UNREACHABLE, output
            else:
                assert process.returncode == ExitCode.USAGE, output
                assert output.endswith(": rich is not installed; do: pip install 'nri_sync[cli]'\n")
        assert len(commands) == 4

    def test_the_installed_packages_exist(self, place: Path) -> None:
        setup = configparser.ConfigParser()
        setup.read(place / "setup.cfg")
        extras = setup["options.extras_require"]
        installed = [c for c in self.commands(place) if c.startswith("pip")]
        assert installed == ["pip install -e '.[test]'", "pip install ."]
        assert "nri_sync[cli]" in extras["test"]
        assert "nri_sync[yaml]" in setup["options"]["install_requires"]
        built = [c for c in self.commands(place) if c.startswith("docker")]
        image = built[0].split()[3]
        assert f"image: {image}\n" in (place / "daemonset.yaml").read_text()


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
