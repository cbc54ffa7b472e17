"""A minimal plugin in Python: ``python -m benchmarks.bare SOCKET IDX NAME ENV MOUNTS SIZE``.

One thread reads, parses, calls the same handler, and writes. The plugin has no concurrency, no deadlines and no
bounds, connects again at once when it is cut off, ends only with the process, and accepts one shape of frames. Its
times are the least that Python and protobuf need. The additional time of the stub is the price of its guarantees.
"""

from __future__ import annotations

import mmap
import socket
import sys
import threading
import time
from collections.abc import Iterator
from struct import Struct

from benchmarks import control
from benchmarks.adjuster import Adjuster
from nri_sync.api import EventMask, nri_pb2
from nri_sync.rpc import envelope_pb2

__all__ = ["main"]

# The header of a mux frame: connection and length. That of a ttRPC message: length, stream, type and flags.
_FRAME, _MESSAGE = Struct(">II"), Struct(">IIBB")
_REQUEST, _RESPONSE = 1, 2
# The largest frame of the Go runtime, with the bytes of the next one that may arrive with it.
_MOST = 5 << 20


def _frame(connection: int, stream: int, type: int, data: bytes) -> bytes:
    size = len(data)
    return _FRAME.pack(connection, size + 10) + _MESSAGE.pack(size, stream, type, 0) + data


class _Bare:
    def __init__(self, path: str, idx: str, name: str, plugin: Adjuster) -> None:
        self._path = path
        self._plugin = plugin
        self._containers: list[nri_pb2.Container] = []
        registration = nri_pb2.RegisterPluginRequest(plugin_name=name, plugin_idx=idx)
        self._registration = envelope_pb2.Request(
            service="nri.pkg.api.v1alpha1.Runtime",
            method="RegisterPlugin",
            payload=registration.SerializeToString(),
        )
        self._buffer = memoryview(mmap.mmap(-1, _MOST))

    def start(self) -> float:
        """Return the microseconds until Configure has been answered. Another thread serves from then on."""
        begin = time.perf_counter()
        session = self._session()
        next(method for method in session if method == "Configure")
        taken = time.perf_counter() - begin
        threading.Thread(target=self._serve, args=(session,), daemon=True).start()
        return taken * 1e6

    def _serve(self, session: Iterator[str]) -> None:
        while True:
            for _ in session:
                pass
            session = self._session()

    def _session(self) -> Iterator[str]:
        """Connect, register, and serve until the end of the connection. Yields the method of each request."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self._path)
        sock.sendall(_frame(2, 1, _REQUEST, self._registration.SerializeToString()))
        buffer, filled, message = self._buffer, 0, b""
        while True:
            count = sock.recv_into(buffer[filled:])
            if not count:
                sock.close()
                return
            filled += count
            position = 0
            while filled - position >= _FRAME.size:
                connection, size = _FRAME.unpack_from(buffer, position)
                end = position + _FRAME.size + size
                if filled < end:
                    break
                piece = bytes(buffer[position + _FRAME.size : end])
                position = end
                # A message of more than 4 KiB comes in two frames.
                message = message + piece if message else piece
                length, stream, type, _ = _MESSAGE.unpack_from(message)
                if len(message) < _MESSAGE.size + length:
                    continue
                data, message = message[_MESSAGE.size :], b""
                if type == _REQUEST:
                    request = envelope_pb2.Request.FromString(data)
                    payload = self._answer(request.method, request.payload)
                    response = envelope_pb2.Response(payload=payload).SerializeToString()
                    sock.sendall(_frame(connection, stream, _RESPONSE, response))
                    yield request.method
            filled -= position
            if filled:
                buffer[:filled] = bytes(buffer[position : position + filled])

    def _answer(self, method: str, payload: bytes) -> bytes:
        if method == "CreateContainer":
            request = nri_pb2.CreateContainerRequest.FromString(payload)
            adjustment = self._plugin.create_container(request.pod, request.container)
            return nri_pb2.CreateContainerResponse(adjust=adjustment).SerializeToString()
        if method == "Configure":
            nri_pb2.ConfigureRequest.FromString(payload)
            events = EventMask.CREATE_CONTAINER
            return nri_pb2.ConfigureResponse(events=int(events)).SerializeToString()
        if method == "Synchronize":
            state = nri_pb2.SynchronizeRequest.FromString(payload)
            self._containers.extend(state.containers)
            if not state.more:
                self._plugin.synchronize([], self._containers)
                self._containers = []
            return nri_pb2.SynchronizeResponse(more=state.more).SerializeToString()
        return b""


def main(path: str, idx: str, name: str, env: str, mounts: str, size: str) -> None:
    bare = _Bare(path, idx, name, Adjuster(int(env), int(mounts), int(size)))
    control.serve({"start": bare.start})


if __name__ == "__main__":
    main(*sys.argv[1:])
