"""The ``nri-sync`` command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import nri_sync
from nri_sync.cli import main
from nri_sync.cli.commands import COMMANDS, DOCS
from nri_sync.cli.errors import ExitCode
from tests.kit.programs import ROOT

__all__: list[str] = []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"nri-sync {nri_sync.__version__}\n"


def test_without_arguments_the_command_prints_its_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: nri-sync")


def test_help_is_a_command_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["help", "simulate"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: nri-sync simulate")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_has_examples_and_the_page(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    text = capsys.readouterr().out
    assert f"\nexamples:\n  nri-sync {name}" in text
    assert text.endswith(f"documentation: {DOCS}cli.html#{name}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_has_each_command(name: str) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
    assert f"\n## {name}\n" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["simulat", "x"], "nri-sync: there is no command simulat; did you mean simulate?\n"),
        (["xyz"], "nri-sync: there is no command xyz; the commands are: demo, init, "),
        (["\x1b[31m"], r"nri-sync: there is no command \x1b[31m; the commands are"),
    ],
)
def test_no_such_command(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == ExitCode.USAGE
    assert capsys.readouterr().err.startswith(text)


def test_no_such_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["replay", "--conection=3", "a", "b"])
    assert end.value.code == ExitCode.USAGE
    assert capsys.readouterr().err.endswith(
        "nri-sync replay: error: unrecognized arguments: --conection=3; did you mean --connection?\n"
    )


# Simulates a missing package.
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Missing())
from nri_sync.cli import main
from nri_sync.cli.commands import COMMANDS, DOCS
from nri_sync.cli.errors import ExitCode
from tests.kit.programs import ROOT
sys.exit(main(sys.argv[1:]))
"""
EACH = {
    "demo": [],
    "simulate": ["plugin.py", "-f", "pod.yaml"],
    "run": None,
    "init": None,
    "runtime": ["--socket", "s", "-f", "pod.yaml"],
    "events": [],
    "trace": [],
    "replay": ["web.jsonl", "plugin.py"],
    "doctor": [],
    "completion": ["bash"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_without_an_extra_the_error_names_it(name: str, tmp_path: Path) -> None:
    arguments = EACH[name]
    code = WITHOUT.format(missing=["rich", "yaml", "shtab"])
    done = subprocess.run(
        [sys.executable, "-c", code, name, *(["--help"] if arguments is None else arguments)],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    if arguments is None:
        assert done.returncode == 0
    else:
        assert done.returncode == ExitCode.USAGE
        package = "shtab" if name == "completion" else "rich"
        assert done.stderr == (
            f"nri-sync {name}: {package} is not installed; do: pip install 'nri_sync[cli]'\n"
        )


def test_without_yaml_alone(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text("class P:\n    def run_pod_sandbox(self, pod): pass\n")
    (tmp_path / "pod.yaml").write_text("kind: Pod\n")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing=["yaml"]), "simulate", "plugin.py", "-f", "pod.yaml"],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == ExitCode.INPUT
    assert "pip install 'nri_sync[yaml]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_python_m_nri_sync_is_the_command() -> None:
    command = [sys.executable, "-m", "nri_sync", "--version"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == f"nri-sync {nri_sync.__version__}\n"


@pytest.mark.parametrize("command", [["demo"], ["demo", "-o", "json"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_cannot_be_written(command: list[str], unbuffered: str) -> None:
    """Nothing of the output reaches a full disk: the command says so in one line, and fails."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "nri_sync", *command],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    expected = f"nri-sync {command[0]}: standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (ExitCode.CRASHED, expected)


@pytest.mark.parametrize("closed", ["1", "2", "0", "1 2"])
def test_standard_streams_that_are_closed(closed: str) -> None:
    """The output goes nowhere, and not to the other stream."""
    redirections = " ".join(f"{number}>&-" for number in closed.split())
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-m", "nri_sync", "demo"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")
    assert bool(done.stdout) == ("1" not in closed)
