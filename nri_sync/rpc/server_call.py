"""One call on a server, from the arrival of its request to its answer."""

from __future__ import annotations

import _thread
import contextlib
import math
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from nri_sync.codes import StatusCode
from nri_sync.errors import Reject
from nri_sync.logger import get_logger
from nri_sync.net.link import Buffer, Job, Link
from nri_sync.rpc.callbacks import Callback, run_callbacks
from nri_sync.rpc.context import Metadatum, RequestContext, current_context
from nri_sync.rpc.envelope import (
    Framing,
    as_bytes,
    decode_payload,
    decode_request,
    encode_error,
    encode_success,
    oversized,
)
from nri_sync.rpc.frames import calls_handlers, own_frames
from nri_sync.rpc.inbox import END, Inbox
from nri_sync.rpc.late import LatePolicy
from nri_sync.rpc.router import RequestsBroken, Router
from nri_sync.rpc.status import Status, from_exception, text_of
from nri_sync.wire.streams import State
from nri_sync.wire.ttrpc import MESSAGE_MAX, Data

__all__ = [
    "TOO_MANY",
    "CallOwner",
    "Reply",
    "ServerCall",
    "not_decoded",
    "not_encoded",
    "timeout_of",
]

logger = get_logger("nri_sync.ttrpc")

_NEVER = threading.TIMEOUT_MAX * 1e9  # nanoseconds: from here on, there is no timeout
_OPEN = State.OPEN  # to look a member up costs a call before Python 3.12
_NO_METADATA: tuple[Metadatum, ...] = ()

#: Why a call is refused that finds neither a thread nor room to wait.
TOO_MANY = Status(StatusCode.RESOURCE_EXHAUSTED, "too many requests at once")


class CallOwner(Protocol):
    """The end of the connection that a call belongs to."""

    router: Router
    frame: Framing
    peer: str
    link: Link
    late_policy: LatePolicy | None
    #: For the layers above: the ``owner`` of each context.
    owner: object
    #: The calls that are not answered yet, by stream.
    calls: dict[int, ServerCall]
    #: The contexts of the calls that are being served, by thread.
    running: dict[int, RequestContext]

    def finish(self, call: ServerCall, *, late: bool = False, by_reply: bool = False) -> bool:
        """Take a call off the table, to answer it; False when another thread has."""

    def mark_sent(self, call: ServerCall) -> None:
        """The answer to the call is sent, or will never be."""

    def send_data(self, call: ServerCall, data: bytes, *, last: bool = False) -> bool:
        """Send a message of a stream, or the end of it; False when the call is over."""

    def run_elsewhere(self, callbacks: list[Callback]) -> None:
        """Run callbacks of the application."""


class Reply(Job):
    """Something to send that is already known."""

    def __init__(self, buffers: Sequence[Buffer], sent: Callback = lambda: None) -> None:
        self.size = sum(map(len, buffers))
        self._buffers = buffers
        self._sent = sent

    def run(self) -> Sequence[Buffer]:
        return self._buffers

    def sent(self) -> None:
        self._sent()

    refuse = run


