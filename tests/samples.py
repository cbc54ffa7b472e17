"""Tests with signals take a sample of the bytecodes to interrupt; every bytecode takes minutes.

A test runs with a small sample. Marked ``slow``, it also runs once, on one Python, with a large sample. With
``NRI_SYNC_SIGNALS=full`` in the environment it runs with all bytecodes instead.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

__all__ = ["FULL", "figures", "sizes"]

FULL = os.environ.get("NRI_SYNC_SIGNALS") == "full"
_ROOT = Path(__file__).parents[1]


def sizes(small: str, large: str, full: str) -> pytest.MarkDecorator:
    """Run a test with each of these as its ``size``: arguments of the process that runs the cases."""
    values = [
        pytest.param(small, id="small"),
        pytest.param(large, id="large", marks=pytest.mark.slow),
    ]
    return pytest.mark.parametrize("size", [pytest.param(full, id="full")] if FULL else values)


def figures(module: str, *arguments: str) -> dict[str, int]:
    """Run cases in a separate process, which ends with the first failing case. Returns the figures it prints."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    print(found)
    return found
