"""Calls in flight, and calls that failed, as grpcio has them: for applications."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Callable, NoReturn

import grpc

from nri_sync.codes import StatusCode
from nri_sync.deadline import Deadline
from nri_sync.rpc.client import ClientEnd
from nri_sync.rpc.client_call import CANCELLED, ClientCall
from nri_sync.rpc.envelope import decode_payload
from nri_sync.rpc.inbox import END
from nri_sync.rpc.status import Status
from nri_sync.text import printable
from nri_sync.ttrpc.codes import grpc_code

__all__ = ["Call", "CallError", "StreamCall", "response_of"]

_OK = Status(StatusCode.OK, "")


class CallError(grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """A call that failed: the exception, and at the same time the finished call, as grpcio has it.

    ``__cause__`` is the reason why this side gave up: a TimeoutError, ConnectionLost or RemoteProtocolError. It is
    ``None`` where the peer has answered with the error.
    """

    def __init__(self, method: str, status: Status) -> None:
        super().__init__(method, status)
        self.method = method
        self._status = status

    def __str__(self) -> str:
        return f"{self.method} failed: {self.code().name}: {printable(self.details())}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"

    def code(self) -> grpc.StatusCode:
        return grpc_code(self._status.number)

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


class Call(grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """A call in flight or finished, from ``future()`` or ``with_call()``.

    A call whose last reference is gone is cancelled, as in grpcio: no code can take its answer any more.
    """

    # The response in a tuple, once it is decoded, or the exception of the deserializer.
    _decoded: tuple[Any, ...] = ()
    _undecodable: Exception | None = None

    def __init__(self, channel: object, end: ClientEnd, call: ClientCall, deserialize: Any) -> None:
        # Keeps the channel, which stays connected while there are calls.
        self._channel = channel
        self._end = end
        self._call = call
        self._deserialize = deserialize

    def __repr__(self) -> str:
        status = self._call.status
        state = "in flight" if status is None else grpc_code(status.number).name
        return f"<{type(self).__name__} {self._call.method}: {state}>"

    # grpc.Call

    def is_active(self) -> bool:
        return not self._call.done.is_set()

    def time_remaining(self) -> float | None:  # type: ignore[override]
        return self._call.deadline.remaining()

    def cancel(self) -> bool:
        """End the call here. The server does not learn of it: ttRPC has no message for a cancellation."""
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
        return grpc_code(self._finished().number)

    def details(self) -> str:
        """Blocks until the call is done."""
        return self._finished().details

    def debug_error_string(self) -> str:
        """The failure in one line; empty for success. Blocks until the call is done."""
        status = self._finished()
        return "" if status.number == 0 else str(CallError(self._call.method, status))

    def _finished(self) -> Status:
        """How the call has ended: INTERNAL if its response cannot be decoded. Blocks until the call is done."""
        self._end.wait(self._call)
        status = self._call.status
        assert status is not None
        return self._decode() if status.number == 0 else status

    def _decode(self) -> Status:
        """Decode the response of a unary call that has succeeded, once."""
        if not self._decoded and self._undecodable is None:
            try:
                message = decode_payload(self._call.payload or b"", self._deserialize)
            except Exception as error:
                self._undecodable = error
            else:
                # Of two threads that are here at once, both return the message of the first.
                self.__dict__.setdefault("_decoded", (message,))
        return _OK if self._undecodable is None else _not_decoded(self._undecodable)

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
        return self._decoded[0]

    def exception(self, timeout: float | None = None) -> CallError | None:
        """Like :meth:`result`, but returns the failure; ``None`` for success."""
        return self._error(timeout)

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
        failure.__cause__ = self._call.cause or self._undecodable
        return failure


def response_of(call: ClientCall, deserialize: Any) -> Any:
    """The response of a unary call that is done. Raises CallError."""
    status = call.status
    assert status is not None
    if status.number != 0:
        raise CallError(call.method, status) from call.cause
    try:
        return decode_payload(call.payload or b"", deserialize)
    except Exception as error:
        raise CallError(call.method, _not_decoded(error)) from error


def _not_decoded(error: Exception) -> Status:
    return Status(StatusCode.INTERNAL, f"cannot deserialize the response: {error}")


class StreamCall(Call):
    """A call whose responses are a stream: iterate over it, from one thread."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The next response. Blocks until it is there.

        Raises:
            grpc.RpcError: the call failed. The messages before that were returned.
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
            return decode_payload(data, self._deserialize)
        except Exception as error:
            undecodable = _not_decoded(error)
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

    def _decode(self) -> Status:
        # Each message has been decoded when it was taken.
        return _OK
