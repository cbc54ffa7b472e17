"""A plain ttRPC connection: a socket that carries nothing else, with calls in one direction."""

from __future__ import annotations

import functools
import os
import socket
import weakref
from typing import Callable

from nri_sync.deadline import Deadline
from nri_sync.errors import NRIError
from nri_sync.net import sockets
from nri_sync.net.link import Buffer, Link
from nri_sync.net.receiver import Receiver
from nri_sync.patched import check_unpatched
from nri_sync.rpc.callbacks import Callback, run_elsewhere
from nri_sync.rpc.client import ClientEnd
from nri_sync.rpc.router import Router
from nri_sync.rpc.server import ServerEnd
from nri_sync.rpc.status import Status
from nri_sync.threads import spawn, spawn_anywhere
from nri_sync.ttrpc.channel import Channel

__all__ = ["ClientConnection", "ServerConnection", "connect", "frame"]

# Joining a small message costs less than a second buffer.
_JOIN_MAX = 16 * 1024


def frame(header: bytes, payload: Buffer) -> list[Buffer]:
    """A message as it goes on a socket that carries nothing else."""
    if len(payload) <= _JOIN_MAX:
        return [b"".join((header, payload))]
    return [header, payload]


class ServerConnection(Receiver):
    """A connection that a server has accepted."""

    def __init__(
        self,
        sock: socket.socket,
        router: Router,
        *,
        name: str,
        peer: str,
        max_threads: int,
        admit: Callable[[], Status | None],
        done: Callback,
        lost: Callable[[ServerConnection, NRIError | None], object],
    ) -> None:
        self._lost = lost
        self.end = ServerEnd(router, frame=frame, peer=peer, admit=admit, done=done)
        self.receive = self.end.receive  # type: ignore[method-assign]
        self.tick = self.end.tick  # type: ignore[method-assign]
        self.link = self.end.link = Link(sock, self, name=name, max_threads=max_threads)

    def lost(self, cause: NRIError | None) -> None:
        self.end.lost(cause)
        self._lost(self, cause)

    def after_fork_in_child(self) -> None:
        self.end.after_fork_in_child()

    def close(self) -> None:
        """End it, now."""
        callbacks = self.end.stop_calls()
        self.link.close()
        self.end.run_elsewhere(callbacks)


class ClientConnection(Receiver):
    """A connection that this side has made."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        name: str,
        on_close: Callable[[NRIError | None], object] | None = None,
    ) -> None:
        self._on_close = on_close
        self.end = ClientEnd(frame=frame, name=name)
        self.receive = self.end.receive  # type: ignore[method-assign]
        self.tick = self.end.tick  # type: ignore[method-assign]
        self.may_block = self.end.holdings.may_block  # type: ignore[method-assign]
        self.link = self.end.link = Link(sock, self, name=name, callers_read=True)
        # Weakly: an application that lets go of the channel and of its calls ends the connection.
        self._channel: weakref.ref[Channel] | None = None

    def make_channel(self) -> Channel:
        """The channel over this connection, which ends when the channel is gone. To be called once."""
        channel = Channel(self.end, self.link.close)
        self._channel = weakref.ref(channel)
        weakref.finalize(channel, _close_dropped, self.link).atexit = False  # type: ignore[misc]
        return channel

    def _live_channel(self) -> Channel | None:
        return None if self._channel is None else self._channel()

    def lost(self, cause: NRIError | None) -> None:
        self.end.lost(cause)
        channel = self._live_channel()
        if channel is not None:
            channel.lost(cause)
        if self._on_close is not None:
            run_elsewhere(self.link.name, [functools.partial(self._on_close, cause)])

    def after_fork_in_child(self) -> None:
        self.end.after_fork_in_child()
        channel = self._live_channel()
        if channel is not None:
            channel.after_fork_in_child()


def _close_dropped(link: Link) -> None:
    # By another thread: the garbage collector runs this anywhere, and close() takes a lock.
    if not link.closing:
        spawn_anywhere(f"{link.name}-close", link.close)


def connect(
    target: str | os.PathLike[str],
    *,
    timeout: float | None = None,
    name: str | None = None,
    on_close: Callable[[NRIError | None], object] | None = None,
) -> Channel:
    """Connect to a ttRPC server, and return a ``grpc.Channel``. Blocks until connected.

    ``target`` is ``unix:///path`` or an absolute path, ``timeout`` is in seconds. ``on_close(cause)`` is called
    once, on another thread, when the connection has ended; ``cause`` is ``None`` after ``channel.close()``, and
    after the last reference to the channel, to its methods and to its calls is gone, which ends the connection,
    too.

    Raises:
        ValueError: the target is not a unix socket.
        OSError: no process listens there, or access is denied; TimeoutError after ``timeout``.
        Unsupported: threads are not threads here, as under gevent's monkey-patching.
        NoThread: the system has no more threads.
    """
    check_unpatched("a ttRPC connection")
    path = sockets.parse_target(target)
    sock = sockets.connect(path, Deadline(timeout))
    try:
        connection = ClientConnection(sock, name=name or f"ttrpc-{target}", on_close=on_close)
    except BaseException:
        sock.close()
        raise
    channel = connection.make_channel()
    try:
        spawn(connection.link.name, connection.link.run)
    except BaseException:
        connection.link.abandon()
        raise
    return channel
