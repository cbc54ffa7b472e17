"""The check of a health file, as an exec probe runs it: ``python -m nri_sync.kit.probe FILE [--ready]``.

Exit code 0: the plugin is live (with ``--ready``: ready). 1: it is not, or its process is gone. 2: wrong usage.
Imports only the standard library.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
import time
from collections.abc import Sequence

__all__ = ["MAX_AGE", "check", "main"]

#: Without a heartbeat for this number of seconds, the process counts as gone.
MAX_AGE = 30.0

# A health file has a few hundred bytes.
_READ_MAX = 65536


def check(path: str | os.PathLike[str], *, ready: bool = False, max_age: float = MAX_AGE) -> str:
    """Return why the plugin of the file at ``path`` is not live, or not ready; an empty text if it is.

    Never raises OSError: an unreadable file is a reason.
    """
    try:
        # With this flag, opening a named pipe does not block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, encoding="utf-8", errors="replace") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                return f"{os.fspath(path)}: this is not a health file: not a regular file"
            age = time.time() - found.st_mtime
            lines = file.read(_READ_MAX).splitlines()
    except OSError as error:
        return f"cannot read the health file: {error}"
    # A time in the future is older than a change of the clock: no heartbeat has come since.
    if not -max_age <= age <= max_age:
        return (
            f"{os.fspath(path)}: no heartbeat for {abs(age):.0f} s, the plugin is gone or stopped"
        )
    fields = dict(line.split(": ", 1) for line in lines if ": " in line)
    wanted = "ready" if ready else "live"
    if fields.get(wanted) == "yes":
        return ""
    if wanted not in fields:
        return f"{os.fspath(path)}: this is not a health file"
    return f"not {wanted}: {fields.get('state', 'unknown')}: {fields.get('reason', '')}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the file, and print the reason of a failure to standard error. Returns the exit code."""
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
