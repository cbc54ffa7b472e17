"""``nri-sync completion``, in real shells."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from nri_sync.cli import main
from nri_sync.cli.completion import SHELLS
from nri_sync.cli.errors import ExitCode

__all__: list[str] = []

pytest.importorskip("shtab", reason="the extra cli is not installed, or older")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_that_the_shell_takes(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == ExitCode.OK
    script = capsys.readouterr().out
    for word in ("simulate", "runtime", "completion"):
        assert word in script
    if shutil.which(shell) is None:
        return
    done = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_words_in_bash(capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", "bash"])
    script = capsys.readouterr().out
    ask = (
        '\nCOMP_WORDS=(nri-sync doctor --so); COMP_CWORD=2; COMP_LINE="nri-sync doctor --so"\n'
        "COMP_POINT=${#COMP_LINE}; COMP_TYPE=9\n"
        "$(complete -p nri-sync | sed -E 's/.*-F ([^ ]+).*/\\1/') nri-sync --so doctor\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(["bash"], input=script + ask, text=True, capture_output=True, check=True)
    assert done.stdout == "--socket\n"
