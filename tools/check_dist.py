"""Compares the installed package with the source tree: the distribution lacks files that setup.cfg omits.

Run it outside the source directory, in an environment with the installed distribution.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nri_sync

__all__ = ["main"]

SOURCE = Path(__file__).resolve().parent.parent / "nri_sync"


def files(package: Path) -> set[str]:
    """The files of a package, without compiled files."""
    return {
        str(path.relative_to(package))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def main() -> int:
    """Print the differences; return 1 if there are any."""
    installed = Path(nri_sync.__file__).parent
    if installed == SOURCE:
        print(
            "check_dist: this is the source tree itself, not an installed package", file=sys.stderr
        )
        return 1
    differing = files(SOURCE) ^ files(installed)
    for name in sorted(differing):
        print(f"nri_sync/{name}: not in both the source tree and the distribution", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
