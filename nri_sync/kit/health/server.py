"""An HTTP endpoint for probes and Prometheus.

One thread serves all connections, and sleeps while there is nothing to do. Each connection is for one request, is
closed after a few seconds whatever the client does, and gives way to newer ones when there are many: clients
that are slow, silent or talk something else cost a file descriptor for that time, and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterable
from typing import Any, NamedTuple, Union

from nri_sync import fork
from nri_sync.deadline import Deadline
from nri_sync.kit.health.health import Health
from nri_sync.kit.health.metrics import CONTENT_TYPE
from nri_sync.logger import get_logger
from nri_sync.net import sockets
from nri_sync.threads import Latch, signal_safe, spawn

__all__ = ["HealthServer", "Reply", "answer", "parse_address"]

logger = get_logger("nri_sync.kit.health")

# The head of a request; those of kubelets and of Prometheus have some 300 bytes.
_HEAD_MAX = 8192
# Seconds without accepting, where there are no file descriptors or no memory.
_BREATHER = 0.5
# What stop() waits for, in seconds: the thread is woken, and never blocks.
_STOP = 5.0
_BACKLOG = 128

_TEXT = "text/plain; charset=utf-8"
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}

_Address = Union[str, "tuple[Any, ...]"]


class Reply(NamedTuple):
    """What to answer with."""

    status: int
    body: str
    content_type: str = _TEXT

    def encoded(self, *, with_body: bool = True) -> bytes:
        body = self.body.encode("utf-8", "replace")
        head = (
            f"HTTP/1.1 {self.status} {_REASONS[self.status]}\r\n"
            f"Content-Type: {self.content_type}\r\nContent-Length: {len(body)}\r\n"
            f"{'Allow: GET, HEAD' + chr(13) + chr(10) if self.status == 405 else ''}"
            "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        return head.encode("ascii") + (body if with_body else b"")


def answer(health: Health, target: str) -> Reply:
    """The answer to a GET of ``target``: ``/livez``, ``/readyz`` (both with ``?verbose``) or ``/metrics``."""
    path, _, query = target.partition("?")
    if path == "/metrics":
        return Reply(200, health.metrics_text(), CONTENT_TYPE)
    if path not in ("/livez", "/readyz"):
        return Reply(404, "not found; there are /livez, /readyz and /metrics\n")
    report = health.report()
    good = report.live if path == "/livez" else report.ready
    status = 200 if good else 503
    if "verbose" in urllib.parse.parse_qs(query, keep_blank_values=True):
        text = json.dumps(health.describe(), indent=2)
        return Reply(status, text + "\n", "application/json")
    return Reply(status, f"{'ok' if good else 'failed'}: {report.state}: {report.reason}\n")


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
            max_connections: how many there may be at a time; of more, the oldest is closed.
            socket_mode: the mode of a unix socket's file, whatever the umask is. The default lets only this user
                connect.

        Raises ValueError for an address that is none.
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
        self._loops: dict[None, _Loop] = {}
        self._last: _Loop | None = None
        fork.in_child(self._after_fork_in_child)

    def start(self) -> None:
        """Listen, and serve on a thread of its own. Does nothing when it serves already.

        An interrupted call is undone. Raises OSError where it cannot listen, with the address in its text.
        """
        made: list[_Loop] = []
        try:
            self._start(made)
            for loop in made:
                logger.info("serving probes and metrics on %s", _text_of(loop.bound))
        except BaseException:
            self._undo(made)
            raise

    @signal_safe
    def _start(self, made: list[_Loop]) -> None:
        """Add the loop that is made to the list, if one is."""
        with self._starting:
            if self._loops:
                return
            if self._last is not None:
                self._last.ended.wait(Deadline(_STOP))  # for its port
            listener = _listen(self._target, self._socket_mode)
            loop = _Loop(self._health, listener, self._timeout, self._max_connections)
            self._last = self._loops[None] = loop
            made.append(loop)
            try:
                spawn("nri-health", loop.run)
            except BaseException:
                self._loops.pop(None, None)
                loop.close()
                raise

    def stop(self) -> None:
        """Close everything. Blocks until that is done; does nothing when it does not serve."""
        last = self._end()
        if last is not None:
            last.ended.wait(Deadline(_STOP))

    @signal_safe
    def _end(self) -> _Loop | None:
        """Have the thread end; returns what was started last."""
        loop = self._loops.pop(None, None)
        if loop is not None:
            loop.end()
        return self._last

    def _undo(self, made: Iterable[_Loop]) -> None:
        for loop in made:
            if self._loops.get(None) is loop:
                self.stop()

    def __enter__(self) -> HealthServer:
        self.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Where it listens, as clients write it: ``"127.0.0.1:8080"`` or ``"unix:/path"``."""
        loop = self._loops.get(None)
        return _text_of(self._target[1] if loop is None else loop.bound)

    def _after_fork_in_child(self) -> None:
        self._starting = threading.Lock()
        if self._last is not None:
            self._last.close()
        self._last = None
        self._loops = {}


class _Connection:
    def __init__(self, sock: socket.socket, due: float) -> None:
        self.sock = sock
        self.due = due
        self.received = b""
        self.unsent = b""
        self.answered = False


