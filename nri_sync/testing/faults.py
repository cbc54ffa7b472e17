"""A proxy between a plugin and a runtime that breaks their connection in one chosen way, at one chosen byte.

The proxy does not parse NRI: a fault strikes at an offset of the bytes that one side sends. Tests that try every
offset of a short session therefore reach each state of the protocol, on both sides.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections import deque

from nri_sync.deadline import Deadline
from nri_sync.errors import NoThread
from nri_sync.net.sockets import ListeningSocket, connect, listen
from nri_sync.testing.common import socket_directory
from nri_sync.testing.faulty_connection import FAULT_KINDS, SENDERS, Fault, FaultyConnection
from nri_sync.threads import Latch, spawn

__all__ = ["FAULT_KINDS", "SENDERS", "Fault", "FaultProxy", "FaultyConnection"]

# Time limit for connecting to the runtime, in seconds.
_DIAL = 5.0
# Seconds between two attempts to accept a connection while the process has no free descriptor.
_RETRY = 0.05


class FaultProxy:
    """Listens for plugins and connects each one to the runtime. A context manager.

    The proxy forwards a connection unchanged, in both directions, unless :meth:`inject` has prepared faults for
    it. When one side ends its stream, the proxy ends the other side's. Each connection has two threads, which end
    with the connection. Any thread may call the methods.
    """

    def __init__(
        self,
        runtime_path: str | os.PathLike[str],
        socket_path: str | os.PathLike[str] | None = None,
    ) -> None:
        """Starts nothing.

        Args:
            runtime_path: the socket of the runtime. While it does not exist, the proxy disconnects plugins at
            once. socket_path: the socket for plugins; default is in a new directory with a short path.
        """
        self.runtime_path = os.fspath(runtime_path)
        self._path = os.fspath(socket_path or "")
        self._resources = contextlib.ExitStack()
        self._listener: ListeningSocket | None = None
        self._accepting: Latch | None = None
        self._prepared: deque[FaultyConnection] = deque()
        # Guards the flag and the set of open connections.
        self._lock = threading.Lock()
        self._closed = False
        self._open: set[FaultyConnection] = set()

    def start(self) -> None:
        """Listen. Call it once.

        Raises OSError if the path is unusable, NoThread if the system has no more threads.
        """
        if not self._path:
            self._path = self._resources.enter_context(socket_directory()) + "/nri.sock"
        try:
            self._listener = listen(self._path)
            self._accepting = spawn("nri-faults", self._accept, self._listener)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cut all connections and remove the socket. Blocks until the proxy's threads have ended. Idempotent."""
        with self._lock:
            self._closed = True
        if self._listener is not None:
            self._listener.stop()
            if self._accepting is not None:
                self._accepting.wait()
            self._listener.close()
        with self._lock:
            still_open = list(self._open)
        for connection in still_open:
            connection.cut()
            connection.wait_closed(None)
        self._resources.close()

    def __enter__(self) -> FaultProxy:
        self.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    @property
    def socket_path(self) -> str:
        """The socket for plugins; it exists after :meth:`start`."""
        return self._path

    @property
    def connections(self) -> int:
        """The number of connections that have not ended."""
        return len(self._open)

    def inject(self, *faults: Fault) -> FaultyConnection:
        """Prepare faults for the next connection without prepared faults. Returns that connection, to watch it.

        Several calls prepare several connections, in the same order.
        """
        connection = FaultyConnection(faults)
        self._prepared.append(connection)
        return connection

    def forget(self, connection: FaultyConnection) -> None:
        """Undo :meth:`inject`. It has no effect on a connection that has begun."""
        with contextlib.suppress(ValueError):
            self._prepared.remove(connection)

    def cut(self) -> None:
        """Cut all connections that are open now."""
        with self._lock:
            still_open = list(self._open)
        for connection in still_open:
            connection.cut()

    def _accept(self, listener: ListeningSocket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                if self._closed:
                    return
                time.sleep(_RETRY)  # no free descriptor: the plugin waits in the listener's queue
                continue
            try:
                connection = self._prepared.popleft()
            except IndexError:
                connection = FaultyConnection(())
            with self._lock:
                closed = self._closed
                if not closed:
                    self._open.add(connection)
            if closed:
                sock.close()
                return
            try:
                spawn("nri-faults-to-runtime", self._serve, connection, sock)
            except NoThread:
                self._end(connection, sock)

    def _serve(self, connection: FaultyConnection, plugin: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError):
                runtime = connect(self.runtime_path, Deadline(_DIAL))
                with runtime:
                    connection.run(plugin, runtime)
        finally:
            self._end(connection, plugin)

    def _end(self, connection: FaultyConnection, plugin: socket.socket) -> None:
        plugin.close()
        with self._lock:
            self._open.discard(connection)
        connection.end()
