"""The addresses of a :class:`nri_sync.kit.HealthServer`.

The options of a program need this module; most programs do not need the server, whose HTTP takes 6 MB.
"""

from __future__ import annotations

import os
import socket
from typing import Any, Union

from nri_sync.net import sockets

__all__ = ["Address", "parse_address", "text_of"]

#: An address of the module ``socket``.
Address = Union[str, "tuple[Any, ...]"]


def parse_address(address: str | os.PathLike[str]) -> tuple[socket.AddressFamily, Address]:
    """Return the family and address of the socket that an address of :class:`HealthServer` describes.

    Raises ValueError for any other text.
    """
    address = os.fspath(address)
    if address.startswith(("unix:", "unix-abstract:", "/")):
        try:
            return socket.AF_UNIX, sockets.parse_target(address)
        except ValueError as error:
            raise ValueError(f"{error}; for example: unix:///absolute/path") from None
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(
            f"{address!r} is not an address; for example: 127.0.0.1:8080, 0.0.0.0:8080 for all interfaces, "
            "or unix:///path"
        )
    if host.startswith("[") and host.endswith("]"):
        return socket.AF_INET6, (host[1:-1], int(port))
    if ":" in host:
        raise ValueError(f"{address!r}: write an IPv6 address in brackets, as in [::1]:8080")
    return socket.AF_INET, (host, int(port))


def text_of(address: Address) -> str:
    """The text of an address, in the form for clients."""
    if isinstance(address, (str, bytes)):
        path = os.fsdecode(address)
        return f"unix-abstract:{path[1:]}" if path.startswith("\0") else f"unix:{path}"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}"
