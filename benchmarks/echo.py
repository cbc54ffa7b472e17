"""An echo server, to measure ttRPC alone: ``python -m benchmarks.echo KIND SOCKET``."""

from __future__ import annotations

import socket
import sys
from concurrent import futures
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import BytesValue

from benchmarks import control
from nri_sync import ttrpc

__all__ = ["METHOD", "SERVICE", "connect", "main"]

SERVICE = "nri_sync.testing.Echo"
METHOD = f"/{SERVICE}/Echo"


def connect(kind: str, path: str) -> Any:
    """A function that sends bytes and returns the answer. Its attribute ``close`` ends the connection."""
    if kind == "socket":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)

        def ping(payload: bytes) -> bytes:
            sock.sendall(payload)
            return sock.recv(65536)

        return ping
    channel = grpc.insecure_channel(f"unix://{path}") if kind == "grpcio" else ttrpc.connect(path)
    call = channel.unary_unary(METHOD, BytesValue.SerializeToString, BytesValue.FromString)
    return lambda payload: call(BytesValue(value=payload)).value


def _serve_socket(path: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    control.emit("ready")
    sock, _ = listener.accept()
    while True:
        data = sock.recv(65536)
        if not data:
            return
        sock.sendall(data)


def main(kind: str, path: str) -> None:
    if kind == "socket":
        _serve_socket(path)
        return
    server: grpc.Server = (
        grpc.server(futures.ThreadPoolExecutor(8)) if kind == "grpcio" else ttrpc.Server()
    )
    handler = grpc.unary_unary_rpc_method_handler(
        lambda request, context: request, BytesValue.FromString, BytesValue.SerializeToString
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"Echo": handler}),)
    )
    server.add_insecure_port(f"unix://{path}")
    server.start()
    control.serve({})


if __name__ == "__main__":
    main(*sys.argv[1:])
