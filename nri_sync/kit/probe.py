"""The check of a health file, as an exec probe runs it: ``python -m nri_sync.kit.probe FILE [--ready]``.

Exit code 0: the plugin is live (``--ready``: it is ready). 1: it is not, or its process is gone. 2: wrong usage.
Loads nothing but the standard library.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
import time
from collections.abc import Sequence

__all__ = ["MAX_AGE", "check", "main"]

#: After so many seconds without a heartbeat the process counts as gone.
MAX_AGE = 30.0

# A health file has some hundred bytes.
_READ_MAX = 65536


def check(path: str | os.PathLike[str], *, ready: bool = False, max_age: float = MAX_AGE) -> str:
    """Why the plugin that keeps the file at ``path`` is not live, or not ready; an empty text if it is.

    Never raises OSError: a file that cannot be read is a reason.
    """
    try:
        # A named pipe would block, and does not with this flag.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, encoding="utf-8", errors="replace") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                return f"{os.fspath(path)}: this is no health file: not a regular file"
            age = time.time() - found.st_mtime
            lines = file.read(_READ_MAX).splitlines()
    except OSError as error:
        return f"cannot read the health file: {error}"
    # A time in the future is one from before the clock was set back: nobody has touched the file since.
    if not -max_age <= age <= max_age:
        return (
            f"{os.fspath(path)}: no heartbeat for {abs(age):.0f} s, the plugin is gone or stopped"
        )
    fields = dict(line.split(": ", 1) for line in lines if ": " in line)
    wanted = "ready" if ready else "live"
    if fields.get(wanted) == "yes":
        return ""
    if wanted not in fields:
        return f"{os.fspath(path)}: this is no health file"
    return f"not {wanted}: {fields.get('state', 'unknown')}: {fields.get('reason', '')}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, print why it fails to standard error; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m nri_sync.kit.probe", description="Check the health file of an NRI plugin."
    )
    parser.add_argument("file", help="the file that the plugin keeps")
    parser.add_argument(
        "--ready", action="store_true", help="check that it is ready, not only live"
    )
    parser.add_argument(
        "--max-age",
        type=float,
        default=MAX_AGE,
        metavar="SECONDS",
        help="how old the last heartbeat may be (default: %(default)g)",
    )
    options = parser.parse_args(arguments)
    why = check(options.file, ready=options.ready, max_age=options.max_age)
    if why:
        print(why, file=sys.stderr)
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(main())
