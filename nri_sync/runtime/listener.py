"""The socket that plugins connect to."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Callable

from nri_sync.deadline import Deadline
from nri_sync.errors import StartError
from nri_sync.logger import get_logger
from nri_sync.net import sockets
from nri_sync.threads import Latch, spawn

__all__ = ["Listener"]

logger = get_logger("nri_sync.runtime")

# How long to wait where accepting fails for want of descriptors or memory. Seconds.
_BREATHER = 0.1


class Listener:
    """Listens on a path, from the start on, and hands on each connection. Thread-safe."""

    def __init__(self, path: str, arrived: Callable[[socket.socket], object]) -> None:
        """``arrived(sock)`` is called on one thread, must not block for long, and owns the socket.

        Makes the directory, if need be with those above it, for nobody but this user: who may enter it decides
        who may connect. Takes the place of a socket that nobody listens on any more.

        Raises:
            StartError: this is not possible, or somebody else listens there.
        """
        self._path = path
        self._arrived = arrived
        self._closing = Latch()
        self._closed = Latch()
        try:
            _make_directories(os.path.dirname(path))
            self._socket = sockets.listen(path)
        except OSError as error:
            text = f"cannot listen for plugins on {path}: {error.strerror or error}"
            raise StartError(text, phase="listen") from error
        try:
            self._bound = _identity(path)
            spawn("nri-accept", self._accept)
        except BaseException:
            self._socket.close()
            raise

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                sock, _ = self._socket.accept()
            except OSError as error:
                if not self._closing.is_set():
                    logger.warning("cannot accept a connection: %s", error)
                    self._closing.wait(Deadline(_BREATHER))
                continue
            self._arrived(sock)
        self._socket.close()
        self._closed.set()

    def close(self) -> None:
        """Let nobody connect any more, and remove the socket. Returns at once; idempotent."""
        if self._closing.is_set():
            return
        self._closing.set()
        # Another runtime may listen there by now.
        with contextlib.suppress(OSError):
            if _identity(self._path) == self._bound:
                os.unlink(self._path)
        # Has accept() return.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Block until nothing arrives any more, and the descriptor is closed; False after ``timeout`` seconds."""
        return self._closed.wait(Deadline(timeout))


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _make_directories(path: str) -> None:
    """Unlike os.makedirs(), which makes only the last one that private."""
    if not path or os.path.isdir(path):
        return
    _make_directories(os.path.dirname(path))
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
