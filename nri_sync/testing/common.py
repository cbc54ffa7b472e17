"""Shared parts of the test kit: the default timeout, and directories for sockets."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator

__all__ = ["WITHIN", "socket_directory"]

#: The default timeout of all waits in the test kit, in seconds. It suffices on a busy machine.
WITHIN = 20.0

# A socket address has 108 bytes, including the final NUL, for the directory and the name.
_LONGEST = 90


@contextlib.contextmanager
def socket_directory() -> Iterator[str]:
    """A new directory whose path is short enough for Unix sockets. It is removed at the end, with its content.

    It is in the directory for temporary files, or in /tmp if that path is too long.
    """
    where = None if len(tempfile.gettempdir()) < _LONGEST else "/tmp"
    path = tempfile.mkdtemp(prefix="nri", dir=where)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
