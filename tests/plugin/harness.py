"""Shared parts of the tests of the plugin side: a small runtime, plugins that record, ways to wait.

Nothing in here sleeps to synchronise: a test that needs to know that something has happened waits for it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Callable

import nri_sync
from nri_sync.api import nri_pb2
from nri_sync.net.sockets import listen
from nri_sync.rpc import envelope_pb2
from nri_sync.runtime import Peer
from nri_sync.wire.mux import PLUGIN_SERVICE, FrameDecoder, frame_message
from nri_sync.wire.ttrpc import MessageDecoder, encode_header

__all__ = [
    "CONTAINER",
    "LONG",
    "POD",
    "PluginWith",
    "RawRuntime",
    "Recorder",
    "Runtime",
    "Slow",
    "configuration",
    "descriptors",
    "encoded",
    "eventually",
    "frame_of",
    "request",
    "tasks",
]

#: Longer than anything here takes; a test that gets this far has failed. In seconds.
LONG = 20.0

POD = nri_pb2.PodSandbox(id="pod0", name="pod", namespace="default")
CONTAINER = nri_pb2.Container(id="ctr0", pod_sandbox_id="pod0", name="container")


def configuration(**fields: Any) -> nri_pb2.ConfigureRequest:
    """The Configure request of a current runtime, with ``fields`` in place of its fields."""
    values: dict[str, Any] = {
        "runtime_name": "test-runtime",
        "runtime_version": "v1.0.0",
        "registration_timeout": 5000,
        "request_timeout": int(LONG * 1000),
        "NRI_version": "v0.12.5",
    }
    values.update(fields)
    return nri_pb2.ConfigureRequest(**values)


def descriptors() -> set[str]:
    """The open file descriptors of this process, and their targets."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(f"{fd} -> {os.readlink(f'/proc/self/fd/{fd}')}")
    return {item for item in found if "/proc/" not in item}


def tasks() -> int:
    """How many threads the kernel knows of."""
    return len(os.listdir("/proc/self/task"))


def frame_of(thread: int | None) -> FrameType | None:
    """The innermost frame of the thread with this identifier; None when there is no such thread.

    The collector stays out meanwhile: CPython before 3.12 holds its lock of all threads, and a finalizer that
    releases the GIL would block every other thread for good.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames().get(thread or 0)
    finally:
        if enabled:
            gc.enable()


def eventually(condition: Callable[[], object], what: str = "it") -> None:
    """Wait for a condition that no event announces."""
    give_up = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < give_up, f"{what} has not come about"
        time.sleep(0.001)


class PluginWith:
    """A plugin with the given handlers: ``PluginWith(run_pod_sandbox=function)``."""

    def __init__(self, **handlers: Any) -> None:
        self.__dict__.update(handlers)


class Recorder(nri_sync.Plugin):
    """Puts the name and arguments of each call into ``calls``; ``replies`` are the results of handlers.

    A reply that is an exception is raised; one that is callable is called with the arguments.
    """

    def __init__(self, **replies: Any) -> None:
        self.replies = replies
        self.calls: queue.SimpleQueue[tuple[str, tuple[Any, ...]]] = queue.SimpleQueue()

    def expect(self, name: str) -> tuple[Any, ...]:
        """The arguments of the next call, which must be of ``name``."""
        called, arguments = self.calls.get(timeout=LONG)
        assert called == name
        return arguments


def _recording(name: str) -> Any:
    def handler(self: Recorder, *arguments: Any) -> Any:
        self.calls.put((name, arguments))
        reply = self.replies.get(name)
        if isinstance(reply, BaseException):
            raise reply
        return reply(*arguments) if callable(reply) else reply

    return handler


for _name in [name for name in vars(nri_sync.Plugin) if not name.startswith("_")]:
    setattr(Recorder, _name, _recording(_name))


class Runtime:
    """Listens on a socket, and takes each plugin that comes through registration and synchronization.

    Synchronized plugins come out of ``peers``, in order; errors out of ``failures``.
    """

    def __init__(
        self,
        path: Path,
        *,
        config: nri_pb2.ConfigureRequest | None = None,
        synchronize: bool = True,
        configure: bool = True,
        update_containers: Any = None,
    ) -> None:
        self.path = str(path)
        self.config = config or configuration()
        self.peers: queue.SimpleQueue[Peer] = queue.SimpleQueue()
        self.failures: queue.SimpleQueue[Exception] = queue.SimpleQueue()
        self._synchronize = synchronize
        self._configure = configure
        self._update_containers = update_containers
        self.accepted: list[Peer] = []
        self._listener = listen(self.path)
        self._thread = threading.Thread(target=self._serve, name="runtime")
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            peer = Peer(sock, update_containers=self._update_containers)
            self.accepted.append(peer)
            try:
                peer.wait_registered(LONG)
                if self._configure:
                    peer.configure(self.config, LONG)
                    if self._synchronize:
                        peer.synchronize([POD], [CONTAINER], LONG)
                self.peers.put(peer)
            except Exception as error:
                self.failures.put(error)

    def peer(self) -> Peer:
        """The next plugin that has connected."""
        try:
            return self.peers.get(timeout=LONG)
        except queue.Empty:
            if not self.failures.empty():
                raise self.failures.get() from None
            raise

    def close(self) -> None:
        """Close everything; blocks until it is done."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for peer in list(self.accepted):
            peer.close()
        self._thread.join(LONG)
        self._listener.close()
        for peer in self.accepted:
            peer.close()
            assert peer.wait_closed(LONG)


