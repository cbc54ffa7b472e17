"""The connections of the HTTP endpoint: one thread accepts them, and each has its own thread and time limit.

The standard library's handler reads the requests. This module bounds the cost of clients: a connection serves one
request, and ends at its time limit even if the client does not end; the head of a request has a limit; and if
there are too many connections, a new one closes the oldest.
"""

from __future__ import annotations

import contextlib
import errno
import http
import http.client
import http.server
import io
import json
import re
import socket
import threading
import urllib.parse
from typing import Any, NamedTuple

from nri_sync.deadline import Deadline
from nri_sync.errors import NoThread
from nri_sync.kit.health.address import Address
from nri_sync.kit.health.health import Health
from nri_sync.logger import get_logger
from nri_sync.net import sockets
from nri_sync.text import printable
from nri_sync.threads import Latch, spawn

__all__ = ["Acceptor", "Reply", "answer"]

logger = get_logger("nri_sync.kit.health")

# The greatest number of bytes of a request's head. Kubelets and Prometheus send about 300.
_HEAD_MAX = 16384
# The seconds without accepting after the system ran out of file descriptors or memory.
_BREATHER = 0.5
# The seconds for which a connection is not closed for a newer one, so that a flood of new connections does not end
# a probe that waits for the processor. Meanwhile the acceptor waits, and new connections wait in the listener's
# queue.
_LEAST_TIME = 0.1
# The seconds for which the acceptor waits for the thread of a closed connection. That thread was woken.
_GIVE_WAY = 1.0
# The time limit in seconds of a connection that the acceptor serves itself because the system has no thread.
_WITHOUT_THREAD = 1.0

_TEXT = "text/plain; charset=utf-8"
# The beginning of a target in absolute form, which a server must accept (RFC 9112, 3.2.2).
_ABSOLUTE = re.compile("^https?://[^/?]*", re.IGNORECASE)


class Reply(NamedTuple):
    """The answer to a request."""

    status: int
    body: bytes
    content_type: str = _TEXT


def answer(health: Health, target: str, accept: str = "") -> Reply:
    """Return the answer to a GET of ``target``: ``/livez``, ``/readyz`` (with ``?verbose`` or not) or
    ``/metrics``.

    ``accept`` is the header of the request.
    """
    path, _, query = _ABSOLUTE.sub("", target).partition("?")
    if path == "/metrics":
        try:
            found = health.exposition(accept)
        except ModuleNotFoundError as error:
            return Reply(http.HTTPStatus.NOT_IMPLEMENTED, f"{error}\n".encode())
        return Reply(http.HTTPStatus.OK, found.body, found.content_type)
    if path not in ("/livez", "/readyz"):
        text = b"not found; there are /livez, /readyz and /metrics\n"
        return Reply(http.HTTPStatus.NOT_FOUND, text)
    report = health.report()
    good = report.live if path == "/livez" else report.ready
    status = http.HTTPStatus.OK if good else http.HTTPStatus.SERVICE_UNAVAILABLE
    if "verbose" in urllib.parse.parse_qs(query, keep_blank_values=True):
        details = json.dumps(health.details(), indent=2)
        return Reply(status, f"{details}\n".encode(), "application/json")
    line = f"{'ok' if good else 'failed'}: {report.state}: {report.reason}\n"
    return Reply(status, line.encode("utf-8", "replace"))


class _Stream(io.RawIOBase):
    """A socket with one deadline for all reads and writes.

    ``socket.makefile()`` would have a timeout for each read: a client that sends slowly could stay.
    """

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._set_timeout()
        return self._sock.recv_into(buffer)

    def write(self, data: Any) -> int:
        self._set_timeout()
        self._sock.sendall(data)  # the timeout applies to the whole call
        return len(data)

    def _set_timeout(self) -> None:
        remaining = self._deadline.remaining()
        if remaining == 0.0:
            raise socket.timeout("the time limit of the connection has passed")
        self._sock.settimeout(remaining)


