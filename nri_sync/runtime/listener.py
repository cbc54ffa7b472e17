"""The socket that plugins connect to."""

from __future__ import annotations

import os
import socket
from typing import Callable

from nri_sync import fork
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

        Makes the directory, if need be with those above it, with mode 0700, and the socket with mode 0600: a
        plugin that connects has the runtime's power over all containers. Takes the place of a stale socket.

        Raises:
            StartError: this is not possible, or another process listens there.
        """
        self._arrived = arrived
        self._closing = Latch()
        self._closed = Latch()
        try:
            sockets.make_directories(os.path.dirname(path))
            self._socket = sockets.listen(path)
        except OSError as error:
            text = f"cannot listen for plugins on {path}: {error.strerror or error}"
            raise StartError(text, phase="listen") from error
        try:
            fork.in_child(self._after_fork_in_child)
            spawn("nri-accept", self._accept)
        except BaseException:
            self._socket.stop()
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

    def _after_fork_in_child(self) -> None:
        # The socket is the parent's, which goes on listening.
        self._closing.set()
        self._socket.close()
        self._closed.set()

    def close(self) -> None:
        """Accept no more connections, and remove the socket. Returns at once; idempotent."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._socket.stop()

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Block until nothing arrives any more, and the descriptor is closed; False after ``timeout`` seconds."""
        return self._closed.wait(Deadline(timeout))
