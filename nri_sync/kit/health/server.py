"""An HTTP endpoint for probes and Prometheus.

One thread accepts connections. Each connection has a thread, for a few seconds at most, whether the client ends or
not. The number of connections is bounded. So clients that are slow, silent or send garbage do not block a probe.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import socket
import threading
from collections.abc import Iterable

from nri_sync import fork
from nri_sync.deadline import Deadline
from nri_sync.kit.health.address import Address, parse_address, text_of
from nri_sync.kit.health.connections import Acceptor
from nri_sync.kit.health.health import Health
from nri_sync.logger import get_logger
from nri_sync.net import sockets
from nri_sync.threads import signal_safe, spawn

__all__ = ["HealthServer"]

logger = get_logger("nri_sync.kit.health")

# The seconds for which stop() waits. It wakes all threads, so they end soon.
_STOP = 5.0
_BACKLOG = 128


class HealthServer:
    """Serves the health of a plugin over HTTP: ``/livez``, ``/readyz``, ``/metrics``.

    ``start()`` and ``stop()`` may be called from any thread, any number of times. As a context manager:
    ``start()`` ... ``stop()``.
    """

    def __init__(
        self,
        health: Health,
        address: str | os.PathLike[str],
        *,
        timeout: float = 5.0,
        max_connections: int = 64,
        socket_mode: int = 0o600,
    ) -> None:
        """
        Args:
            address: ``"127.0.0.1:8080"``, ``"[::1]:8080"``, or ``"0.0.0.0:8080"`` for all interfaces; port 0 for
                any free port; or a unix socket: ``"unix:///path"``, or its path.
            timeout: the seconds that a connection may take in all.
            max_connections: the greatest number of connections, each with a thread. A further one closes the
                oldest.
            socket_mode: the mode of a unix socket's file for any umask. The default lets only this user connect.

        Raises ValueError for a text that is not an address.
        """
        if not timeout > 0 or max_connections < 1:
            raise ValueError(
                f"timeout ({timeout!r}) and max_connections ({max_connections!r}) must be positive"
            )
        self._health = health
        self._target = parse_address(address)
        self._timeout = timeout
        self._max_connections = max_connections
        self._socket_mode = socket_mode
        # Serialises calls of start().
        self._starting = threading.Lock()
        # The running acceptor, if any. dict.pop() is atomic: one thread stops the acceptor.
        self._acceptors: dict[None, Acceptor] = {}
        self._last: Acceptor | None = None
        fork.in_child(self._after_fork_in_child)

    def start(self) -> None:
        """Listen, and serve on new threads. Has no effect if the server runs already.

        An interrupted call is undone. Raises OSError, with the address in its text, if listening is impossible.
        """
        made: list[Acceptor] = []
        try:
            self._start(made)
            for acceptor in made:
                logger.info("serving probes and metrics on %s", text_of(acceptor.bound))
                if not _have_metrics():
                    logger.info(
                        "/metrics is not served; to serve it: pip install 'nri_sync[metrics]'"
                    )
        except BaseException:
            self._undo(made)
            raise

    @signal_safe
    def _start(self, made: list[Acceptor]) -> None:
        """Add a new acceptor to the list, unless one serves."""
        with self._starting:
            if self._acceptors:
                return
            if self._last is not None:
                self._last.ended.wait(Deadline(_STOP))  # until its port is free
            listener = _listen(self._target, self._socket_mode)
            acceptor = Acceptor(self._health, listener, self._timeout, self._max_connections)
            self._last = self._acceptors[None] = acceptor
            made.append(acceptor)
            try:
                spawn("nri-health", acceptor.run)
            except BaseException:
                self._acceptors.pop(None, None)
                acceptor.stop()
                acceptor.close()
                raise

    def stop(self) -> None:
        """Close the listener and all connections. Blocks until they are closed. Idempotent."""
        last = self._end()
        if last is not None:
            last.ended.wait(Deadline(_STOP))

    @signal_safe
    def _end(self) -> Acceptor | None:
        """Request the end of the threads. Returns the last acceptor."""
        acceptor = self._acceptors.pop(None, None)
        if acceptor is not None:
            acceptor.stop()
        return self._last

    def _undo(self, made: Iterable[Acceptor]) -> None:
        for acceptor in made:
            if self._acceptors.get(None) is acceptor:
                self.stop()

    def __enter__(self) -> HealthServer:
        self.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """The listener's address in the form for clients: ``"127.0.0.1:8080"`` or ``"unix:/path"``."""
        acceptor = self._acceptors.get(None)
        return text_of(self._target[1] if acceptor is None else acceptor.bound)

    def _after_fork_in_child(self) -> None:
        self._starting = threading.Lock()
        if self._last is not None:
            self._last.close()
        self._last = None
        self._acceptors = {}


def _have_metrics() -> bool:
    try:
        return importlib.util.find_spec("prometheus_client") is not None
    except ValueError:  # sys.modules has None for it
        return False


def _listen(target: tuple[socket.AddressFamily, Address], mode: int) -> socket.socket:
    family, address = target
    try:
        if family is socket.AF_UNIX:
            assert isinstance(address, str)
            return sockets.listen(address, _BACKLOG, mode=mode)
        return _listen_tcp(family, address)
    except OSError as error:
        text = f"cannot listen for probes on {text_of(address)}: {error.strerror or error}"
        raise OSError(error.errno or errno.EINVAL, text) from error


def _listen_tcp(family: socket.AddressFamily, address: Address) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
