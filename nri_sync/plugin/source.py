"""Who a plugin is, and where its connections come from."""

from __future__ import annotations

import errno
import os
import socket
import sys
from typing import Callable

from nri_sync import api
from nri_sync.deadline import Deadline
from nri_sync.errors import IdentityError
from nri_sync.net import sockets

__all__ = ["Dialer", "Source", "identify"]

#: Connects to the socket path that it is given.
Dialer = Callable[[str], socket.socket]


def identify(name: str | None, idx: str | int | None) -> api.PluginId:
    """The plugin's index and name: from the arguments, the environment, or the program's file name.

    What is given explicitly wins. An index that is nowhere else is taken from a file name of the form
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
        socket_path: str | None,
    ) -> None:
        """Raises IdentityError when the connection that was given or inherited cannot be used."""
        self.path = socket_path or api.DEFAULT_SOCKET_PATH
        self._dialer = dialer
        self._once: socket.socket | None = None
        # Why there is no second connection, where there is none.
        self._spent = ""
        if connection is not None:
            if connection.fileno() < 0:
                raise IdentityError("the connection that was given is closed")
            self._once = connection
            if dialer is None and socket_path is None:
                self._spent = (
                    "the connection given to the stub has been used up; "
                    "to start again, pass dialer= or socket_path= as well"
                )
        elif os.environ.get(api.ENV_PLUGIN_SOCKET):
            self._once = _inherited(os.environ[api.ENV_PLUGIN_SOCKET])
            # The number means nothing any more, to this process and to those that it starts.
            del os.environ[api.ENV_PLUGIN_SOCKET]
            self._spent = (
                "the runtime launched this plugin with one connection, which has ended; "
                "exit, and let the runtime launch it again"
            )

    def describe(self) -> str:
        """For messages: the other end of the next connection."""
        if self._once is not None:
            return "the connection that was given"
        return self.path

    def open(self, deadline: Deadline) -> socket.socket:
        """A new connection. Blocks until it is made, at most until the deadline (a dialer sees to itself).

        Raises:
            OSError: it cannot be made; the text says what to do.
            TimeoutError: the deadline passed.
        """
        once, self._once = self._once, None
        if once is not None:
            return once
        if self._spent:
            raise OSError(errno.ENOTCONN, self._spent)
        if self._dialer is not None:
            sock = self._dialer(self.path)
            if not isinstance(sock, socket.socket):
                raise TypeError(
                    f"the dialer returned {type(sock).__name__}, not a connected socket"
                )
            return sock
        try:
            return sockets.connect(self.path, deadline)
        except TimeoutError:
            raise
        except OSError as error:
            raise type(error)(
                error.errno, f"{error.strerror}: {_advice(error)}", self.path
            ) from error


def _advice(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "is the runtime running, with NRI enabled, and is this its nri socket path?"
    if isinstance(error, PermissionError):
        return "the socket belongs to root as a rule; run the plugin as a user that may use it"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens on it; the runtime has stopped, or made a new socket elsewhere"
    if error.errno == errno.EPROTOTYPE:
        return "this is a socket of another type"
    return "cannot connect to it"


def _inherited(text: str) -> socket.socket:
    what = f"{api.ENV_PLUGIN_SOCKET}={text}"
    try:
        fd = int(text, 10)
    except ValueError:
        raise IdentityError(f"{what} is not the number of a file descriptor") from None
    try:
        return sockets.adopt(fd)
    except OSError as error:
        if error.errno == errno.EBADF:
            raise IdentityError(f"{what} is not an open file descriptor") from None
        raise IdentityError(f"{what} is not a connected unix socket: {error.strerror}") from None
