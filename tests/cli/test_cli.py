"""The ``nri-sync`` command."""

from __future__ import annotations

import subprocess
import sys

import pytest

import nri_sync
from nri_sync.cli import main

__all__: list[str] = []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"nri-sync {nri_sync.__version__}\n"


def test_without_arguments_it_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: nri-sync")


def test_python_m_nri_sync_is_the_command() -> None:
    command = [sys.executable, "-m", "nri_sync", "--version"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == f"nri-sync {nri_sync.__version__}\n"
