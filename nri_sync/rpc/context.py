"""The context of a call: a handler asks it for deadline and metadata, and sets by it how the call ends."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Mapping
from typing import Any, Callable, NamedTuple, NoReturn

from nri_sync import fork
from nri_sync.codes import StatusCode
from nri_sync.deadline import Deadline
from nri_sync.rpc import envelope_pb2
from nri_sync.rpc.callbacks import Callback
from nri_sync.rpc.grpcio import grpc_classes
from nri_sync.rpc.status import DETAILS_KEY, Status, code_of
from nri_sync.threads import Latch

__all__ = ["Aborted", "Metadatum", "RequestContext", "current_context"]

#: The context of the call that the current thread serves.
current_context: contextvars.ContextVar[RequestContext] = contextvars.ContextVar("nri_sync.context")


class Metadatum(NamedTuple):
    key: str
    value: str


# The number of grpc.Compression.NoCompression.
_NO_COMPRESSION = 0
# Guards how handlers have their calls end. One lock for all contexts: it is held for a few assignments.
_lock = threading.Lock()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()


fork.in_child(_after_fork_in_child)


def _cancel_nothing() -> bool:
    """Cancels a call that is over."""
    return False


class Aborted(Exception):
    """Raised by ``context.abort()`` to leave the handler."""


class RequestContext:
    """The context of a request: its deadline and metadata, and how it ends. Any thread may call any method.

    It has the methods of ``grpc.ServicerContext``, and ``isinstance(context, grpc.ServicerContext)`` is true.

    ttRPC has no initial metadata, no compression and no credentials, and of trailing metadata only the
    rich status (``grpc-status-details-bin``): the methods raise ValueError for anything else.
    """

    # Defaults are attributes of the class: a call that never sets them does no work for them.

    #: For the layers above: the ``owner`` of the ServerEnd.
    owner: Any = None
    #: For the layers above: the name of the handler that serves the call.
    handler = ""
    #: The request, decoded, until the call is over; None before it is decoded, and of a stream.
    request: Any = None
    #: Whether a layer above, which knows more of the call, has logged its refusal.
    refused = False
    #: For the layers above: the facts of the runtime that sent the request.
    runtime: Any = None
    #: For the layers above: the code that the handler has set.
    status_code: StatusCode | None = None
    #: Set when the kernel has the answer; None unless a thread waits for it.
    answered: Latch | None = None
    _details: str | None = None
    _rich: bytes | None = None
    _aborted = False
    _ended = False
    _callbacks: list[Callback] | None = None

    def __init__(
        self,
        method: str,
        metadata: tuple[Metadatum, ...],
        since: float,
        timeout: float | None,
        peer: str,
        cancel: Callable[[], object],
    ) -> None:
        """``since`` is on the monotonic clock; ``timeout`` in seconds, ``None``: the caller never gives up."""
        #: The full method name, ``/package.Service/Method``.
        self.method = method
        self._metadata = metadata
        #: When the request came, on the monotonic clock.
        self.since = since
        self._timeout = timeout
        self._peer = peer
        self._cancel = cancel

    @property  # type: ignore[misc]
    def __class__(self) -> type[RequestContext]:
        """The class. isinstance() reads it, and so finds a virtual subclass of ``grpc.ServicerContext``.

        grpcio may be loaded at any time, by any module: here is the last moment to register with it.
        """
        for base in grpc_classes("ServicerContext"):
            base.register(RequestContext)
        return type(self)

    # The request

    def invocation_metadata(self) -> tuple[Metadatum, ...]:
        """The metadata of the request, in order; keys as they came."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Seconds until the caller gives up, at least 0.0; ``None`` when it set no deadline.

        The server itself does not end a call whose time is over: the handler goes on.
        """
        return self.deadline.remaining()

    @property
    def deadline(self) -> Deadline:
        """The time at which the caller gives up."""
        return Deadline.until(None if self._timeout is None else self.since + self._timeout)

    def peer(self) -> str:
        return self._peer

    def peer_identities(self) -> None:
        return None

    def peer_identity_key(self) -> None:
        return None

    def auth_context(self) -> Mapping[str, bytes]:
        return {}

    # How the call ends

    def is_active(self) -> bool:
        """Whether an answer is still wanted: False once the call was answered or cancelled, or has ended."""
        return not self._ended

    def cancel(self) -> bool:
        """End the call with CANCELLED; the handler goes on, and its result is dropped."""
        return bool(self._cancel())

    def add_callback(self, callback: Callback) -> bool:
        """Have ``callback()`` called when the call is over. False, and not called, when it is already."""
        with _lock:
            if self._ended:
                return False
            # Attach, then look: end() takes no lock where it finds no callbacks.
            if self._callbacks is None:
                self._callbacks = []
            self._callbacks.append(callback)
            if not self.is_active():
                self._callbacks.remove(callback)
                return False
            return True

    def abort(self, code: Any, details: str) -> NoReturn:
        """Leave the handler and answer with an error.

        ``code`` is an :class:`nri_sync.StatusCode`, its number, or a ``grpc.StatusCode``.

        Raises:
            Aborted: always, when ``code`` is an error; let it pass.
            ValueError: ``code`` is OK.
            TypeError: ``code`` is no status code.
        """
        code, details = code_of(code), _text(details)
        if code is StatusCode.OK:
            raise ValueError("abort() needs an error code, not StatusCode.OK")
        with _lock:
            self.status_code = code
            self._details = details
            self._aborted = True
        raise Aborted(details)

    def abort_with_status(self, status: Any) -> NoReturn:
        """Like :meth:`abort`, with a ``grpc.Status``, as ``grpc_status.rpc_status`` makes them."""
        self.set_trailing_metadata(status.trailing_metadata or ())
        self.abort(status.code, status.details)

    def set_code(self, code: Any) -> None:
        """Have the call end with ``code``, as :meth:`abort` takes it. Raises TypeError if it is no status code."""
        code = code_of(code)
        with _lock:
            self.status_code = code

    def set_details(self, details: str) -> None:
        details = _text(details)
        with _lock:
            self._details = details

    def code(self) -> Any:
        """The code that the handler has set, an :class:`nri_sync.StatusCode`; ``None`` if it has set none.

        With interceptors of grpc around the handler, it is a ``grpc.StatusCode``.
        """
        return self.status_code

    def details(self) -> str | None:
        return self._details

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Takes ``grpc-status-details-bin`` only: a serialized ``google.rpc.Status``.

        Raises:
            ValueError: any other key, which ttRPC could not transport, or another value.
        """
        for key, value in trailing_metadata or ():
            if key != DETAILS_KEY:
                raise ValueError(f"ttRPC cannot send trailing metadata (key {key!r})")
            try:
                envelope_pb2.Status.FromString(value)
            except Exception as error:
                raise ValueError(f"{DETAILS_KEY} is not a google.rpc.Status: {error}") from error
            with _lock:
                self._rich = bytes(value)

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """The rich status, if the handler has set one; otherwise empty."""
        return () if self._rich is None else ((DETAILS_KEY, self._rich),)

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Raises ValueError unless there is none to send: ttRPC has no initial metadata."""
        if initial_metadata:
            raise ValueError("ttRPC cannot send initial metadata")

    def set_compression(self, compression: Any) -> None:
        """Raises ValueError unless it is ``grpc.Compression.NoCompression``: ttRPC does not compress."""
        if compression != _NO_COMPRESSION:
            raise ValueError("ttRPC cannot compress messages")

    def disable_next_message_compression(self) -> None:
        """Nothing to do: ttRPC never compresses."""

    # For the server

    @property
    def aborted(self) -> bool:
        """Whether the handler left by ``abort()``."""
        return self._aborted

    def forget_abort(self) -> None:
        """Answer as if the handler had not called ``abort()``, ``set_code()`` and so on."""
        with _lock:
            self.status_code = self._details = self._rich = None
            self._aborted = False

    def when_answered(self) -> Latch:
        """A latch that is set when the answer has been handed to the kernel.

        Call this on the thread that serves the call, before the answer is sent.
        """
        if self.answered is None:
            self.answered = Latch()
        return self.answered

    def status(self, error: Status | None) -> Status | None:
        """The error to answer with: that of the handler's calls here, or ``error``; ``None`` for success."""
        # The common case needs no lock.
        return error if self.status_code is None else self._explicit_status(error)

    def _explicit_status(self, error: Status | None) -> Status | None:
        with _lock:
            code, details = self.status_code, self._details
            if code is None or (code is StatusCode.OK and error is not None):
                return error
            if code is StatusCode.OK:
                return None
            if details is None:
                details = "" if error is None else error.details
            return Status(code, details, self._rich)

    def end(self) -> list[Callback]:
        """The call is over; returns the callbacks to call, the first time."""
        self._ended = True
        self.request = None
        # It leads back to this context: without it, no cycle is left for the garbage collector.
        self._cancel = _cancel_nothing
        if self._callbacks is None:
            return []
        with _lock:
            callbacks, self._callbacks = self._callbacks, None
        return callbacks or []


def _text(details: Any) -> str:
    if isinstance(details, bytes):
        return details.decode("utf-8", "replace")
    return "" if details is None else str(details)
