"""gRPC status codes as ttRPC carries them, and which code an exception becomes."""

from __future__ import annotations

import concurrent.futures
import contextlib
from typing import Any, NamedTuple

import grpc

from nri_sync.errors import Reject
from nri_sync.rpc import envelope_pb2

__all__ = ["DETAILS_KEY", "Status", "code_of", "from_exception"]

#: gRPC transports the full google.rpc.Status in this trailing metadata entry; ttRPC has a field for it.
DETAILS_KEY = "grpc-status-details-bin"

_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}

# The Go implementation maps its standard errors the same way.
_BY_EXCEPTION = (
    (Reject, grpc.StatusCode.PERMISSION_DENIED),
    (concurrent.futures.CancelledError, grpc.StatusCode.CANCELLED),
    (concurrent.futures.TimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (TimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (FileExistsError, grpc.StatusCode.ALREADY_EXISTS),
    (FileNotFoundError, grpc.StatusCode.NOT_FOUND),
    (PermissionError, grpc.StatusCode.PERMISSION_DENIED),
    (BrokenPipeError, grpc.StatusCode.FAILED_PRECONDITION),
    (EOFError, grpc.StatusCode.OUT_OF_RANGE),
)


class Status(NamedTuple):
    """How a call ended. ``number`` is the code on the wire, which may be none that gRPC defines."""

    number: int
    details: str
    #: A serialized google.rpc.Status, where the peer gave more than code and text.
    rich: bytes | None = None

    @classmethod
    def of(cls, code: grpc.StatusCode, details: str, rich: bytes | None = None) -> Status:
        return cls(code.value[0], details, rich)

    @property
    def code(self) -> grpc.StatusCode:
        return code_of(self.number)

    @classmethod
    def from_message(cls, message: envelope_pb2.Status) -> Status:
        rich = message.SerializeToString() if message.details else None
        return cls(message.code, message.message, rich)

    def to_message(self) -> envelope_pb2.Status:
        message = envelope_pb2.Status()
        if self.rich is not None:
            message.ParseFromString(self.rich)
        message.code = self.number
        # A lone surrogate cannot be sent; better a replacement character than no answer.
        message.message = self.details.encode("utf-8", "replace").decode("utf-8")
        return message

    @property
    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return () if self.rich is None else ((DETAILS_KEY, self.rich),)


def code_of(number: int) -> grpc.StatusCode:
    """The gRPC code with that number; UNKNOWN for numbers that gRPC does not define."""
    return _BY_NUMBER.get(number, grpc.StatusCode.UNKNOWN)


def from_exception(error: BaseException) -> Status:
    """The status that a handler's exception becomes.

    Never UNIMPLEMENTED: to the peer that would mean that the method does not exist, and NRI runtimes take
    a plugin that says so for one of an older protocol, from then on.
    """
    code = grpc.StatusCode.UNKNOWN
    text = _describe(error)
    if isinstance(error, grpc.RpcError):
        # As raised by a call: it has the methods of grpc.Call as well. Anybody can make one that has not.
        said: Any = None
        details: Any = None
        with contextlib.suppress(Exception):
            said, details = error.code(), error.details()
        if isinstance(said, grpc.StatusCode):
            code = said
        if isinstance(details, str):
            text = details or text
    else:
        for kind, mapped in _BY_EXCEPTION:
            if isinstance(error, kind):
                code = mapped
                break
    if code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.OK):
        code = grpc.StatusCode.UNKNOWN
    return Status.of(code, text)


def _describe(error: BaseException) -> str:
    name = type(error).__name__
    try:
        if isinstance(error, Reject) and str(error):
            return str(error)  # it is made for users
        return f"{name}: {error}" if str(error) else name
    except Exception:  # raised by its __str__()
        return name
