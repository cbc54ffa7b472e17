"""Unix stream sockets: connect, listen, take over an inherited descriptor, ask for the peer's process.

The one place that binds a path: stale sockets, modes, and removing the file are the same for all that listen.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

from nri_sync.deadline import Deadline
from nri_sync.files import hold_standard_descriptors
from nri_sync.threads import Latch

__all__ = [
    "BIND_WAIT",
    "ListeningSocket",
    "PeerCredentials",
    "adopt",
    "connect",
    "is_held",
    "listen",
    "make_directories",
    "parse_target",
    "peer_credentials",
]

# While the listener's backlog is full, a connect fails at once and there is nothing to wait on.
_BACKLOG_RETRY = 0.005
# How long listen() waits for another process that binds in the same directory, and how often it looks. Seconds.
BIND_WAIT = 1.0
_BIND_RETRY = 0.002


class PeerCredentials(NamedTuple):
    """The process at the other end, as the kernel saw it when the connection was made."""

    pid: int
    uid: int
    gid: int


def parse_target(target: str | os.PathLike[str]) -> str:
    """The socket address of a gRPC target: ``unix:path``, ``unix:///absolute/path``, ``unix-abstract:name``.

    A plain absolute path is taken as it is. Abstract addresses come back with a leading NUL, as the
    ``socket`` module wants them.

    Raises:
        ValueError: the target is none of these; ttRPC runs over unix sockets only.
    """
    target = os.fspath(target)
    if target.startswith("unix:"):
        path = target[len("unix:") :]
        if path.startswith("//"):
            path = path[2:]
            if not path.startswith("/"):
                raise ValueError(f"target {target!r}: the path after unix:// must be absolute")
    elif target.startswith("unix-abstract:"):
        path = "\0" + target[len("unix-abstract:") :]
    elif target.startswith("/"):
        path = target
    else:
        raise ValueError(
            f"target {target!r} is not a unix socket: use unix:///path, unix:path or unix-abstract:name"
        )
    if path in ("", "\0"):
        raise ValueError(f"target {target!r} has an empty path")
    return path


def connect(path: str, deadline: Deadline) -> socket.socket:
    """Connect to the stream socket at ``path``; the socket returned is blocking.

    Blocks until connected, also while the listener's queue is full.

    Raises:
        TimeoutError: the deadline passed.
        OSError: as ``connect(2)`` says: FileNotFoundError, PermissionError, ConnectionRefusedError, ...
    """
    hold_standard_descriptors()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            error = sock.connect_ex(path)
            if error == 0:
                break
            if error not in (errno.EAGAIN, errno.EINTR):
                raise OSError(error, os.strerror(error), path)
            remaining = deadline.remaining()
            if remaining == 0.0:
                raise TimeoutError(f"{path}: the listener accepts no more connections")
            time.sleep(_BACKLOG_RETRY if remaining is None else min(_BACKLOG_RETRY, remaining))
        sock.setblocking(True)
    except BaseException:
        sock.close()
        raise
    return sock


class ListeningSocket(socket.socket):
    """A unix socket that listens, and the file by which clients reach it. Made by :func:`listen`.

    ``close()`` closes the descriptor only; :meth:`remove` and :meth:`stop` take the file away. Both may be called
    from any thread, any number of times. In a forked child they do nothing: the socket is still the parent's.
    """

    def __init__(self, path: str) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self.path = path
        self._pid = os.getpid()
        # Device and inode of the file, to be removed by the one thread that pops them: list.pop() is atomic. Empty
        # for an abstract address, which has no file.
        self._files: list[tuple[int, int]] = []
        # Not set from bind() until the file is removed.
        self._removed = Latch()
        self._removed.set()

    def _bind(self, mode: int) -> None:
        # Linux gives the file the mode of the descriptor, less the umask: there is no moment at which the file has
        # more permissions than asked for. The umask itself belongs to the whole process and stays as it is.
        os.fchmod(self.fileno(), mode)
        self.bind(self.path)
        if self.path.startswith("\0"):
            return
        # Not by its path a second time: in a directory that others may write, that could be another file by now.
        file = os.open(self.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(file)
            if stat.S_ISSOCK(found.st_mode):
                self._removed = Latch()
                self._files.append((found.st_dev, found.st_ino))
                if stat.S_IMODE(found.st_mode) != mode:
                    os.chmod(f"/proc/self/fd/{file}", mode)
        finally:
            os.close(file)

    def remove(self) -> None:
        """Remove the file, unless another socket has taken its place.

        To be called while the socket still listens: another process takes the path over only when a connection to
        it is refused.
        """
        if self._pid != os.getpid() or self.path.startswith("\0"):
            return
        try:
            file = self._files.pop()
        except IndexError:
            # Another thread removes the file. Until then this socket has to listen: a new one could take the path
            # otherwise, and the number of the inode with it, before that thread unlinks the path.
            self._removed.wait(Deadline(BIND_WAIT))
            return
        try:
            if _identity(self.path) == file:
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
        finally:
            self._removed.set()

    def stop(self) -> None:
        """:meth:`remove` the file, and have ``accept()`` in other threads raise OSError."""
        if self._pid == os.getpid():
            self.remove()
            with contextlib.suppress(OSError):
                self.shutdown(socket.SHUT_RDWR)


def listen(path: str, backlog: int = 128, *, mode: int = 0o600) -> ListeningSocket:
    """Listen on ``path``, in place of a stale socket whose listener is gone.

    ``mode`` is the mode of the file from the first moment on, under any umask; a client needs the permission
    to write. Processes that call this at the same time take turns: one of them listens, and the others fail.

    Raises:
        OSError: EADDRINUSE where another socket listens, or the file is not a socket.
    """
    hold_standard_descriptors()
    sock = ListeningSocket(path)
    try:
        with _turn(path):
            _take(sock, mode)
            sock.listen(backlog)
    except BaseException:
        sock.remove()
        sock.close()
        raise
    return sock


def _take(sock: ListeningSocket, mode: int) -> None:
    path = sock.path
    try:
        sock._bind(mode)
    except OSError as error:
        if error.errno is None:
            raise  # the path is too long
        if error.errno != errno.EADDRINUSE or not _is_stale(path):
            raise OSError(error.errno, os.strerror(error.errno), path) from None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        sock._bind(mode)


@contextlib.contextmanager
def _turn(path: str) -> Iterator[None]:
    """Keep other processes that use this module from taking the same path meanwhile.

    A socket between bind() and listen() looks like a stale one. The lock is that of the directory, which leaves no
    file behind. Another program may hold it for its own purposes: the wait for it is short, and then goes without.
    """
    if path.startswith("\0"):
        yield
        return
    directory = -1
    try:
        with contextlib.suppress(OSError):
            directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
            deadline = Deadline(BIND_WAIT)
            while not is_held(directory) and not deadline.expired:
                time.sleep(_BIND_RETRY)
        yield
    finally:
        if directory >= 0:
            with contextlib.suppress(OSError):
                # Explicitly: a child that was forked meanwhile has the descriptor, too.
                fcntl.flock(directory, fcntl.LOCK_UN)
            os.close(directory)


def is_held(directory: int) -> bool:
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_stale(path: str) -> bool:
    if path.startswith("\0"):
        return False
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
    except FileNotFoundError:
        return True  # gone meanwhile
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) in (errno.ECONNREFUSED, errno.ENOENT)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def make_directories(path: str) -> None:
    """Make the directory ``path`` with those above it, each with mode 0700.

    Unlike ``os.makedirs()``, which gives that mode to the last one only. Directories that exist stay as they are.

    Raises:
        OSError: as ``mkdir(2)`` says.
    """
    if not path or os.path.isdir(path):
        return
    make_directories(os.path.dirname(path))
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)


def adopt(fd: int) -> socket.socket:
    """Take over the connected stream socket with descriptor ``fd``, inherited from a parent process.

    The socket owns the descriptor from then on, and does not hand it on to child processes.

    Raises:
        OSError: EBADF or ENOTSOCK, EPROTOTYPE for a socket that is not a unix stream socket, or ENOTCONN. The
            descriptor still belongs to the caller.
    """
    if fd < 0:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    mode = os.fstat(fd).st_mode
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
    sock = socket.socket(fileno=fd)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise OSError(errno.EPROTOTYPE, "not a unix stream socket")
    try:
        sock.getpeername()
    except OSError:
        sock.detach()
        raise
    sock.set_inheritable(False)
    sock.setblocking(True)
    return sock


def peer_credentials(sock: socket.socket) -> PeerCredentials | None:
    """The process that connected, or ``None`` where the system does not know."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:
        return None
    return PeerCredentials(*struct.unpack("3i", raw))
