"""The causes why a store's file cannot be used: :func:`explained`.

SQLite reports "unable to open database file" for a process without a free descriptor, a directory that is not
writable, and a path that is too long. The sqlite3 module of Python does not pass on the errno of the system. So
this module examines the path and the process after the failure.
"""

from __future__ import annotations

import errno
import os
import sqlite3

__all__ = ["explained"]

# SQLite opens the file, and its journal or write-ahead log. It does without a descriptor of the directory.
_DESCRIPTORS = 2
# The longest suffix that SQLite adds to the file's name.
_SUFFIX = "-journal"
# The longest path that SQLite opens, in bytes: MAX_PATHNAME of its os_unix.c, less the suffix.
_PATH_MAX = 512 - len(_SUFFIX)

# Each may name the {directory}, the {user}, or a {missing} directory.
_ADVICE = {
    errno.EMFILE: "the process has too few free file descriptors; close some, or raise the limit (ulimit -n)",
    errno.ENFILE: "the system has too few free file descriptors; close some, or raise the limit (fs.file-max)",
    errno.ENOSPC: "the disk of {directory} is full; free space or inodes",
    errno.EDQUOT: "the quota of user {user} on the disk of {directory} is used up; free space, or raise the quota",
    errno.EROFS: "the file system of {directory} is read-only; mount it writable, or choose another path",
    errno.EACCES: "user {user} may not write the file or {directory}; change mode or owner, or the path",
    errno.ENOENT: "the directory {missing} is missing; create it",
    errno.ENOTDIR: "{missing} is not a directory; choose another path",
    errno.EISDIR: "the path is a directory; choose the path of a file in it",
    errno.ENAMETOOLONG: f"the path is too long; choose one of at most {_PATH_MAX} bytes, with names of at most "
    f"{255 - len(_SUFFIX)}",
    errno.ELOOP: "the path has too many symbolic links; choose another path",
}  # fmt: skip

# The texts of SQLite's errors that have a cause outside of the file.
_OUTSIDE = ("unable to open", "disk I/O", "is full", "readonly", "read-only")


def explained(path: str, error: Exception) -> str:
    """Return the text of an error of the file, with the cause and the remedy if they can be found.

    The function examines the file system, and opens two descriptors for a moment. It never opens the file: closing
    it would end the locks that SQLite holds, see https://sqlite.org/howtocorrupt.html. Never raises OSError.
    """
    if isinstance(error, OSError):
        text, code = error.strerror or str(error), error.errno
        if code == errno.EINVAL and os.path.isdir(path):
            code = errno.EISDIR  # open_regular() has refused the directory
    else:
        text, code = str(error), None
        if isinstance(error, sqlite3.Error) and any(each in text for each in _OUTSIDE):
            code = _examined(path, text)
    advice = _ADVICE.get(code or 0)
    if advice is None:
        return text
    advice = advice.format(
        directory=_directory(path), user=os.geteuid(), missing=_first_unusable(path)
    )
    return f"{text}: {advice}"


def _examined(path: str, text: str) -> int | None:
    """Return the errno that SQLite's error hides, or None."""
    if "is full" in text:
        return errno.ENOSPC
    directory = _directory(path)
    try:
        _check_descriptors()
        # Raises for a missing directory, one that is a file, and a name that is too long.
        os.stat(directory)
        _check_length(path)
        found = os.statvfs(directory)
    except OSError as error:
        return error.errno
    if found.f_flag & os.ST_RDONLY:
        return errno.EROFS
    if not _is_writable(path, directory):
        return errno.EACCES
    if "I/O" in text and (found.f_bavail == 0 or found.f_favail == 0 < found.f_files):
        return errno.ENOSPC
    return None


def _check_descriptors() -> None:
    opened: list[int] = []
    try:
        opened.extend(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(_DESCRIPTORS))
    finally:
        for each in opened:
            os.close(each)


def _check_length(path: str) -> None:
    """Raises OSError if SQLite or the system cannot open the file's journal."""
    # SQLite follows the links.
    if len(os.fsencode(os.path.realpath(path))) > _PATH_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
    try:
        os.lstat(path + _SUFFIX)
    except FileNotFoundError:
        pass


def _is_writable(path: str, directory: str) -> bool:
    def may(place: str, mode: int) -> bool:
        return os.access(place, mode, effective_ids=os.access in os.supports_effective_ids)

    return may(directory, os.W_OK | os.X_OK) and (
        not os.path.lexists(path) or may(path, os.R_OK | os.W_OK)
    )


def _directory(path: str) -> str:
    return os.path.dirname(os.path.abspath(path))


def _first_unusable(path: str) -> str:
    """Return the first directory on the path that is missing, or is no directory."""
    place = _directory(path)
    while not os.path.isdir(parent := os.path.dirname(place)) and parent != place:
        place = parent
    return place