class ServerCall(Job):
    """One call, from the arrival of its request to its answer."""

    #: The full method name, once known.
    method = ""
    #: When its handler has no more time, on the monotonic clock.
    late_at = math.inf
    #: Whether it was answered for, before its handler was done.
    late = False
    #: Whether another job than the call has the answer. Only :meth:`ServerEnd.finish` sets it.
    by_reply = False
    #: For the late policy: the subject of the call.
    about = ""
    #: Whether it was admitted, and counts for the server until its answer is sent.
    counts = False
    #: Whether a thread serves it, or has.
    begun = False
    context: RequestContext | None = None
    # The payload of the request, until it is decoded.
    _payload: Data = b""

    def __init__(self, end: CallOwner, stream_id: int, data: Data, state: State) -> None:
        #: When the request came, on the monotonic clock.
        self.since = time.monotonic()
        self.stream_id = stream_id
        # The mapping behind a view may be larger: see MessageDecoder.
        self.size = memoryview(data.obj).nbytes if isinstance(data, memoryview) else len(data)
        self._end = end
        self._data = data
        self._state = state
        self.inbox = Inbox() if state is _OPEN else None

    def sent(self) -> None:
        """The job has run. Its answer is sent, or will never be, unless another job has the answer."""
        if not self.by_reply:
            self.answer_sent()

    def answer_sent(self) -> None:
        """The answer is sent, or will never be."""
        self._end.mark_sent(self)
        if self.context is not None and self.context.answered is not None:
            self.context.answered.set()

    def refuse(self, status: Status = TOO_MANY) -> Sequence[Buffer]:
        return self._answer(status)

    def run(self) -> Sequence[Buffer]:
        """Serve the call, in this thread; returns the bytes to send."""
        end = self._end
        self.begun = True
        try:
            request, self._payload = decode_request(self._data)
        except Exception as error:
            return self._answer(Status(StatusCode.INVALID_ARGUMENT, f"unmarshal request: {error}"))
        self.method = method = f"/{request.service}/{request.method}"
        metadata = (
            tuple(Metadatum(pair.key, pair.value) for pair in request.metadata)
            if request.metadata
            else _NO_METADATA
        )
        timeout = timeout_of(request.timeout_nano)
        context = end.router.context_class(
            method, metadata, self.since, timeout, end.peer, self._cancel
        )
        # In this order: without a context, the payload is there.
        context.owner = end.owner
        self.context = context
        self._data = b""
        if self.stream_id not in end.calls:
            context.end()  # the call has ended before it had this context
        thread = _thread.get_ident()
        end.running[thread] = context
        try:
            buffers = self._answer(self._outcome(request, context))
            # Releases the messages that the handler has not taken, before the answer waits to be sent.
            callbacks = self.stop()
            if callbacks:
                run_callbacks(callbacks)
        except BaseException as error:  # a bug, which must not end the thread
            buffers = self.crashed(error)
        finally:
            del end.running[thread]
        return buffers

    def _outcome(self, request: Any, context: RequestContext) -> bytes | Status | None:
        """Call the handler. Returns the answer, or ``None`` if the last message of a stream was the answer."""
        token = current_context.set(context)
        try:
            handler = self._end.router.find(self.method, context.invocation_metadata())
            if self.inbox is not None and not getattr(handler, "request_streaming", False):
                self.inbox.discard()  # the handler takes no further message
            if handler is None:
                return self._unknown(request.service, request.method)
            if handler.request_streaming or handler.response_streaming:
                return self._stream(handler, context)
            argument = self._decode(handler)
            if isinstance(argument, Status):
                return argument
            context.request = argument
            response = handler.unary_unary(argument, context)
            return context.status(None) or self._encode(handler, response)
        except BaseException as error:
            return self.failure(error, context)
        finally:
            current_context.reset(token)

    def _take_payload(self) -> Data:
        """The payload, which the call no longer holds: a large request need not stay until its handler is done."""
        payload, self._payload = self._payload, b""
        return payload

    def _decode(self, handler: Any) -> Any:
        """The request, or a Status."""
        payload = self._take_payload()
        if not getattr(handler, "takes_view", False):
            payload = bytes(payload)
        try:
            return decode_payload(payload, handler.request_deserializer)
        except Exception as error:
            return not_decoded(error)

    def _encode(self, handler: Any, response: Any) -> bytes | Status:
        if response is None:
            return Status(StatusCode.UNKNOWN, f"the handler of {self.method} returned nothing")
        serialize = handler.response_serializer
        try:
            return as_bytes(response if serialize is None else serialize(response))
        except Exception as error:
            return not_encoded(self.method, error)

    def _stream(self, handler: Any, context: RequestContext) -> bytes | Status | None:
        """Serve a streaming call; ``None`` when its last data message has been sent instead of a response."""
        if self._state is State.UNARY and handler.response_streaming:
            return Status(
                StatusCode.INVALID_ARGUMENT,
                f"{self.method} is a stream, but was called as unary",
            )
        if handler.request_streaming:
            argument: Any = self._requests(
                handler.request_deserializer, bytes(self._take_payload())
            )
        else:
            argument = self._decode(handler)
            if isinstance(argument, Status):
                return argument
        if not handler.response_streaming:
            response = handler.stream_unary(argument, context)
            return context.status(None) or self._encode(handler, response)
        behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
        for response in behaviour(argument, context):
            data = self._encode(handler, response)
            if isinstance(data, Status):
                return data
            if len(data) > MESSAGE_MAX:
                return oversized("message", len(data))
            if not self._end.send_data(self, data):
                return None
        status = context.status(None)
        if status is None:
            self._end.send_data(self, b"", last=True)
        return status

    def _requests(self, deserialize: Any, first: bytes) -> Iterator[Any]:
        """The request messages of a stream, as they arrive."""
        inbox, context = self.inbox, self.context
        broken = self._end.router.requests_broken
        assert context is not None
        deadline = context.deadline
        # A client that streams sends its request without a payload, the one of generated code does not.
        data: bytes | None = first if first or inbox is None else inbox.get(deadline)
        while data is not END:
            try:
                request = decode_payload(data, deserialize)
            except Exception as error:
                raise broken(not_decoded(error)) from error
            yield request
            data = END if inbox is None else inbox.get(deadline)
        if not context.is_active():
            text = f"{self.method}: the call ended before the stream of requests did"
            raise broken(Status(StatusCode.CANCELLED, text))

    def _unknown(self, service: str, method: str) -> Status:
        what = f"method {method}" if self._end.router.has_service(service) else f"service {service}"
        return Status(StatusCode.UNIMPLEMENTED, what)

    def failure(self, error: BaseException, context: RequestContext) -> Status:
        """Log the exception of a handler, and return the status that the call ends with."""
        broken = error.status if isinstance(error, RequestsBroken) else None
        status = context.status(broken or from_exception(error))
        assert status is not None
        if broken is not None or not context.is_active():
            logger.debug("%s failed: %s", self.method, status.details)
        elif context.aborted or isinstance(error, Reject):
            if not context.refused:
                logger.warning("%s refused: %s", self.method, status.details)
        else:
            trace = own_frames(error.__traceback__)
            logger.error("%s failed", self.method, exc_info=(type(error), error, trace))
        return status

    def crashed(self, error: BaseException) -> Sequence[Buffer]:
        """Log an exception that is not of the handler. Returns the answer, or nothing if the call has one."""
        logger.error("%s: nri_sync failed", self.method, exc_info=error)
        status = Status(StatusCode.INTERNAL, f"nri_sync failed: {text_of(error)}")
        end = self._end
        buffers = encode_error(self.stream_id, status, end.frame) if end.finish(self) else ()
        run_callbacks(self.stop())
        return buffers

    def _cancel(self) -> bool:
        """End the call from inside; returns whether it was still going on."""
        reply = self.give_up(Status(StatusCode.CANCELLED, "cancelled by the server"))
        if reply is None:
            return False
        self._end.link.dispatch(reply)
        return True

    def give_up(self, status: Status) -> Job | None:
        """End the call before its handler has; returns the job that answers, or ``None`` if it is over."""
        buffers = self._answer(status, by_reply=True)
        if not buffers:
            return None
        self._end.run_elsewhere(self.stop())
        return Reply(buffers, self.answer_sent)

    def answer_late(self, policy: LatePolicy, *, look_again: float) -> None:
        """Answer for the handler, which goes on, unless it is faster or the policy will not.

        The policy may decline for lack of knowledge while the request is being parsed: then the call is due again
        at ``look_again``.
        """
        # Before the policy looks: another thread may parse the request right after the look.
        context = self.context
        was_parsed = context is not None and context.request is not None
        outcome = self._late_outcome(policy)
        if outcome is None:
            if self.inbox is None and not was_parsed and self.context is not None:
                self.due = look_again
            return
        buffers = self._answer(outcome, late=True, by_reply=True)
        if not buffers:
            return
        policy.won(self)
        end = self._end
        end.run_elsewhere(self.stop())
        if end.link.try_send(buffers):
            self.answer_sent()
        else:
            end.link.dispatch(Reply(buffers, self.answer_sent))
        try:
            policy.answered(self, outcome)
        except Exception:
            logger.exception("%s: cannot report the late answer", self.method)

    def _late_outcome(self, policy: LatePolicy) -> bytes | Status | None:
        self.due = math.inf
        if not self.method:  # still waiting for a thread
            with contextlib.suppress(Exception):
                request, _ = decode_request(self._data)
                self.method = f"/{request.service}/{request.method}"
        try:
            return policy.answer(self)
        except Exception as error:
            logger.exception("%s: cannot answer for its handler", self.method)
            return Status(StatusCode.INTERNAL, f"no answer in time: {error!r}")

    def _answer(
        self, outcome: bytes | Status | None, *, late: bool = False, by_reply: bool = False
    ) -> Sequence[Buffer]:
        """Finish the stream; the buffers to send, none if it is finished already."""
        end = self._end
        if not end.finish(self, late=late, by_reply=by_reply):
            if not late:
                self.not_wanted(outcome)
            return ()
        if isinstance(outcome, Status):
            return encode_error(self.stream_id, outcome, end.frame)
        return encode_success(self.stream_id, outcome or b"", end.frame)

    def not_wanted(self, outcome: bytes | Status | None) -> None:
        """The handler is done, after the call was over."""
        policy = self._end.late_policy
        if self.late and policy is not None:
            policy.finished(self, outcome if isinstance(outcome, Status) else None)
        elif outcome is not None:
            logger.debug("%s: the answer is not wanted any more", self.method)

    def payload(self) -> Data:
        """The request as it came, of a call that waits for a thread; afterwards it is empty.

        Raises an exception for a request that cannot be parsed.
        """
        return decode_request(self._data)[1]

    def stop(self) -> list[Callback]:
        """End the context: no answer is wanted any more. Returns its callbacks, to be called."""
        # In this order: a handler that finds the end of its requests asks the context whether they are complete.
        callbacks = [] if self.context is None else self.context.end()
        if self.inbox is not None:
            self.inbox.discard()
        return callbacks


def timeout_of(nanoseconds: int) -> float | None:
    """The timeout of a request in seconds; ``None``: the caller never gives up."""
    return nanoseconds / 1e9 if nanoseconds and nanoseconds < _NEVER else None


def not_decoded(error: Exception | BaseException) -> Status:
    """The status of a call whose request cannot be parsed."""
    return Status(StatusCode.INTERNAL, f"cannot deserialize the request: {text_of(error)}")


def not_encoded(method: str, error: BaseException) -> Status:
    """The status of a call whose response cannot be encoded. Logs the exception."""
    logger.error("cannot serialize the response of %s", method, exc_info=error)
    return Status(StatusCode.INTERNAL, f"cannot serialize the response: {text_of(error)}")


calls_handlers(ServerCall._outcome.__code__)
calls_handlers(ServerCall._stream.__code__)
