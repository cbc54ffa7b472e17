"""Undecodable messages with the pure-Python protobuf, whose errors are others than those of the compiled one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__: list[str] = []

ROOT = Path(__file__).resolve().parent.parent
PATHS = (
    "tests/rpc/test_envelope.py",
    "tests/testing/recordings",
    "tests/kit/inventory/test_store.py",
)


def test_undecodable_messages() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *PATHS]
    done = subprocess.run(
        [*command, "-k", "undecodable or CgMKAYA or a_view_is_read"],
        cwd=ROOT,
        env={**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
