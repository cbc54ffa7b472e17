"""Follows the page of one example, command by command. It is in interop because it installs packages.

Each ``console`` block of the section "From start to end" names the place where it can run. ``run`` blocks run
here. ``node`` and ``cluster`` blocks need a node or a cluster, and are skipped. Lines with ``$`` are commands,
lines with ``>`` continue them, and the other lines are the output, where ``...`` stands for any text.
"""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop.deployed import ROOT

__all__: list[str] = []

PAGE = ROOT / "examples" / "template" / "README.md"
NEEDS = {"node": "a node with NRI enabled, and root", "cluster": "a cluster and a registry"}
# The parts of a clone that the commands use.
CLONE = ["LICENSE", "README.md", "examples", "nri_sync", "pyproject.toml", "setup.cfg"]

_SECTION = PAGE.read_text().partition("## From start to end\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"^```console *(\w*)\n(.*?)^```$", _SECTION, re.M | re.S)


def commands(body: str) -> list[tuple[str, str]]:
    """Each command of a block, with its output."""
    found = []
    for step in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        lines = step.splitlines(keepends=True)
        more = [line for line in lines[1:] if line.startswith(">")]
        command = lines[0] + "".join(re.sub("^> ?", "", line) for line in more)
        found.append((command, "".join(lines[1 + len(more) :])))
    return found


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("clone")
    for name in CLONE:
        source = ROOT / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, directory / name, ignore=ignore)
        else:
            shutil.copy(source, directory)
    return directory


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("where", "body"), BLOCKS)
def test_the_page_can_be_followed(where: str, body: str, clone: Path) -> None:
    if where in NEEDS:
        pytest.skip(f"needs {NEEDS[where]}: {body.splitlines()[0]}")
    assert where == "run"
    # The command python3 of the page has to be this Python.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    environment = {**os.environ, "PATH": path, "COLUMNS": "80"}
    environment.pop("PYTHONPATH", None)
    for command, expected in commands(body):
        done = subprocess.run(
            ["bash", "-c", command], cwd=clone, env=environment, check=False, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, f"$ {command}\n{done.stdout}"
        if expected:
            same = doctest.OutputChecker().check_output(expected, done.stdout, doctest.ELLIPSIS)
            assert same, f"$ {command}\nprinted:\n{done.stdout}\ninstead of:\n{expected}"


def test_the_page_has_commands_that_run_here() -> None:
    assert [where for where, _ in BLOCKS].count("run") >= 2
    assert all(commands(body) for _, body in BLOCKS)
