"""Unix stream sockets: connect, listen, take over an inherited descriptor, ask who the peer is."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
import time
from typing import NamedTuple

from nri_sync.deadline import Deadline

__all__ = ["PeerCredentials", "adopt", "connect", "listen", "parse_target", "peer_credentials"]

# While the listener's backlog is full, a connect fails at once and there is nothing to wait on.
_BACKLOG_RETRY = 0.005


class PeerCredentials(NamedTuple):
    """Who is at the other end, as the kernel saw it when the connection was made."""

    pid: int
    uid: int
    gid: int


def parse_target(target: str) -> str:
    """The socket address of a gRPC target: ``unix:path``, ``unix:///absolute/path``, ``unix-abstract:name``.

    A plain absolute path is taken as it is. Abstract addresses come back with a leading NUL, as the
    ``socket`` module wants them.

    Raises:
        ValueError: the target is none of these; ttRPC runs over unix sockets only.
    """
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


def listen(path: str, backlog: int = 128) -> socket.socket:
    """Listen on ``path``, in place of a stale socket that nobody listens on any more.

    Raises:
        OSError: EADDRINUSE where somebody listens, or a file that is no socket is in the way.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno is None:
                raise  # the path is too long
            if error.errno != errno.EADDRINUSE or not _is_stale(path):
                raise OSError(error.errno, os.strerror(error.errno), path) from None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            sock.bind(path)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


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
    """The process that connected, or ``None`` where the system does not tell."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:
        return None
    return PeerCredentials(*struct.unpack("3i", raw))
