"""A ``grpc.Channel`` over one ttRPC connection, for generated stubs and client interceptors."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Callable

import grpc

from nri_sync.codes import StatusCode
from nri_sync.errors import NRIError
from nri_sync.rpc.callbacks import Callback, run_callbacks, run_elsewhere
from nri_sync.rpc.client import ClientEnd
from nri_sync.rpc.status import Status
from nri_sync.ttrpc.multicallable import ToStream, ToUnary

__all__ = ["Channel"]


def _factory(make: Callable[..., Any], kind: str) -> Any:
    def method(
        self: Channel,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return make(self, self.end, method, request_serializer, response_deserializer, kind)

    method.__name__ = kind
    method.__doc__ = (
        f"The method of that name, of the kind {kind}, as grpcio has it. Sends nothing."
    )
    return method


class Channel(grpc.Channel):
    """A ``grpc.Channel`` that is one ttRPC connection. Thread-safe.

    It is connected from the start, and never again: when the connection is lost all calls fail with
    UNAVAILABLE, and the channel's state is SHUTDOWN.
    """

    def __init__(self, end: ClientEnd, close: Callable[[], object]) -> None:
        self.end = end
        self._close = close
        # Guards the fields below.
        self._lock = threading.Lock()
        self._state = grpc.ChannelConnectivity.READY
        self._subscribers: list[Callable[[grpc.ChannelConnectivity], object]] = []
        # The calls of subscribers that are due, in order. One thread at a time makes them.
        self._due: deque[Callback] = deque()

    unary_unary: Any = _factory(ToUnary, "unary_unary")
    unary_stream: Any = _factory(ToStream, "unary_stream")
    stream_unary: Any = _factory(ToUnary, "stream_unary")
    stream_stream: Any = _factory(ToStream, "stream_stream")

    def subscribe(
        self,
        callback: Callable[[grpc.ChannelConnectivity], object],
        try_to_connect: bool | None = False,
    ) -> None:
        """Have ``callback(state)`` called, on another thread, with the state now and when it changes."""
        with self._lock:
            self._subscribers.append(callback)
            starts = self._queue_locked([callback])
        if starts:
            run_elsewhere(self.end.name, [self._call_subscribers])

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], object]) -> None:
        with self._lock:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

    def _queue_locked(self, callbacks: Sequence[Callable[..., object]]) -> bool:
        """Queue calls with the present state. Returns whether a thread has to be started for them."""
        assert self._lock.locked()
        idle = not self._due
        self._due.extend(functools.partial(callback, self._state) for callback in callbacks)
        return idle and bool(self._due)

    def _call_subscribers(self) -> None:
        while True:
            with self._lock:
                if not self._due:
                    return
                call = self._due[0]
            run_callbacks([call])
            with self._lock:
                self._due.popleft()

    def lost(self, cause: NRIError | None) -> None:
        """The connection is gone; called by its owner."""
        with self._lock:
            self._state = grpc.ChannelConnectivity.SHUTDOWN
            starts = self._queue_locked(self._subscribers)
        if starts:
            run_elsewhere(self.end.name, [self._call_subscribers])

    def after_fork_in_child(self) -> None:
        """The connection is the parent's; called by its owner. No subscriber is called."""
        self._lock = threading.Lock()
        self._state = grpc.ChannelConnectivity.SHUTDOWN
        self._subscribers.clear()
        self._due.clear()

    def close(self) -> None:
        """End the connection; calls in flight fail with CANCELLED. Idempotent, does not block."""
        self.end.fail_all(Status(StatusCode.CANCELLED, "the channel was closed"))
        self._close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
