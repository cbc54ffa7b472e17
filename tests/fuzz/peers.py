"""The bytes that a fuzzed peer sends: messages made of the input, most of the right form."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator

from nri_sync.rpc import envelope_pb2
from nri_sync.wire.mux import PLUGIN_SERVICE, RUNTIME_SERVICE, frame_message
from nri_sync.wire.ttrpc import RESPONSE, encode_header

__all__ = ["LINE_MAX", "LONG", "drain", "message", "request", "sent", "watched"]

#: Longer than any input takes, in seconds.
LONG = 20.0
#: The characters of a log record: three texts of 1,000, and the words around them.
LINE_MAX = 4000


def request(service: str, method: str, payload: bytes) -> bytes:
    return envelope_pb2.Request(service=service, method=method, payload=payload).SerializeToString()


def message(connection_id: int, kind: int, stream_id: int, data: bytes, flags: int = 0) -> bytes:
    header = encode_header(kind, stream_id, flags, len(data))
    return b"".join(bytes(part) for part in frame_message(connection_id, header, data))


def sent(data: bytes, service: str, methods: list[str], serve: int) -> Iterator[bytes]:
    """The bytes that the peer sends. Each part of the input has a head of four bytes; the last is the length.

    ``serve`` is the connection on which the side under test serves ``methods``.
    """
    call = PLUGIN_SERVICE + RUNTIME_SERVICE - serve
    at = 0
    while at + 4 <= len(data):
        kind, number, detail, length = data[at : at + 4]
        rest = data[at + 4 : at + 4 + length]
        at += 4 + length
        if kind % 4 == 0:
            yield rest
        elif kind % 4 == 1:
            payload = request(service, methods[number % len(methods)], rest)
            yield message(serve, 1, 2 * detail + 1, payload)
        elif kind % 4 == 2:
            yield message(call, RESPONSE, number, rest)
        else:
            yield message(number % 4, detail % 5, number, rest, kind >> 2 & 7)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Fail for an exception that ends a thread, and for a log record that is long."""
    unexpected: list[str] = []

    class Check(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if len(text) > LINE_MAX:
                unexpected.append(f"a record of {len(text)} characters: {text[:200]}")

    logger = logging.getLogger("nri_sync")
    check, hook, before = Check(), threading.excepthook, (logger.level, logger.propagate)
    threading.excepthook = lambda args: unexpected.append(repr(args.exc_value))
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(check)
    try:
        yield
        assert unexpected == []
    finally:
        logger.removeHandler(check)
        logger.level, logger.propagate = before
        threading.excepthook = hook


def drain(sock: socket.socket) -> None:
    """Read until the other side closes the connection; fail if that takes too long."""
    sock.settimeout(LONG)
    with contextlib.suppress(ConnectionError):
        while sock.recv(65536):
            pass
