"""A minimal plugin in Python: ``python -m benchmarks.bare SOCKET IDX NAME ENV MOUNTS SIZE``.

One thread reads, parses, calls the same handler, and writes. The plugin has no concurrency and no deadlines, ends
only with the process, and accepts one shape of frames. The additional time of the stub is the price of its
guarantees.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from struct import Struct

from benchmarks import control
from benchmarks.adjuster import Adjuster
from nri_sync.api import EventMask, nri_pb2
from nri_sync.rpc import envelope_pb2

__all__ = ["main"]

# A mux frame that holds one ttRPC message: connection and length; then length, stream, type and flags.
_HEADER = Struct(">IIIIBB")
_REQUEST, _RESPONSE = 1, 2


def _frame(connection: int, stream: int, type: int, data: bytes) -> bytes:
    return _HEADER.pack(connection, len(data) + 10, len(data), stream, type, 0) + data


def _answer(plugin: Adjuster, method: str, payload: bytes) -> bytes:
    if method == "CreateContainer":
        request = nri_pb2.CreateContainerRequest.FromString(payload)
        adjustment = plugin.create_container(request.pod, request.container)
        return nri_pb2.CreateContainerResponse(adjust=adjustment).SerializeToString()
    if method == "Configure":
        events = EventMask.CREATE_CONTAINER
        return nri_pb2.ConfigureResponse(events=int(events)).SerializeToString()
    return b""


def _serve(sock: socket.socket, plugin: Adjuster) -> None:
    buffer = memoryview(bytearray(1 << 20))
    filled = 0
    while True:
        count = sock.recv_into(buffer[filled:])
        if not count:
            os._exit(0)
        filled += count
        position = 0
        while filled - position >= _HEADER.size:
            connection, size, length, stream, type, _ = _HEADER.unpack_from(buffer, position)
            if filled - position < size + 8:
                break
            data = bytes(buffer[position + _HEADER.size : position + _HEADER.size + length])
            position += size + 8
            if type == _REQUEST:
                request = envelope_pb2.Request.FromString(data)
                payload = _answer(plugin, request.method, request.payload)
                response = envelope_pb2.Response(payload=payload).SerializeToString()
                sock.sendall(_frame(connection, stream, _RESPONSE, response))
        filled -= position
        buffer[:filled] = bytes(buffer[position : position + filled])


def main(path: str, idx: str, name: str, env: str, mounts: str, size: str) -> None:
    sock = socket.socket(socket.AF_UNIX)

    def start() -> None:
        sock.connect(path)
        plugin = Adjuster(int(env), int(mounts), int(size))
        registration = envelope_pb2.Request(
            service="nri.pkg.api.v1alpha1.Runtime",
            method="RegisterPlugin",
            payload=nri_pb2.RegisterPluginRequest(
                plugin_name=name, plugin_idx=idx
            ).SerializeToString(),
        )
        sock.sendall(_frame(2, 1, _REQUEST, registration.SerializeToString()))
        threading.Thread(target=_serve, args=(sock, plugin), daemon=True).start()

    control.serve({"start": start})


if __name__ == "__main__":
    main(*sys.argv[1:])
