"""Clients of the HTTP endpoint."""

from __future__ import annotations

import contextlib
import http.client
import socket

from nri_sync.kit.health.address import parse_address
from nri_sync.kit.health.server import HealthServer
from tests.kit._node import LONG

__all__ = ["connect", "get", "received", "send"]


def connect(server: HealthServer) -> socket.socket:
    family, address = parse_address(server.address)
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(LONG)
    sock.connect(address)
    return sock


def received(sock: socket.socket) -> bytes:
    """Receive until the end."""
    pieces = []
    while piece := sock.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def send(server: HealthServer, data: bytes) -> bytes:
    """Send these bytes, and return the whole response."""
    with connect(server) as sock:
        sock.sendall(data)
        return received(sock)


def get(server: HealthServer, target: str) -> tuple[int, str]:
    """Return status and body, by a client of the standard library."""
    host, _, port = server.address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=LONG)
    with contextlib.closing(connection):
        connection.request("GET", target)
        response = connection.getresponse()
        return response.status, response.read().decode()
