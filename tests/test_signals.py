"""Signals during the calls of objects with locks, other than a stub, before every bytecode of the main thread.

By default a sample; all of it with ``NRI_SYNC_SIGNALS=full`` in the environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests._signals import SUBJECTS

__all__: list[str] = []

_FULL = os.environ.get("NRI_SYNC_SIGNALS") == "full"
_ROOT = Path(__file__).parents[1]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_signals_at_every_bytecode(subject: str) -> None:
    """Runs in a separate process, which ends with the first failing case."""
    done = subprocess.run(
        [sys.executable, "-m", "tests._signals", subject, "--stride", "1" if _FULL else "7"],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    figures: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    print(figures)
    for event in ("reenter", "raise"):
        assert sum(count for case, count in figures.items() if case.endswith(event)) >= 10
