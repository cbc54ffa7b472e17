"""The ``nri-sync`` command.

`main` takes the arguments (those of the process when there are none) and returns the exit code;
a wrong argument ends in `SystemExit` with code 2, as argparse has it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import nri_sync

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="nri-sync", description="Tools for NRI plugins and runtimes."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {nri_sync.__version__}")
    parser.parse_args(argv)
    parser.print_help()
    return 0
