"""The methods of a channel, of all four kinds. Generated stubs call them."""

from __future__ import annotations

import functools
import weakref
from typing import Any

import grpc

from nri_sync.codes import StatusCode
from nri_sync.deadline import Deadline
from nri_sync.errors import NoThread
from nri_sync.logger import get_logger
from nri_sync.rpc.client import ClientEnd
from nri_sync.rpc.client_call import ClientCall
from nri_sync.rpc.envelope import as_bytes
from nri_sync.rpc.inbox import Inbox
from nri_sync.rpc.status import Status, code_of
from nri_sync.threads import spawn
from nri_sync.ttrpc.call import Call, CallError, StreamCall, response_of
from nri_sync.wire.streams import State

__all__ = ["ToStream", "ToUnary"]


logger = get_logger("nri_sync.ttrpc")


class _Method:
    """One method of a channel, of any of the four kinds."""

    def __init__(
        self,
        channel: object,
        end: ClientEnd,
        method: str | bytes,
        serialize: Any,
        deserialize: Any,
        kind: str,
    ) -> None:
        # Kept: a channel stays connected while there are methods of it.
        self._channel = channel
        self._end = end
        self._method = method.decode() if isinstance(method, bytes) else method
        self._serialize = serialize
        self._deserialize = deserialize
        self._requests_stream = kind.startswith("stream")
        self._responses_stream = kind.endswith("stream")

    def _begin(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        compression: Any,
        wait: bool = False,
    ) -> ClientCall:
        if credentials is not None:
            raise ValueError("ttRPC has no call credentials")
        if compression not in (None, grpc.Compression.NoCompression):
            raise ValueError("ttRPC cannot compress messages")
        deadline = Deadline(timeout)
        inbox = Inbox() if self._responses_stream else None
        if not self._requests_stream:
            payload = self._encode(request)
            state = State.HALF_CLOSED if self._responses_stream else State.UNARY
            return self._end.start(
                self._method,
                payload,
                state=state,
                deadline=deadline,
                metadata=metadata,
                inbox=inbox,
                wait=wait,
            )
        call = self._end.start(
            self._method, b"", state=State.OPEN, deadline=deadline, metadata=metadata, inbox=inbox
        )
        try:
            spawn(f"{self._end.name}-requests", self._feed, call, request)
        except NoThread as error:
            text = f"cannot send the requests: {error}"
            self._end.finish(call, Status(StatusCode.RESOURCE_EXHAUSTED, text))
        return call

    def _encode(self, request: Any) -> bytes:
        """The payload of a request. Raises CallError, and TypeError for something else than bytes."""
        try:
            payload = request if self._serialize is None else self._serialize(request)
            if payload is None:
                raise ValueError("there is none")
        except Exception as error:
            text = f"cannot serialize the request: {error}"
            raise CallError(self._method, Status(StatusCode.INTERNAL, text)) from error
        return as_bytes(payload)

    def _feed(self, call: ClientCall, requests: Any) -> None:
        """Send a stream of requests. For a new thread, since the iterator may block."""
        try:
            for request in requests:
                if call.done.is_set() or not self._end.send_data(call, self._encode(request)):
                    return
            self._end.send_data(call, b"", last=True)
        except CallError as error:
            self._end.finish(call, Status(code_of(error.code()), error.details()))
        except Exception as error:
            logger.exception("%s: iterating over the requests failed", self._method)
            text = f"iterating over the requests failed: {error!r}"
            self._end.finish(call, Status(StatusCode.UNKNOWN, text))

    def _wrap(self, call: ClientCall) -> Call:
        kind = StreamCall if self._responses_stream else Call
        wrapped = kind(self._channel, self._end, call, self._deserialize)
        if not call.done.is_set():
            # No __del__(): that would run for finished calls, too, and swallow an interrupt of the main thread.
            call.owner = weakref.ref(wrapped, functools.partial(_drop, self._end, call))
            # Set, then look: the call that is done clears it.
            if call.done.is_set():
                call.owner = None
        return wrapped


def _drop(end: ClientEnd, call: ClientCall, owner: object) -> None:
    end.drop(call)


class ToUnary(_Method):
    """``grpc.UnaryUnaryMultiCallable`` and ``grpc.StreamUnaryMultiCallable``."""

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        """Make the call and block until it is done. ``timeout`` is in seconds.

        Raises:
            grpc.RpcError: the call failed.
            ValueError: an argument asks for a feature that ttRPC does not have.
            TypeError: the request is not bytes, and there is no serializer.
        """
        call = self._begin(request, timeout, metadata, credentials, compression, wait=True)
        if call.status is None:
            self._end.wait(call)
        return response_of(call, self._deserialize)

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> tuple[Any, Call]:
        """Like calling it, but returns the ``grpc.Call`` as well."""
        call = self._begin(request, timeout, metadata, credentials, compression, wait=True)
        self._end.wait(call)
        wrapped = self._wrap(call)
        assert call.status is not None
        if call.status.number != 0:
            raise CallError(call.method, call.status) from call.cause
        return wrapped.result(), wrapped

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Call:
        """Begin the call and return at once (blocks only while the peer does not read)."""
        call = self._begin(request, timeout, metadata, credentials, compression)
        self._end.watch(call)
        return self._wrap(call)


class ToStream(_Method):
    """``grpc.UnaryStreamMultiCallable`` and ``grpc.StreamStreamMultiCallable``."""

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Call:
        """Begin the call; returns an iterator over the responses."""
        call = self._begin(request, timeout, metadata, credentials, compression)
        self._end.watch(call)
        return self._wrap(call)
