"""A ``grpc.Channel`` over one ttRPC connection, for generated stubs and client interceptors."""

from __future__ import annotations

import functools
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Callable, NoReturn

import grpc

from nri_sync.deadline import Deadline
from nri_sync.errors import NoThread, NRIError
from nri_sync.logger import get_logger
from nri_sync.text import printable
from nri_sync.threads import spawn
from nri_sync.ttrpc.callbacks import Callback, run_callbacks, run_elsewhere
from nri_sync.ttrpc.client import CANCELLED, ClientCall, ClientEnd
from nri_sync.ttrpc.inbox import END, Inbox
from nri_sync.ttrpc.status import Status
from nri_sync.wire.streams import State

__all__ = ["CallError", "Channel"]

logger = get_logger("nri_sync.ttrpc")


class CallError(grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """A call that failed: the exception, and at the same time the finished call, as grpcio has it.

    ``__cause__`` tells why this side gave up: a TimeoutError, ConnectionLost or RemoteProtocolError. It is
    ``None`` where the peer has answered with the error.
    """

    def __init__(self, method: str, status: Status) -> None:
        super().__init__(method, status)
        self.method = method
        self._status = status

    def __str__(self) -> str:
        return f"{self.method} failed: {self.code().name}: {printable(self.details())}"

    def code(self) -> grpc.StatusCode:
        return self._status.code

    def details(self) -> str:
        return self._status.details

    def debug_error_string(self) -> str:
        return str(self)

    def initial_metadata(self) -> tuple[()]:
        return ()

    def trailing_metadata(self) -> Any:
        return self._status.trailing_metadata

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> None:  # type: ignore[override]
        return None

    def cancel(self) -> bool:
        return False

    def add_callback(self, callback: Callable[[], object]) -> bool:
        return False

    def cancelled(self) -> bool:
        return self._status is CANCELLED

    def running(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> NoReturn:
        raise self

    def exception(self, timeout: float | None = None) -> CallError:
        return self

    def traceback(self, timeout: float | None = None) -> Any:
        return _traceback(self)

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        fn(self)


def _traceback(error: CallError) -> Any:
    """Where the error was raised; here, if it never was: so interceptors that ask for it find a traceback."""
    trace: Any = error.__traceback__
    if trace is None:
        try:
            raise error
        except CallError:
            pass
        finally:
            trace = error.__traceback__
            # The traceback leads to this frame: without the name there is no cycle.
            del error
    return trace


class _Call(grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """A call in flight or finished; what ``future()`` and ``with_call()`` return.

    A call whose last reference is gone is cancelled, as in grpcio: nobody can take its answer any more.
    """

    def __init__(self, method: _Method, call: ClientCall) -> None:
        # It leads to the channel, which stays connected while there are calls.
        self._method = method
        self._end = method.end
        self._call = call
        self._deserialize = method.deserialize

    # grpc.Call

    def is_active(self) -> bool:
        return not self._call.done.is_set()

    def time_remaining(self) -> float | None:  # type: ignore[override]
        return self._call.deadline.remaining()

    def cancel(self) -> bool:
        """End the call here; the server is not told, since ttRPC has no message for it."""
        return self._end.cancel(self._call)

    def add_callback(self, callback: Callable[[], object]) -> bool:
        return self._end.add_callback(self._call, callback)

    def initial_metadata(self) -> tuple[()]:
        """Always empty: ttRPC has none."""
        return ()

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """The rich status, if the server sent one. Blocks until the call is done."""
        return self._finished().trailing_metadata

    def code(self) -> grpc.StatusCode:
        """Blocks until the call is done."""
        return self._finished().code

    def details(self) -> str:
        """Blocks until the call is done."""
        return self._finished().details

    def debug_error_string(self) -> str:
        """The failure in one line; empty for success. Blocks until the call is done."""
        status = self._finished()
        return "" if status.number == 0 else str(CallError(self._call.method, status))

    def _finished(self) -> Status:
        self._end.wait(self._call)
        assert self._call.status is not None
        return self._call.status

    # grpc.Future

    def cancelled(self) -> bool:
        """Whether :meth:`cancel` has ended it."""
        return self._call.status is CANCELLED

    def running(self) -> bool:
        return not self.done()

    def done(self) -> bool:
        return self._call.done.is_set()

    def result(self, timeout: float | None = None) -> Any:
        """The response. Blocks until the call is done.

        Raises:
            grpc.RpcError: the call failed.
            grpc.FutureTimeoutError: ``timeout`` (in seconds) passed; the call goes on.
            grpc.FutureCancelledError: the call was cancelled.
        """
        error = self._error(timeout)
        if error is not None:
            raise error
        return self._value()

    def exception(self, timeout: float | None = None) -> CallError | None:
        """Like :meth:`result`, but returns the failure; ``None`` for success."""
        error = self._error(timeout)
        if error is None:
            try:
                self._value()
            except CallError as undecodable:
                return undecodable
        return error

    def traceback(self, timeout: float | None = None) -> Any:
        """Of the failure, as :meth:`exception` has it; ``None`` for success."""
        error = self.exception(timeout)
        return None if error is None else _traceback(error)

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Have ``fn(self)`` called, on a thread of the connection, or here if the call is done."""
        if not self._end.add_callback(self._call, lambda: fn(self)):
            fn(self)

    def _error(self, timeout: float | None) -> CallError | None:
        if timeout is not None and not self._call.done.wait(Deadline(timeout)):
            raise grpc.FutureTimeoutError()
        status = self._finished()
        if status.number == 0:
            return None
        if status is CANCELLED:
            raise grpc.FutureCancelledError()
        failure = CallError(self._call.method, status)
        failure.__cause__ = self._call.cause
        return failure

    def _value(self) -> Any:
        payload = self._call.payload or b""
        if self._deserialize is None:
            return payload
        try:
            return self._deserialize(payload)
        except Exception as error:
            raise CallError(self._call.method, _undecodable(error)) from error


def _undecodable(error: Exception) -> Status:
    return Status.of(grpc.StatusCode.INTERNAL, f"cannot deserialize the response: {error}")


class _StreamCall(_Call):
    """A call whose responses are a stream: iterate over it, from one thread."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The next response. Blocks until it is there.

        Raises:
            grpc.RpcError: the call failed; what arrived before that was yielded.
        """
        call, end = self._call, self._end
        assert call.inbox is not None
        try:
            data = END if self.cancelled() else call.inbox.get(call.deadline)
        except TimeoutError:
            end.wait(call)
            data = END
        if data is END:
            end.settle(call)
            status = self._finished()
            if status.number == 0:
                raise StopIteration
            raise CallError(call.method, status) from call.cause
        try:
            return data if self._deserialize is None else self._deserialize(data)
        except Exception as error:
            undecodable = _undecodable(error)
            end.finish(call, undecodable, even_if_answered=True)
            call.inbox.discard()
            raise CallError(call.method, undecodable) from error
        finally:
            # Take, then look: the reading thread sets the outcome, then looks whether all has been taken.
            if call.outcome is not None and call.inbox.drained:
                end.settle(call)

    def result(self, timeout: float | None = None) -> Any:
        """Blocks until the stream has been consumed (by another thread) or has failed; returns itself."""
        error = self._error(timeout)
        if error is not None:
            raise error
        return self

    def exception(self, timeout: float | None = None) -> CallError | None:
        return self._error(timeout)


class _Method:
    """One method of a channel, of any of the four kinds."""

    def __init__(
        self, channel: Channel, method: str, serialize: Any, deserialize: Any, kind: str
    ) -> None:
        self._channel = channel
        self.end = self._end = channel.end
        self._method = method
        self._serialize = serialize
        self.deserialize = deserialize
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
            self._end.finish(call, Status.of(grpc.StatusCode.RESOURCE_EXHAUSTED, text))
        return call

    def _encode(self, request: Any) -> bytes:
        if self._serialize is None:
            return bytes(request)
        try:
            return bytes(self._serialize(request))
        except Exception as error:
            text = f"cannot serialize the request: {error}"
            raise CallError(self._method, Status.of(grpc.StatusCode.INTERNAL, text)) from error

    def _feed(self, call: ClientCall, requests: Any) -> None:
        """Send a stream of requests; on a thread of its own, since the iterator may block."""
        try:
            for request in requests:
                if call.done.is_set() or not self._end.send_data(call, self._encode(request)):
                    return
            self._end.send_data(call, b"", last=True)
        except CallError as error:
            self._end.finish(call, Status.of(error.code(), error.details()))
        except Exception as error:
            logger.exception("%s: iterating over the requests failed", self._method)
            text = f"iterating over the requests failed: {error!r}"
            self._end.finish(call, Status.of(grpc.StatusCode.UNKNOWN, text))

    def _wrap(self, call: ClientCall) -> _Call:
        kind = _StreamCall if self._responses_stream else _Call
        wrapped = kind(self, call)
        if not call.done.is_set():
            # No __del__(): that would run for finished calls, too, and swallow an interrupt of the main thread.
            call.owner = weakref.ref(wrapped, functools.partial(_drop, self.end, call))
            # Set, then look: the call that is done clears it.
            if call.done.is_set():
                call.owner = None
        return wrapped


def _drop(end: ClientEnd, call: ClientCall, owner: object) -> None:
    end.drop(call)


class _ToUnary(_Method):
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
            ValueError: something was asked for that ttRPC does not have.
        """
        return self.with_call(request, timeout, metadata, credentials, wait_for_ready, compression)[
            0
        ]

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> tuple[Any, _Call]:
        """Like calling it, but returns the ``grpc.Call`` as well."""
        call = self._begin(request, timeout, metadata, credentials, compression, wait=True)
        self._end.wait(call)
        wrapped = self._wrap(call)
        assert call.status is not None
        if call.status.number != 0:
            raise CallError(call.method, call.status) from call.cause
        return wrapped._value(), wrapped

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> _Call:
        """Begin the call and return at once (blocks only while the peer does not read)."""
        call = self._begin(request, timeout, metadata, credentials, compression)
        self._end.watch(call)
        return self._wrap(call)


class _ToStream(_Method):
    """``grpc.UnaryStreamMultiCallable`` and ``grpc.StreamStreamMultiCallable``."""

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> _Call:
        """Begin the call; iterate over what is returned."""
        call = self._begin(request, timeout, metadata, credentials, compression)
        self._end.watch(call)
        return self._wrap(call)


class Channel(grpc.Channel):
    """A ``grpc.Channel`` that is one ttRPC connection. Thread-safe.

    It is connected from the start, and never again: when the connection is lost all calls fail with
    UNAVAILABLE, and the channel's state is SHUTDOWN.
    """

    def __init__(self, end: ClientEnd, close: Callable[[], object]) -> None:
        self.end = end
        self._close = close
        # Guards what is below.
        self._lock = threading.Lock()
        self._state = grpc.ChannelConnectivity.READY
        self._subscribers: list[Callable[[grpc.ChannelConnectivity], object]] = []
        # What the subscribers are still to be told, in order; one thread at a time does.
        self._news: deque[Callback] = deque()

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return _ToUnary(self, method, request_serializer, response_deserializer, "unary_unary")

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return _ToStream(self, method, request_serializer, response_deserializer, "unary_stream")

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return _ToUnary(self, method, request_serializer, response_deserializer, "stream_unary")

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return _ToStream(self, method, request_serializer, response_deserializer, "stream_stream")

    def subscribe(
        self,
        callback: Callable[[grpc.ChannelConnectivity], object],
        try_to_connect: bool | None = False,
    ) -> None:
        """Have ``callback(state)`` called, on another thread, with the state now and when it changes."""
        with self._lock:
            self._subscribers.append(callback)
            begin = self._queue_locked([callback])
        if begin:
            run_elsewhere(self.end.name, [self._tell])

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], object]) -> None:
        with self._lock:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

    def _queue_locked(self, callbacks: Sequence[Callable[..., object]]) -> bool:
        """Let them be called with the state as it is; returns whether a thread is needed to do so."""
        assert self._lock.locked()
        idle = not self._news
        self._news.extend(functools.partial(callback, self._state) for callback in callbacks)
        return idle and bool(self._news)

    def _tell(self) -> None:
        while True:
            with self._lock:
                if not self._news:
                    return
                news = self._news[0]
            run_callbacks([news])
            with self._lock:
                self._news.popleft()

    def lost(self, cause: NRIError | None) -> None:
        """The connection is gone; called by its owner."""
        with self._lock:
            self._state = grpc.ChannelConnectivity.SHUTDOWN
            begin = self._queue_locked(self._subscribers)
        if begin:
            run_elsewhere(self.end.name, [self._tell])

    def after_fork_in_child(self) -> None:
        """The connection is the parent's; called by its owner. No subscriber is called."""
        self._lock = threading.Lock()
        self._state = grpc.ChannelConnectivity.SHUTDOWN
        self._subscribers.clear()
        self._news.clear()

    def close(self) -> None:
        """End the connection; calls in flight fail with CANCELLED. Idempotent, does not block."""
        self.end.shut(Status.of(grpc.StatusCode.CANCELLED, "the channel was closed"))
        self._close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
