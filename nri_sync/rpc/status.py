"""The status of a call as ttRPC carries it, and the status that an exception becomes."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

from nri_sync.codes import StatusCode
from nri_sync.errors import CallFailed, Reject
from nri_sync.rpc import envelope_pb2
from nri_sync.rpc.grpcio import grpc_classes, loaded_classes

__all__ = ["DETAILS_KEY", "Status", "code_of", "from_exception", "status_of", "text_of"]

#: gRPC transports the full google.rpc.Status in this trailing metadata entry; ttRPC has a field for it.
DETAILS_KEY = "grpc-status-details-bin"

_BY_NUMBER = {int(code): code for code in StatusCode}

_FUTURES = "concurrent.futures"

# The Go implementation maps its standard errors the same way.
_BY_EXCEPTION = (
    (Reject, StatusCode.PERMISSION_DENIED),
    (TimeoutError, StatusCode.DEADLINE_EXCEEDED),
    (FileExistsError, StatusCode.ALREADY_EXISTS),
    (FileNotFoundError, StatusCode.NOT_FOUND),
    (PermissionError, StatusCode.PERMISSION_DENIED),
    (BrokenPipeError, StatusCode.FAILED_PRECONDITION),
    (EOFError, StatusCode.OUT_OF_RANGE),
)


class Status(NamedTuple):
    """How a call ended. ``number`` is the code on the wire, which gRPC may not define."""

    number: int
    details: str
    #: A serialized google.rpc.Status, where the peer gave more than code and text.
    rich: bytes | None = None

    @property
    def code(self) -> StatusCode:
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

    def error(self, method: str) -> CallFailed:
        """The exception for the caller of ``method``."""
        return CallFailed(method, self.code, self.details, self.rich)


def code_of(code: Any) -> StatusCode:
    """The code with that number, or that a ``grpc.StatusCode`` stands for; UNKNOWN for a number without a code.

    Raises:
        TypeError: ``code`` is neither a number nor a ``grpc.StatusCode``.
    """
    if isinstance(code, int):
        return _BY_NUMBER.get(code, StatusCode.UNKNOWN)
    if isinstance(code, grpc_classes("StatusCode")):
        return _BY_NUMBER[code.value[0]]
    raise TypeError(
        f"{code!r} is no StatusCode: pass one of nri_sync or grpc, such as nri_sync.StatusCode.NOT_FOUND"
    )


def status_of(error: BaseException) -> Status | None:
    """The status of a call that failed with ``error``; ``None`` unless it is a CallFailed or ``grpc.RpcError``."""
    own = isinstance(error, CallFailed)
    if not (own or isinstance(error, grpc_classes("RpcError"))):
        return None
    # The error of a call has the methods of grpc.Call, too. Any other RpcError may lack them. A handler may make
    # either error of any values.
    failed: Any = error
    number, details, rich = StatusCode.UNKNOWN, None, None
    with contextlib.suppress(Exception):
        code, details = failed.code(), failed.details()
        if own or isinstance(code, grpc_classes("StatusCode")):
            number = code_of(code)
        rich = failed.rich if own else dict(failed.trailing_metadata() or ()).get(DETAILS_KEY)
    return Status(
        number,
        details if isinstance(details, str) else "",
        rich if isinstance(rich, bytes) else None,
    )


def from_exception(error: BaseException) -> Status:
    """The status that a handler's exception becomes.

    Never UNIMPLEMENTED: to the peer that would mean that the method does not exist, and NRI runtimes take
    a plugin that says so for one of an older protocol, from then on.
    """
    code = StatusCode.UNKNOWN
    text = _describe(error)
    failed = status_of(error)
    if failed is not None:
        code = failed.code
        text = failed.details or text
    elif isinstance(error, loaded_classes(_FUTURES, "CancelledError")):
        code = StatusCode.CANCELLED
    elif isinstance(error, loaded_classes(_FUTURES, "TimeoutError")):
        code = (
            StatusCode.DEADLINE_EXCEEDED
        )  # before Python 3.11 it is not the built-in TimeoutError
    else:
        for kind, mapped in _BY_EXCEPTION:
            if isinstance(error, kind):
                code = mapped
                break
    if code in (StatusCode.UNIMPLEMENTED, StatusCode.OK):
        code = StatusCode.UNKNOWN
    return Status(code, text)


def _describe(error: BaseException) -> str:
    name = type(error).__name__
    text = text_of(error)
    # That of a refusal is made for users.
    return text if isinstance(error, Reject) or text == name else f"{name}: {text}"


def text_of(error: BaseException) -> str:
    """``str(error)``, or the name of its class where that is empty or raises an exception."""
    text = ""
    with contextlib.suppress(BaseException):
        text = str(error)
    return text or type(error).__name__
