"""Files in places where other users may have put something else: read, replaced, and checked for their writers.

An ordinary ``open()`` blocks on a named pipe, follows a symbolic link to any file of the system, and reads without
end from a device.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

__all__ = [
    "check_writers",
    "hold_standard_descriptors",
    "open_regular",
    "read_regular",
    "replace_file",
]


def open_regular(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file, which child processes do not get. Never blocks on a named pipe.

    Raises:
        OSError: it cannot be opened, or it is no regular file.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a regular file of ``limit`` bytes at most.

    Raises:
        OSError: it cannot be read, it is no regular file, or it is larger (EFBIG).
    """
    with open(open_regular(path), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit:,} bytes", os.fspath(path))
    return data


def replace_file(path: str | os.PathLike[str], data: bytes, mode: int = 0o600) -> None:
    """Put a new file with that content in place of whatever the path names, as a whole.

    A symbolic link is replaced, not followed. The content is first written beside it, to a file of this user only
    that did not exist; after a failure that file is gone, and the old one as it was. Raises OSError.
    """
    name = os.fspath(path)
    directory, base = os.path.split(name)
    try:
        import tempfile  # only here: 1 MB, with shutil, that a stub does not need

        descriptor, beside = tempfile.mkstemp(prefix=f".{base}.", dir=directory or ".")
    except OSError as error:
        # Not with a name that the user has never seen.
        raise OSError(error.errno, error.strerror, name) from None
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
        os.replace(beside, name)
    except OSError as error:
        _remove(beside)
        raise OSError(error.errno, error.strerror, name) from None
    except BaseException:
        _remove(beside)
        raise


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def hold_standard_descriptors() -> None:
    """Open the null device in place of standard input, output and error where these are closed.

    A connection that got one of their numbers would get all that the process prints. Raises OSError without a free
    descriptor.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, unless another thread takes that now.
            opened = os.open(os.devnull, os.O_RDWR)
            if opened == number:
                os.set_inheritable(opened, True)
            else:
                os.close(opened)


def check_writers(path: str | os.PathLike[str]) -> None:
    """Check that only root and this user can change a file, or replace it or a directory above it.

    The members of root's group, and of the groups of this process, count as trusted. Symbolic links are resolved;
    the directories of the link count as well as those of the target. A directory with the sticky bit protects
    the entries of other users, but it counts for the file itself, whose like anyone could put there.

    Raises:
        PermissionError: names the file or directory, and its mode or owner.
        OSError: it cannot be examined.
    """
    named = os.path.abspath(path)
    target = os.path.realpath(path)
    _check(target, may_be_sticky=False)
    for start in dict.fromkeys((os.path.dirname(target), os.path.realpath(os.path.dirname(named)))):
        place, may_be_sticky = start, False
        while True:
            _check(place, may_be_sticky)
            above = os.path.dirname(place)
            if above == place:
                break
            place, may_be_sticky = above, True


def _check(path: str, may_be_sticky: bool) -> None:
    found = os.stat(path)
    if found.st_uid not in (0, os.geteuid()):
        raise PermissionError(errno.EPERM, f"belongs to user {found.st_uid}", path)
    if may_be_sticky and found.st_mode & stat.S_ISVTX:
        return
    own_groups = {0, os.getegid(), *os.getgroups()}
    writable = stat.S_IWOTH if found.st_gid in own_groups else stat.S_IWOTH | stat.S_IWGRP
    if found.st_mode & writable:
        mode = stat.S_IMODE(found.st_mode)
        raise PermissionError(errno.EPERM, f"others can write it (mode {mode:04o})", path)
