"""A ``grpc.Server`` that speaks ttRPC on unix sockets."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import grpc

from nri_sync import fork
from nri_sync.codes import StatusCode
from nri_sync.deadline import Deadline
from nri_sync.errors import NoThread, NRIError
from nri_sync.logger import get_logger
from nri_sync.net import sockets
from nri_sync.patched import check_unpatched
from nri_sync.rpc.status import Status
from nri_sync.threads import Latch, signal_safe, spawn
from nri_sync.ttrpc.connection import ServerConnection
from nri_sync.ttrpc.router import Router

__all__ = ["ACCEPT_PAUSE", "Server"]

logger = get_logger("nri_sync.ttrpc")

# When the process is out of descriptors, accepting again at once would only spin.
ACCEPT_PAUSE = 0.1

_STOPPING = Status(StatusCode.UNAVAILABLE, "the server is stopping")
_TOO_MANY = Status(StatusCode.RESOURCE_EXHAUSTED, "the maximum of concurrent calls is reached")


class Server(grpc.Server):
    """Serves ttRPC on any number of unix sockets. Thread-safe.

    Every connection has its own few threads, which serve its calls; a call that blocks occupies one.
    """

    def __init__(
        self,
        *,
        handlers: Sequence[grpc.GenericRpcHandler] = (),
        interceptors: Sequence[Any] = (),
        maximum_concurrent_rpcs: int | None = None,
        max_threads_per_connection: int = 64,
        socket_mode: int = 0o600,
    ) -> None:
        """``interceptors`` are ``grpc.ServerInterceptor``; the first is the outermost.

        Calls beyond ``maximum_concurrent_rpcs``, over all connections, fail with RESOURCE_EXHAUSTED. Calls
        beyond the threads of a connection wait for one, up to a bound, and fail the same way after it.

        ``socket_mode`` is the mode of each socket's file from the first moment on, with any umask. The
        default lets only this user connect.
        """
        check_unpatched("a ttRPC server")
        self._router = Router(interceptors)
        self._router.add_generic_rpc_handlers(handlers)
        self._maximum = maximum_concurrent_rpcs
        self._max_threads = max_threads_per_connection
        self._socket_mode = socket_mode
        # Guards all below. Not held while blocking.
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._listeners: dict[str, sockets.ListeningSocket] = {}
        self._connections: set[ServerConnection] = set()
        self._running = 0
        self._started = False
        self._stopping = False
        self._terminated = Latch()
        self._stopped = threading.Event()
        fork.in_child(self._after_fork_in_child)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        self._router.add_generic_rpc_handlers(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        self._router.add_registered_method_handlers(service_name, method_handlers)

    @signal_safe
    def add_insecure_port(self, address: str | os.PathLike[str]) -> int:
        """Listen on ``unix:///path`` or an absolute path; connections wait until the server starts. Returns 1.

        Raises:
            ValueError: the address is not a unix socket.
            RuntimeError: it cannot be listened on; the OSError, or NoThread, is its cause.
        """
        path = sockets.parse_target(address)
        try:
            listener = sockets.listen(path, mode=self._socket_mode)
        except OSError as error:
            raise RuntimeError(f"cannot listen on {address}: {error}") from error
        with self._lock:
            started, stopping = self._started, self._stopping
            if not stopping:
                self._listeners[path] = listener
        if stopping:
            listener.stop()
            listener.close()
            raise RuntimeError(f"cannot listen on {address}: the server is stopped")
        if started:
            try:
                self._accept_on(path, listener)
            except NoThread as error:
                with self._lock:
                    self._listeners.pop(path, None)
                listener.stop()
                listener.close()
                raise RuntimeError(f"cannot listen on {address}: {error}") from error
        return 1

    def add_secure_port(self, address: str, server_credentials: Any) -> int:
        """Raises ValueError: ttRPC has no transport security."""
        raise ValueError("ttRPC has no transport security; use add_insecure_port")

    @signal_safe
    def start(self) -> None:
        """Begin to accept connections. Returns at once.

        Raises:
            ValueError: it was started or stopped before.
            NoThread: the system has no more threads. The server is stopped.
        """
        with self._lock:
            if self._started or self._stopping:
                raise ValueError("a server can be started once only, by the process that made it")
            self._started = True
            listeners = list(self._listeners.items())
        waiting = dict(listeners)
        try:
            for path, listener in listeners:
                self._accept_on(path, listener)
                del waiting[path]
        except NoThread:
            self.stop(None)
            for listener in waiting.values():
                listener.close()
            raise

    def _accept_on(self, path: str, listener: socket.socket) -> None:
        spawn(f"ttrpc-accept-{os.path.basename(path)}", self._accept, path, listener)

    def _accept(self, path: str, listener: socket.socket) -> None:
        # Closed here, and only shut down elsewhere: never under the hands of accept().
        with listener:
            while not self._stopping:
                try:
                    sock, _ = listener.accept()
                    self._serve(path, sock)
                except (OSError, RuntimeError) as error:
                    if not self._stopping:
                        logger.error("cannot accept on %s: %s", path, error)
                        time.sleep(ACCEPT_PAUSE)

    def _serve(self, path: str, sock: socket.socket) -> None:
        name = f"ttrpc-{os.path.basename(path)}"
        try:
            connection = ServerConnection(
                sock,
                self._router,
                name=name,
                peer=f"unix:{path}",
                max_threads=self._max_threads,
                admit=self._admit,
                done=self._done,
                lost=self._lost,
            )
        except BaseException:
            sock.close()
            raise
        with self._lock:
            stopping = self._stopping
            if not stopping:
                self._connections.add(connection)
        try:
            if not stopping:
                spawn(name, connection.link.run)
                return
        except BaseException:
            self._lost(connection, None)
            connection.link.abandon()
            raise
        connection.link.abandon()

    def _admit(self) -> Status | None:
        with self._lock:
            if self._stopping:
                return _STOPPING
            if self._maximum is not None and self._running >= self._maximum:
                return _TOO_MANY
            self._running += 1
            return None

    def _done(self) -> None:
        with self._lock:
            self._running -= 1
            if not self._running:
                self._idle.notify_all()

    def _lost(self, connection: ServerConnection, cause: NRIError | None) -> None:
        with self._lock:
            self._connections.discard(connection)
            self._idle.notify_all()

    @signal_safe
    def stop(self, grace: float | None) -> threading.Event:
        """Stop accepting and end all connections; those with calls in flight after ``grace`` seconds.

        New calls on existing connections are refused meanwhile. Does not wait for handlers longer than
        that, and returns at once: the event returned is set when all connections are closed. Where the system has
        no thread to wait on, it blocks until then. Idempotent.
        """
        with self._lock:
            again, self._stopping = self._stopping, True
            started = self._started
            listeners = list(self._listeners.values())
        if not again:
            for listener in listeners:
                listener.stop()
                if not started:
                    listener.close()
        if not self._stopped.is_set():
            try:
                spawn("ttrpc-server-stop", self._end_connections, grace)
            except NoThread:
                self._end_connections(grace)
        return self._stopped

    def _end_connections(self, grace: float | None) -> None:
        deadline = Deadline(grace or 0.0)
        with self._lock:
            self._idle.wait_for(lambda: not self._running, deadline.remaining())
            connections = list(self._connections)
        if not deadline.expired:
            # So that the last answers are not lost: see Link.drain().
            for connection in connections:
                connection.link.drain(deadline, linger=connection is connections[-1])
        for connection in connections:
            connection.close()
        with self._lock:
            self._idle.wait_for(lambda: not self._connections)
        self._terminated.set()
        self._stopped.set()

    def _after_fork_in_child(self) -> None:
        # Sockets and connections are the parent's, which serves them. A server that has neither can be used.
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._connections.clear()
        self._running = 0
        listeners, self._listeners = self._listeners, {}
        for listener in listeners.values():
            listener.close()
        self._stopped = threading.Event()
        self._stopping = self._stopping or self._started or bool(listeners)
        if self._stopping:
            self._terminated.set()
            self._stopped.set()

    def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Block until the server has stopped. Returns True if ``timeout`` (seconds) passed before that."""
        return not self._terminated.wait(Deadline(timeout))
