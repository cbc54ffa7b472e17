"""The socket that plugins connect to."""

from __future__ import annotations

import os
import socket
from typing import Callable

from nri_sync import fork
from nri_sync.deadline import Deadline
from nri_sync.errors import StartError
from nri_sync.files import check_directory
from nri_sync.logger import get_logger
from nri_sync.net import sockets
from nri_sync.threads import Latch, spawn

__all__ = ["Listener"]

logger = get_logger("nri_sync.runtime")


class Listener:
    """Listens on a path, and passes each connection to a callback. Thread-safe."""

    def __init__(
        self, path: str, on_connect: Callable[[socket.socket], object], *, retry_delay: float = 0.1
    ) -> None:
        """Listen.

        ``retry_delay`` is the time in seconds to wait after accept() has failed for lack of descriptors or memory.

        ``on_connect(sock)`` always runs on the same thread; it must not block long, and owns the socket.

        Makes the directory and its missing parents with mode 0700, and the socket with mode 0600, because a plugin
        that connects has the runtime's power over all containers. Replaces a stale socket. Warns where other users
        can replace the socket, and with it the runtime that plugins connect to.

        Raises:
            StartError: the socket cannot be made, or another process listens on the path.
        """
        self._on_connect = on_connect
        self._retry_delay = retry_delay
        self._closing = Latch()
        self._closed = Latch()
        try:
            sockets.make_directories(os.path.dirname(path))
            self._socket = sockets.listen(path)
        except OSError as error:
            text = f"cannot listen for plugins on {path}: {error.strerror or error}"
            raise StartError(text, phase="listen") from error
        _warn_of_writers(path)
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
                    self._closing.wait(Deadline(self._retry_delay))
                continue
            self._on_connect(sock)
        self._socket.close()
        self._closed.set()

    def _after_fork_in_child(self) -> None:
        # The parent process continues to listen on its socket. The child closes its own descriptor only.
        self._closing.set()
        self._socket.close()
        self._closed.set()

    def close(self) -> None:
        """Stop accepting connections, and remove the socket file. Returns at once; idempotent."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._socket.stop()

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Block until the callback gets no more connections and the descriptor is closed.

        Returns False after ``timeout`` seconds.
        """
        return self._closed.wait(Deadline(timeout))


def _warn_of_writers(path: str) -> None:
    if path.startswith("\0"):
        return
    try:
        check_directory(os.path.dirname(path) or ".")
    except OSError as error:
        logger.warning(
            "other users can replace the socket %s: %s; keep it in a directory that only this user can write",
            path, error,
        )  # fmt: skip