class _Head(io.BufferedReader):
    """Reads the lines of a head, up to :data:`_HEAD_MAX` bytes in all."""

    _left = _HEAD_MAX

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise http.client.LineTooLong("head of the request")
        return line


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    # A request without a version gets a status line, too.
    default_request_version = "HTTP/1.0"
    error_message_format = "%(message)s\n"
    error_content_type = _TEXT

    def __init__(self, sock: socket.socket, health: Health, deadline: Deadline) -> None:
        self._health = health
        self._deadline = deadline
        super().__init__(sock, ("", 0), None)  # type: ignore[arg-type]  # the handler uses no server

    def setup(self) -> None:
        stream = _Stream(self.request, self._deadline)
        self.connection = self.request
        self.rfile = _Head(stream)
        self.wfile = stream  # type: ignore[assignment]

    def handle(self) -> None:
        try:
            self.handle_one_request()
        except http.client.LineTooLong:
            # The first line is too long. parse_request() answers for the others.
            self.requestline, self.request_version, self.command = "", self.protocol_version, ""
            text = f"the head has more than {_HEAD_MAX:,} bytes"
            self.send_error(http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        # The texts of the standard library quote the request, which can have any length.
        super().send_error(code, message and printable(message, 200), explain)

    def finish(self) -> None:
        """Half-close the connection, then read until the client closes it.

        A close with unread data would reset the connection, and the client could lose the answer.
        """
        stream = self.rfile.raw  # type: ignore[attr-defined]
        self.connection.shutdown(socket.SHUT_WR)
        while stream.read(65536):
            pass

    def do_GET(self) -> None:
        try:
            reply = answer(self._health, self.path, self.headers.get("Accept", ""))
        except Exception as error:
            logger.exception("%s failed", self.path)
            reply = Reply(http.HTTPStatus.INTERNAL_SERVER_ERROR, f"{error!r}\n".encode())
        self._send(reply)

    do_HEAD = do_GET

    def _refuse(self) -> None:
        reply = Reply(http.HTTPStatus.METHOD_NOT_ALLOWED, b"only GET and HEAD are served\n")
        self._send(reply, Allow="GET, HEAD")

    do_DELETE = do_OPTIONS = do_PATCH = do_POST = do_PUT = _refuse

    def _send(self, reply: Reply, **headers: str) -> None:
        self.send_response(reply.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def version_string(self) -> str:
        return "nri_sync"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: wrong requests of clients do not concern the plugin."""


class _Client(NamedTuple):
    """A connection that is being served."""

    #: Set when its thread has ended.
    ended: Latch
    #: The time until which no newer connection may close it.
    least: Deadline


class Acceptor:
    """Serves the connections of a listener until :meth:`stop`. Only one thread may call :meth:`run`."""

    def __init__(
        self, health: Health, listener: socket.socket, timeout: float, max_connections: int
    ) -> None:
        self._health = health
        self._listener = listener
        self._timeout = timeout
        self._max_connections = max_connections
        self._stopping = Latch()
        self.bound: Address = listener.getsockname()
        self.ended = Latch()
        # Guards the two attributes below.
        self._lock = threading.Lock()
        # The connections that are being served, the oldest first.
        self._served: dict[socket.socket, _Client] = {}
        # The number of threads that have not ended, including those of closed connections.
        self._threads = 0

    def stop(self) -> None:
        """End all threads. Returns at once. Not for a forked child, which shares the sockets with its parent."""
        self._stopping.set()
        if isinstance(self._listener, sockets.ListeningSocket):
            self._listener.stop()
        _shut_down(self._listener)
        with self._lock:
            served = list(self._served)
        for sock in served:
            _shut_down(sock)

    def close(self) -> None:
        """Close only the descriptors, in a forked child: the connections still belong to the parent."""
        self._lock = threading.Lock()
        self._listener.close()
        for sock in list(self._served):
            sock.close()

    def run(self) -> None:
        """Accept connections until :meth:`stop`."""
        try:
            while not self._stopping.is_set():
                sock = self._accept()
                if sock is not None:
                    self._admit(sock)
        except BaseException:
            logger.exception("the endpoint for probes and metrics has ended")
        finally:
            self.stop()
            self._listener.close()
            with self._lock:
                clients = list(self._served.values())
            deadline = Deadline(_GIVE_WAY)
            for client in clients:
                client.ended.wait(deadline)
            self.ended.set()

    def _accept(self) -> socket.socket | None:
        try:
            return self._listener.accept()[0]
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                logger.warning("cannot accept a connection: %s", error)
                self._stopping.wait(Deadline(_BREATHER))
            return None

    def _admit(self, sock: socket.socket) -> None:
        """Serve the connection on a thread. If there are too many connections, close the oldest."""
        while (found := self._oldest_too_many()) is not None:
            oldest, client = found
            client.ended.wait(client.least)
            _shut_down(oldest)
            client.ended.wait(Deadline(_GIVE_WAY))
        ended = Latch()
        with self._lock:
            # A thread does not end while a metric of the application blocks it. The number of these is bounded,
            # too.
            refused = self._threads >= 2 * self._max_connections
            if not refused:
                self._served[sock] = _Client(ended, Deadline(_LEAST_TIME))
                self._threads += 1
        if refused:
            logger.warning("a connection is refused: %s threads are blocked", self._threads)
            sock.close()
            return
        try:
            spawn("nri-health-client", self._serve, sock, ended, self._timeout)
        except NoThread:
            self._serve(sock, ended, min(self._timeout, _WITHOUT_THREAD))

    def _oldest_too_many(self) -> tuple[socket.socket, _Client] | None:
        with self._lock:
            if len(self._served) < self._max_connections:
                return None
            sock = next(iter(self._served))
            return sock, self._served.pop(sock)

    def _serve(self, sock: socket.socket, ended: Latch, seconds: float) -> None:
        try:
            if not self._stopping.is_set():
                with contextlib.suppress(OSError):
                    if sock.family != socket.AF_UNIX:
                        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    _Handler(sock, self._health, Deadline(seconds))
        except Exception:
            logger.exception("a connection for probes and metrics failed")
        finally:
            sock.close()
            with self._lock:
                self._served.pop(sock, None)
                self._threads -= 1
            ended.set()


def _shut_down(sock: socket.socket) -> None:
    """Wake the thread that accepts, reads or writes. That thread closes the socket."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
