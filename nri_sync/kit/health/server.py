"""An HTTP endpoint for probes and Prometheus.

One thread waits for connections; each connection has a thread for a few seconds at most, whatever the client does,
and the number of connections is bounded: clients that are slow, silent or talk something else keep no probe out.
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
from nri_sync.kit.health.connections import Acceptor, Address
from nri_sync.kit.health.health import Health
from nri_sync.logger import get_logger
from nri_sync.net import sockets
from nri_sync.threads import signal_safe, spawn

__all__ = ["HealthServer", "parse_address"]

logger = get_logger("nri_sync.kit.health")

# What stop() waits for, in seconds: all threads are woken.
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
        address: str,
        *,
        timeout: float = 5.0,
        max_connections: int = 64,
        socket_mode: int = 0o600,
    ) -> None:
        """
        Args:
            address: ``"127.0.0.1:8080"``, ``"[::1]:8080"``, ``"0.0.0.0:8080"`` for all interfaces; port 0 for any
                free one; or ``"unix:///path"`` and the like for a unix socket.
            timeout: seconds that a connection may take, from its beginning to its end.
            max_connections: how many there may be at a time, each with a thread; of more, the oldest is closed.
            socket_mode: the mode of a unix socket's file, whatever the umask is. The default lets only this user
                connect.

        Raises ValueError for a text that is no address.
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
        # One thread at a time starts it.
        self._starting = threading.Lock()
        # The one that serves, if any. dict.pop() is atomic: one thread stops it.
        self._acceptors: dict[None, Acceptor] = {}
        self._last: Acceptor | None = None
        fork.in_child(self._after_fork_in_child)

    def start(self) -> None:
        """Listen, and serve on further threads. Does nothing when the server serves already.

        An interrupted call is undone. Raises OSError, with the address in its text, where listening is impossible.
        """
        made: list[Acceptor] = []
        try:
            self._start(made)
            for acceptor in made:
                logger.info("serving probes and metrics on %s", _text_of(acceptor.bound))
                if not _have_metrics():
                    logger.info(
                        "there are no metrics; for these do: pip install 'nri_sync[metrics]'"
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
                self._last.ended.wait(Deadline(_STOP))  # for its port
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
        """Close everything. Blocks until all is closed; does nothing when the server does not serve."""
        last = self._end()
        if last is not None:
            last.ended.wait(Deadline(_STOP))

    @signal_safe
    def _end(self) -> Acceptor | None:
        """Have the threads end; returns the last acceptor."""
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
        """The address of the listener, as clients write it: ``"127.0.0.1:8080"`` or ``"unix:/path"``."""
        acceptor = self._acceptors.get(None)
        return _text_of(self._target[1] if acceptor is None else acceptor.bound)

    def _after_fork_in_child(self) -> None:
        self._starting = threading.Lock()
        if self._last is not None:
            self._last.close()
        self._last = None
        self._acceptors = {}


def _have_metrics() -> bool:
    try:
        return importlib.util.find_spec("prometheus_client") is not None
    except ValueError:  # sys.modules says that there is none
        return False


def parse_address(address: str) -> tuple[socket.AddressFamily, Address]:
    """The family and address of a socket to listen on, of a text as :class:`HealthServer` takes it.

    Raises ValueError for anything else.
    """
    if address.startswith(("unix:", "unix-abstract:", "/")):
        try:
            return socket.AF_UNIX, sockets.parse_target(address)
        except ValueError as error:
            raise ValueError(f"{error}; unix:///absolute/path is one") from None
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(
            f"{address!r} is no address: 127.0.0.1:8080 is one, 0.0.0.0:8080 for all interfaces, "
            "or unix:///path"
        )
    if host.startswith("[") and host.endswith("]"):
        return socket.AF_INET6, (host[1:-1], int(port))
    if ":" in host:
        raise ValueError(f"{address!r}: an IPv6 address stands in brackets, as in [::1]:8080")
    return socket.AF_INET, (host, int(port))


def _text_of(address: Address) -> str:
    if isinstance(address, (str, bytes)):
        path = os.fsdecode(address)
        return f"unix-abstract:{path[1:]}" if path.startswith("\0") else f"unix:{path}"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}"


def _listen(target: tuple[socket.AddressFamily, Address], mode: int) -> socket.socket:
    family, address = target
    try:
        if family is socket.AF_UNIX:
            assert isinstance(address, str)
            return sockets.listen(address, _BACKLOG, mode=mode)
        return _listen_tcp(family, address)
    except OSError as error:
        text = f"cannot listen for probes on {_text_of(address)}: {error.strerror or error}"
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
