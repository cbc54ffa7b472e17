"""The runtime's end of one connection, able to break every rule: it writes raw bytes and ttRPC messages."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections import deque
from typing import Any

from nri_sync.api import nri_pb2
from nri_sync.api.services import PLUGIN
from nri_sync.deadline import Deadline
from nri_sync.errors import ConnectionLost, RemoteProtocolError
from nri_sync.rpc import envelope_pb2
from nri_sync.rpc.status import Status
from nri_sync.testing.common import WITHIN
from nri_sync.testing.script_state import ScriptState
from nri_sync.wire.mux import PLUGIN_SERVICE, RUNTIME_SERVICE, FrameDecoder, frame_message
from nri_sync.wire.ttrpc import (
    MESSAGE_MAX,
    REQUEST,
    RESPONSE,
    Message,
    MessageDecoder,
    encode_header,
)

__all__ = ["RemotePlugin", "encoded_request"]


class RemotePlugin:
    """A connected plugin, for the steps of a script. Only one thread at a time may use it.

    A method that waits for the plugin raises ConnectionLost when the plugin closes the connection, TimeoutError
    when the plugin sends nothing for ``timeout`` seconds, and RemoteProtocolError for an unexpected message. While
    it waits, it answers the plugin's requests for updates with success.
    """

    def __init__(self, sock: socket.socket, runtime: ScriptState, timeout: float = WITHIN) -> None:
        #: The state of the runtime that executes the script.
        self.runtime = runtime
        #: The time limit of waits, in seconds.
        self.timeout = timeout
        self._sock = sock
        # Guards the closing of the socket.
        self._lock = threading.Lock()
        self._frames = FrameDecoder()
        self._ends = {PLUGIN_SERVICE: MessageDecoder(), RUNTIME_SERVICE: MessageDecoder()}
        self._arrived: deque[tuple[int, Message]] = deque()
        self._next_stream = 1
        # The streams of requests that the plugin has not answered.
        self._unanswered: set[int] = set()
        # The stream of RegisterPlugin.
        self._registration = 0

    # Bytes

    def send(self, data: bytes) -> None:
        """Write bytes unchanged."""
        try:
            self._sock.settimeout(self.timeout)
            self._sock.sendall(data)
        except socket.timeout:
            raise TimeoutError("the plugin does not read the bytes that it is sent") from None
        except OSError as error:
            raise ConnectionLost(f"the connection is closed: {error.strerror}") from None

    def receive(self, timeout: float | None) -> bytes:
        """The next bytes of the plugin. If ``timeout`` is None, waits without a limit."""
        try:
            self._sock.settimeout(timeout)
            data = self._sock.recv(65536)
        except socket.timeout:
            raise TimeoutError("the plugin sends nothing") from None
        except OSError as error:
            raise ConnectionLost(f"the connection is closed: {error.strerror}") from None
        if not data:
            raise ConnectionLost("the plugin has closed the connection")
        return data

    def close(self) -> None:
        """Close the connection, in any state. Idempotent."""
        with self._lock:
            self._sock.close()

    def interrupt(self) -> None:
        """Make waiting methods raise ConnectionLost. Any thread may call it."""
        with self._lock, contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    # Messages

    def request(self, rpc: str, message: Any = None, **fields: Any) -> int:
        """Send a request without waiting for the answer; returns the number of its stream."""
        stream = self._new_stream()
        self.send(encoded_request(stream, rpc, message, **fields))
        return stream

    def oversized_request(self) -> int:
        """Send a request that is one byte larger than ttRPC allows; returns the number of its stream."""
        stream = self._new_stream()
        length = MESSAGE_MAX + 1
        # encode_header() rejects this length.
        header = struct.pack(">IIBB", length, stream, REQUEST, 0)
        self.send(
            b"".join(bytes(part) for part in frame_message(PLUGIN_SERVICE, header, bytes(length)))
        )
        return stream

    def _new_stream(self) -> int:
        stream = self._next_stream
        self._next_stream += 2
        self._unanswered.add(stream)
        return stream

    def response(self, stream: int, rpc: str) -> Any:
        """Wait for the answer on a stream. Raises CallFailed if the answer is an error."""
        data = self._take(f"an answer to {rpc}", stream)
        envelope = envelope_pb2.Response.FromString(data)
        if envelope.status.code:
            status = Status(envelope.status.code, envelope.status.message)
            error = status.error(PLUGIN.methods[rpc].path)
            self.runtime.answered(rpc, error)
            raise error
        answer = PLUGIN.methods[rpc].response.FromString(envelope.payload)
        self.runtime.answered(rpc, answer)
        return answer

    def call(self, rpc: str, message: Any = None, **fields: Any) -> Any:
        """Send a request, and wait for the answer. Raises CallFailed if the answer is an error."""
        return self.response(self.request(rpc, message, **fields), rpc)

    def registration(self) -> int:
        """Wait for RegisterPlugin without answering it; returns the number of its stream."""
        payload = self._take("RegisterPlugin")
        self.runtime.registered(nri_pb2.RegisterPluginRequest.FromString(payload))
        return self._registration

    def answer(self, stream: int, message: Any = None, *, error: str = "") -> None:
        """Answer a request of the plugin with success or with an error."""
        envelope = envelope_pb2.Response()
        if error:
            envelope.status.code = 2  # UNKNOWN, as in the Go implementation
            envelope.status.message = error
        elif message is not None:
            envelope.payload = message.SerializeToString()
        self.send(_encoded(RUNTIME_SERVICE, RESPONSE, stream, envelope.SerializeToString()))

    def serve(self) -> None:
        """Answer requests for updates, until the plugin disconnects and ConnectionLost is raised."""
        self._take("the end", forever=True)

    def drain(self) -> None:
        """Read without decoding, until the plugin disconnects and ConnectionLost is raised."""
        while True:
            self.receive(None)

    def _next(self, timeout: float | None) -> tuple[int, Message]:
        give_up = Deadline(timeout)
        while not self._arrived:
            remaining = give_up.remaining()
            if remaining == 0.0:
                raise TimeoutError
            for connection_id, piece in self._frames.receive(self.receive(remaining)):
                for message in self._ends[connection_id].receive(piece):
                    self._arrived.append((connection_id, message))
        return self._arrived.popleft()

    def _take(self, what: str, stream: int | None = None, *, forever: bool = False) -> bytes:
        """The data of the answer on that stream, or of the registration; skips the answers on other streams."""
        while True:
            try:
                connection_id, message = self._next(None if forever else self.timeout)
            except TimeoutError:
                raise TimeoutError(f"{what} has not come within {self.timeout:g} s") from None
            data = bytes(message.data or b"")
            if connection_id == PLUGIN_SERVICE:
                if message.stream_id not in self._unanswered:
                    raise RemoteProtocolError(f"an answer to no request, {message.stream_id}")
                self._unanswered.remove(message.stream_id)
                if message.stream_id == stream:
                    return data
                continue
            envelope = envelope_pb2.Request.FromString(data)
            if envelope.method == "UpdateContainers":
                request = nri_pb2.UpdateContainersRequest.FromString(envelope.payload)
                self.runtime.updated(request)
                self.answer(message.stream_id, nri_pb2.UpdateContainersResponse())
            elif stream is None and not forever and envelope.method == "RegisterPlugin":
                self._registration = message.stream_id
                return envelope.payload
            else:
                raise RemoteProtocolError(f"the plugin has sent {envelope.method}, not {what}")


def encoded_request(stream: int, rpc: str, message: Any = None, **fields: Any) -> bytes:
    """The bytes of a request to the Plugin service, with a message or its fields.

    Raises ValueError for an RPC that the service does not have.
    """
    if rpc not in PLUGIN.methods:
        raise ValueError(f"{rpc!r} is not one of the RPCs of plugins: {', '.join(PLUGIN.methods)}")
    message = PLUGIN.methods[rpc].request(**fields) if message is None else message
    envelope = envelope_pb2.Request(
        service=PLUGIN.full_name, method=rpc, payload=message.SerializeToString()
    )
    return _encoded(PLUGIN_SERVICE, REQUEST, stream, envelope.SerializeToString())


def _encoded(connection_id: int, kind: int, stream: int, data: bytes) -> bytes:
    header = encode_header(kind, stream, 0, len(data))
    return b"".join(bytes(part) for part in frame_message(connection_id, header, data))
