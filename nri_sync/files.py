"""Reads, replaces and checks files at paths where other users may have put a different kind of file.

An ordinary ``open()`` blocks on a named pipe, follows a symbolic link to any file of the system, and reads without
end from a device.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys

__all__ = [
    "check_directory",
    "check_writers",
    "hold_standard_descriptors",
    "open_regular",
    "read_regular",
    "replace_file",
]

# The greatest number of symbolic links on a path, as in Linux.
_LINKS_MAX = 40


def open_regular(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file. Child processes do not inherit it. Never blocks on a named pipe.

    Raises:
        OSError: the file cannot be opened, or is not a regular file.
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
    """The content of a regular file of at most ``limit`` bytes.

    Raises:
        OSError: the file cannot be read, is not a regular file, or is larger (EFBIG).
    """
    with open(open_regular(path), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit:,} bytes", os.fspath(path))
    return data


def replace_file(path: str | os.PathLike[str], data: bytes, mode: int = 0o600) -> None:
    """Replace the file at a path by a new one with this content, atomically.

    A symbolic link or named pipe is replaced, not followed. A device or a socket is not replaced: for root that
    would take /dev/null or the socket of a runtime from the whole node. The content is first written to a new file
    in the same directory, which only this user can read. After a failure, the new file is removed and the old one
    is unchanged. Raises OSError.
    """
    name = os.fspath(path)
    _check_replaceable(name)
    directory, base = os.path.split(name)
    try:
        import tempfile  # here, because it takes 1 MB with shutil, which a stub does not need

        descriptor, beside = tempfile.mkstemp(prefix=f".{base}.", dir=directory or ".")
    except OSError as error:
        # Replace the name of the temporary file, which the user does not know.
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


def _check_replaceable(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISFIFO(mode)):
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        raise FileExistsError(errno.EEXIST, "a device or socket, not a regular file", path)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def hold_standard_descriptors() -> None:
    """Open the null device for each of standard input, output and error that is closed.

    Otherwise a connection could get one of these numbers, and then all output of the process. Raises OSError
    without a free descriptor.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # os.open() returns the lowest free number, unless another thread takes this number now.
            opened = os.open(os.devnull, os.O_RDWR)
            if opened == number:
                os.set_inheritable(opened, True)
            else:
                os.close(opened)


def check_writers(path: str | os.PathLike[str]) -> None:
    """Check that only root and this user can change a file, or replace it or a directory above it.

    The members of root's group, and of the groups of this process, are trusted. Every symbolic link on the way is
    checked as the file is, because a user who can replace a link can choose the file. A writable directory with
    the sticky bit is accepted further up, because the bit protects the entries of other users. It is not accepted
    as the directory of the file itself or of a link to it, where any user could create such a file.

    Raises:
        PermissionError: another user can change the file, a link or a directory. The error names it, and its mode
            or owner.
        OSError: the file or a directory cannot be examined.
    """
    _check(_follow(path, is_file=True), may_be_sticky=False)


def check_directory(path: str | os.PathLike[str], *, may_be_sticky: bool = True) -> None:
    """Check that only root and this user can replace a file of this user in a directory, or a directory above it.

    ``may_be_sticky``: the sticky bit of the directory itself is enough, as it is for those above. Others can then
    put files there that do not exist, and cannot touch those that do. Raises as :func:`check_writers`.
    """
    _check(_follow(path, is_file=False), may_be_sticky)


def _follow(path: str | os.PathLike[str], is_file: bool) -> str:
    """The path without links. Checks all links, and all directories in which a name of the path is looked up."""
    # The names to look up, the first one last, and whether each is the file's own or that of a directory.
    left = _names(os.path.join(os.getcwd(), os.fspath(path)), is_file)
    place, links = os.sep, 0
    while left:
        name, names_file = left.pop()
        if name == os.pardir:
            place = os.path.dirname(place)
            continue
        _check(place, may_be_sticky=not names_file)
        entry = os.path.join(place, name)
        found = os.lstat(entry)
        if not stat.S_ISLNK(found.st_mode):
            place = entry
            continue
        links += 1
        if links > _LINKS_MAX:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
        if os.stat(place).st_mode & stat.S_ISVTX:
            # The sticky bit does not protect an entry from its owner.
            _check_owner(found, entry)
        target = os.readlink(entry)
        if os.path.isabs(target):
            place = os.sep
        left += _names(target, names_file)
    return place


def _names(path: str, is_file: bool) -> list[tuple[str, bool]]:
    names = [(name, False) for name in path.split(os.sep) if name not in ("", os.curdir)]
    if names:
        names[-1] = names[-1][0], is_file
    return names[::-1]


def _check(path: str, may_be_sticky: bool) -> None:
    found = os.stat(path)
    _check_owner(found, path)
    if may_be_sticky and found.st_mode & stat.S_ISVTX:
        return
    by_others = found.st_mode & stat.S_IWOTH
    if by_others or (found.st_mode & stat.S_IWGRP and found.st_gid not in _own_groups()):
        mode = stat.S_IMODE(found.st_mode)
        raise PermissionError(errno.EPERM, f"others can write it (mode {mode:04o})", path)


def _check_owner(found: os.stat_result, path: str) -> None:
    if found.st_uid not in (0, os.geteuid()):
        raise PermissionError(errno.EPERM, f"belongs to user {found.st_uid}", path)


def _own_groups() -> set[int]:
    own = {0, os.getegid()}
    if sys.version_info >= (3, 11):
        own.update(os.getgroups())
    else:
        # os.getgroups() needs 256 KiB of stack there, which is all that the stack of a thread may have.
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"Groups:"):
                    own.update(map(int, line.split()[1:]))
    return own