class _Loop:
    """Serves from start() to stop(). All but :meth:`end` belongs to its thread."""

    def __init__(
        self, health: Health, listener: socket.socket, timeout: float, max_connections: int
    ) -> None:
        self._health = health
        self._timeout = timeout
        self._max_connections = max_connections
        # Oldest first, which is the order in which they are due.
        self._connections: dict[_Connection, None] = {}
        self._resume: float | None = None
        self._stopping = False
        self.ended = Latch()
        self._listener = listener
        self.bound: _Address = listener.getsockname()
        self._wake, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        for sock in (listener, self._wake, self._woken):
            sock.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)

    def end(self) -> None:
        """Have the thread close everything, and end."""
        self._stopping = True
        with contextlib.suppress(OSError):  # it is full, or closed
            self._wake.send(b"\0")

    def run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        except BaseException:
            logger.exception("the endpoint for probes and metrics has ended")
        finally:
            self.close()

    def close(self) -> None:
        """Release everything."""
        if isinstance(self._listener, sockets.ListeningSocket):
            self._listener.remove()
        # In a forked child the selector is that of the parent, too: it must not be changed.
        self._selector.close()
        for sock in (self._listener, self._wake, self._woken):
            sock.close()
        for connection in self._connections:
            connection.sock.close()
        self._connections.clear()
        self.ended.set()

    def _turn(self) -> None:
        dues = [connection.due for connection in self._connections][:1]
        if self._resume is not None:
            dues.append(self._resume)
        timeout = max(0.0, min(dues) - time.monotonic()) if dues else None
        for key, events in self._selector.select(timeout):
            if key.fileobj is self._listener:
                self._accept()
            elif key.data is not None and key.data in self._connections:
                self._proceed(key.data, events)
        now = time.monotonic()
        for connection in [item for item in self._connections if item.due <= now]:
            self._drop(connection)
        if self._resume is not None and self._resume <= now:
            self._resume = None
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                # It would be readable all the time.
                logger.warning("cannot accept a connection: %s", error)
                self._selector.unregister(self._listener)
                self._resume = time.monotonic() + _BREATHER
            return
        if len(self._connections) >= self._max_connections:
            self._drop(next(iter(self._connections)))
        sock.setblocking(False)
        connection = _Connection(sock, time.monotonic() + self._timeout)
        self._connections[connection] = None
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def _proceed(self, connection: _Connection, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                self._write(connection)
            else:
                self._read(connection)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(connection)

    def _read(self, connection: _Connection) -> None:
        data = connection.sock.recv(_HEAD_MAX)
        if not data:
            self._drop(connection)
        elif not connection.answered:
            connection.received += data
            reply = self._reply(connection.received)
            if reply is not None:
                connection.answered = True
                connection.received = b""
                connection.unsent = reply
                self._write(connection)

    def _write(self, connection: _Connection) -> None:
        try:
            sent = connection.sock.send(connection.unsent)
        except BlockingIOError:
            sent = 0
        connection.unsent = connection.unsent[sent:]
        if connection.unsent:
            self._selector.modify(connection.sock, selectors.EVENT_WRITE, connection)
            return
        # What the client still sends is read and dropped: a close with that unread would reset the
        # connection, and could take the answer with it.
        connection.sock.shutdown(socket.SHUT_WR)
        self._selector.modify(connection.sock, selectors.EVENT_READ, connection)

    def _drop(self, connection: _Connection) -> None:
        self._connections.pop(connection, None)
        with contextlib.suppress(KeyError, ValueError, OSError):
            self._selector.unregister(connection.sock)
        connection.sock.close()

    def _reply(self, received: bytes) -> bytes | None:
        """The answer to a request of which so much has come; ``None`` while more is needed."""
        line, newline, rest = received.partition(b"\n")
        if not received[:1].isalpha():
            return Reply(400, "this is an HTTP endpoint\n").encoded()
        if not newline or not (rest.startswith((b"\n", b"\r\n")) or _ends(rest)):
            if len(received) > _HEAD_MAX:
                return Reply(431, "the head of the request is too long\n").encoded()
            return None
        words = line.decode("latin-1").split()
        if len(words) != 3 or not words[1].startswith("/"):
            return Reply(400, "this is no request of HTTP/1.1\n").encoded()
        method, target, version = words
        if not version.startswith("HTTP/1."):
            return Reply(505, "only HTTP/1.0 and HTTP/1.1 are served\n").encoded()
        if method not in ("GET", "HEAD"):
            return Reply(405, "only GET and HEAD are served\n").encoded()
        try:
            reply = answer(self._health, target)
        except Exception as error:
            logger.exception("%s failed", target)
            reply = Reply(500, f"{error!r}\n")
        return reply.encoded(with_body=method == "GET")


def _ends(fields: bytes) -> bool:
    return b"\r\n\r\n" in fields or b"\n\n" in fields


def parse_address(address: str) -> tuple[socket.AddressFamily, _Address]:
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


def _text_of(address: _Address) -> str:
    if isinstance(address, (str, bytes)):
        path = os.fsdecode(address)
        return f"unix-abstract:{path[1:]}" if path.startswith("\0") else f"unix:{path}"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}"


def _listen(target: tuple[socket.AddressFamily, _Address], mode: int) -> socket.socket:
    family, address = target
    try:
        if family is socket.AF_UNIX:
            assert isinstance(address, str)
            return sockets.listen(address, _BACKLOG, mode=mode)
        return _listen_tcp(family, address)
    except OSError as error:
        text = f"cannot listen for probes on {_text_of(address)}: {error.strerror or error}"
        raise OSError(error.errno or errno.EINVAL, text) from error


def _listen_tcp(family: socket.AddressFamily, address: _Address) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
