"""What the parts of the test kit share: how long to wait, and where a socket can be."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator

__all__ = ["WITHIN", "socket_directory"]

#: Seconds that anything here is waited for unless told otherwise: longer than it takes on a busy machine.
WITHIN = 20.0

# The address of a unix socket has room for 108 bytes with the NUL at its end: for this directory and a name.
_LONGEST = 90


@contextlib.contextmanager
def socket_directory() -> Iterator[str]:
    """A new directory whose path is short enough for unix sockets; removed at the end, with all in it.

    It is in the directory for temporary files, or in /tmp where that one has too long a path.
    """
    where = None if len(tempfile.gettempdir()) < _LONGEST else "/tmp"
    path = tempfile.mkdtemp(prefix="nri", dir=where)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