class RawRuntime:
    """The runtime's end of one connection, at the level of bytes and ttRPC messages."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(LONG)
        self.sock = sock
        self._messages = self._receive()

    def _receive(self) -> Iterator[tuple[int, Any]]:
        mux = FrameDecoder()
        ttrpc = {1: MessageDecoder(), 2: MessageDecoder()}
        while True:
            data = self.sock.recv(65536)
            if not data:
                return
            for connection_id, piece in mux.receive(data):
                for message in ttrpc[connection_id].receive(piece):
                    yield connection_id, message

    def next(self) -> tuple[int, Any]:
        """The next message of the plugin, and its logical connection; StopIteration at the end."""
        return next(self._messages)

    def send(
        self, connection_id: int, kind: int, stream_id: int, data: bytes, flags: int = 0
    ) -> None:
        self.sock.sendall(encoded(connection_id, kind, stream_id, data, flags))

    def call(self, stream_id: int, method: str, message: Any = None, **fields: Any) -> None:
        """Send a request of the Plugin service."""
        payload = b"" if message is None else message.SerializeToString()
        self.send(PLUGIN_SERVICE, 1, stream_id, request(method, payload, **fields))

    def response(
        self, stream_id: int, connection_id: int = PLUGIN_SERVICE
    ) -> envelope_pb2.Response:
        """The next message, which must be the response on that stream."""
        came_on, message = self.next()
        assert (came_on, message.stream_id, message.type) == (connection_id, stream_id, 2)
        return envelope_pb2.Response.FromString(bytes(message.data))

    def accept_registration(self) -> nri_pb2.RegisterPluginRequest:
        """Take RegisterPlugin, and answer it."""
        connection_id, message = self.next()
        assert connection_id == 2
        envelope = envelope_pb2.Request.FromString(bytes(message.data))
        assert envelope.method == "RegisterPlugin"
        self.send(2, 2, message.stream_id, b"")
        return nri_pb2.RegisterPluginRequest.FromString(envelope.payload)

    def at_end(self) -> bool:
        """Whether the plugin closes the connection now, without another message. Blocks."""
        return next(self._messages, None) is None


def request(method: str, payload: bytes = b"", **fields: Any) -> bytes:
    """The envelope of a request of the Plugin service."""
    service = "nri.pkg.api.v1alpha1.Plugin"
    envelope = envelope_pb2.Request(service=service, method=method, payload=payload, **fields)
    return envelope.SerializeToString()


def encoded(connection_id: int, kind: int, stream_id: int, data: bytes, flags: int = 0) -> bytes:
    """A ttRPC message in its mux frames."""
    header = encode_header(kind, stream_id, flags, len(data))
    return b"".join(bytes(part) for part in frame_message(connection_id, header, data))


class Slow:
    """A handler that returns (or raises) ``outcome`` when the test lets it."""

    def __init__(self, outcome: Any = None) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.outcome = outcome

    def __call__(self, *arguments: object) -> Any:
        self.entered.set()
        self.go_on.wait(LONG)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome
