"""The identity of a plugin, and the source of its connections."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from typing import Callable

from nri_sync import api
from nri_sync.deadline import Deadline
from nri_sync.errors import ConnectionSpent, IdentityError
from nri_sync.net import sockets

__all__ = ["REFUSED", "Dialer", "Source", "identify"]

#: Why a connection fails while no process listens at a path.
REFUSED = (ConnectionRefusedError, FileNotFoundError)

# While the runtime accepts no connections, how often to look whether one is still wanted.
_SLICE = 0.05

#: Connects to the socket path that it is given.
Dialer = Callable[[str], socket.socket]


def identify(name: str | None, idx: str | int | None) -> api.PluginId:
    """The plugin's index and name: from the arguments, the environment, or the program's file name.

    Arguments win. An index that is nowhere else is taken from a file name of the form
    ``NN-name``, and so is the name then; with an index, the whole file name is the name.

    Raises:
        IdentityError: there is no index or no name, or not one that a runtime accepts.
    """
    index = f"{idx:02d}" if isinstance(idx, int) else idx
    name = name if name is not None else os.environ.get(api.ENV_PLUGIN_NAME) or None
    index = index if index is not None else os.environ.get(api.ENV_PLUGIN_IDX) or None
    program = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
    try:
        if index is None:
            try:
                parsed = api.parse_file_name(program)
            except ValueError as error:
                raise IdentityError(
                    f"the plugin has no index: pass idx=, set {api.ENV_PLUGIN_IDX}, or name the "
                    f"program NN-name ({error})"
                ) from None
            index = parsed.idx
            name = name if name is not None else parsed.name
        elif name is None:
            name = program
        return api.PluginId(api.check_index(index), api.check_name(name))
    except (ValueError, TypeError) as error:
        if isinstance(error, IdentityError):
            raise
        raise IdentityError(
            f"{error}; the runtime would refuse it: pass name= and idx=, or set "
            f"{api.ENV_PLUGIN_NAME} and {api.ENV_PLUGIN_IDX}"
        ) from None


class Source:
    """Makes the connection of each session.

    A connection that was given, or inherited from the runtime that launched the plugin, serves one session;
    otherwise the dialer, or the socket path, is used for each.
    """

    def __init__(
        self,
        connection: socket.socket | None,
        dialer: Dialer | None,
        socket_path: str | os.PathLike[str] | None,
    ) -> None:
        """Raises IdentityError, or TypeError, when the given or inherited connection cannot be used."""
        self.path = os.fspath(socket_path or api.DEFAULT_SOCKET_PATH)
        self._dialer = dialer
        # The connection that serves once. A list, for a pop() that only one of two threads can win: the thread of
        # a start that was stopped may still be dialling.
        self._once: list[socket.socket] = []
        # The connections that watch() has made.
        self._watched: list[socket.socket] = []
        # Why there is no second connection, where there is none.
        self._spent = ""
        if connection is not None:
            _check_given(connection)
            self._once.append(connection)
            if dialer is None and socket_path is None:
                self._spent = (
                    "the connection given to the stub has been used up; "
                    "to start again, pass dialer= or socket_path= as well"
                )
        elif os.environ.get(api.ENV_PLUGIN_SOCKET):
            self._once.append(_inherited(os.environ[api.ENV_PLUGIN_SOCKET]))
            # The number means nothing any more, to this process and to those that it starts.
            del os.environ[api.ENV_PLUGIN_SOCKET]
            self._spent = (
                "the runtime launched this plugin with one connection, which has ended; "
                "exit, and let the runtime launch it again"
            )

    def describe(self) -> str:
        """For messages: the other end of the next connection."""
        if self._once:
            return "the connection that was given"
        return self.path

    @property
    def file(self) -> tuple[int, int, int] | None:
        """Which file is at the socket path now; None: no file, or there is a dialer.

        A runtime that starts makes a new one. The time is that of the content, which chmod, chown and rename keep.
        """
        if self._dialer is None:
            with contextlib.suppress(OSError):
                found = os.stat(self.path)
                return found.st_dev, found.st_ino, found.st_mtime_ns
        return None

    def watch(self) -> bool:
        """Whether an attempt to connect has a point: False while no process listens. Does not block.

        The connection is kept for the next :meth:`open`: a runtime logs one that is closed at once as a failure.
        """
        try:
            self._watched.append(self._connect(Deadline(0.0), lambda: True))
        except REFUSED:
            return False
        except Exception:
            pass  # the attempt will raise and explain it
        return True

    def forget(self) -> None:
        """Close the connections that :meth:`watch` has kept. A connection that was given stays."""
        while self._watched:
            with contextlib.suppress(IndexError):
                self._watched.pop().close()

    def open(self, deadline: Deadline, unwanted: Callable[[], bool]) -> socket.socket:
        """A new connection. Blocks until it is made, at most until the deadline, or until a moment after
        ``unwanted()`` became true (a dialer sees to itself).

        Raises:
            ConnectionSpent: there was one, which has been used.
            OSError: it cannot be made.
            TimeoutError: the deadline passed.
        """
        try:
            return self._once.pop()
        except IndexError:
            pass
        if self._spent:
            raise ConnectionSpent(self._spent, phase="dial")
        with contextlib.suppress(IndexError):
            return self._watched.pop()
        return self._connect(deadline, unwanted)

    def explain(self, error: BaseException) -> str:
        """Why :meth:`open` failed with ``error``, and the remedy."""
        reason = (isinstance(error, OSError) and error.strerror) or str(error) or repr(error)
        if self._dialer is not None:
            return f"the dialer failed for {self.path}: {type(error).__name__}: {reason}"
        advice = _advice(error)
        return f"{self.path}: {reason}" + (f"; {advice}" if advice else "")

    def _connect(self, deadline: Deadline, unwanted: Callable[[], bool]) -> socket.socket:
        if self._dialer is not None:
            sock = self._dialer(self.path)
            if not isinstance(sock, socket.socket):
                raise TypeError(
                    f"the dialer returned {type(sock).__name__}, not a connected socket"
                )
            return sock
        while True:
            remaining = deadline.remaining()
            part = _SLICE if remaining is None else min(remaining, _SLICE)
            try:
                return sockets.connect(self.path, Deadline(part))
            except TimeoutError:
                if deadline.expired or unwanted():
                    raise


def _advice(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "is the runtime running, with NRI enabled, and is this its nri socket path?"
    if isinstance(error, PermissionError):
        return "the socket belongs to root as a rule; run the plugin as a user that may use it"
    if isinstance(error, ConnectionRefusedError):
        return "no process listens there: the runtime has stopped, or this is not a socket"
    if isinstance(error, OSError) and error.errno == errno.EPROTOTYPE:
        return "this is a socket of another type, not that of a runtime"
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return "this process has run out of file descriptors, see ulimit -n"
    return ""


def _check_given(connection: socket.socket) -> None:
    if not isinstance(connection, socket.socket):
        raise TypeError(f"connection must be a socket, not {type(connection).__name__}")
    if connection.fileno() < 0:
        raise IdentityError("the connection that was given is closed")
    if connection.type != socket.SOCK_STREAM:
        raise IdentityError(f"the connection that was given is {connection.type!r}, no stream")
    try:
        connection.getpeername()
    except OSError as error:
        raise IdentityError(
            f"the connection that was given is not connected: {error.strerror}"
        ) from None


def _inherited(text: str) -> socket.socket:
    what = f"{api.ENV_PLUGIN_SOCKET}={text}"
    try:
        fd = int(text, 10)
    except ValueError:
        raise IdentityError(f"{what} is not the number of a file descriptor") from None
    try:
        return sockets.adopt(fd)
    except OverflowError:
        raise IdentityError(f"{what} is not an open file descriptor") from None
    except OSError as error:
        if error.errno == errno.EBADF:
            raise IdentityError(f"{what} is not an open file descriptor") from None
        raise IdentityError(f"{what} is not a connected unix socket: {error.strerror}") from None
