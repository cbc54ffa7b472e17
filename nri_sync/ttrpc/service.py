"""The server's end of one ttRPC connection: calls in, answers out."""

from __future__ import annotations

import _thread
import contextlib
import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Callable, Union

import grpc

from nri_sync.deadline import Deadline
from nri_sync.errors import ConnectionLost, NRIError, Reject
from nri_sync.logger import get_logger
from nri_sync.net.link import Buffer, Job, Link
from nri_sync.threads import Latch
from nri_sync.ttrpc import envelope_pb2
from nri_sync.ttrpc.callbacks import Callback, run_callbacks, run_elsewhere
from nri_sync.ttrpc.context import Metadatum, ServicerContext, current_context
from nri_sync.ttrpc.frames import calls_handlers, own_frames
from nri_sync.ttrpc.inbox import END, Holdings, Inbox, cost
from nri_sync.ttrpc.router import Router
from nri_sync.ttrpc.status import Status, from_exception
from nri_sync.wire.streams import (
    DataReceived,
    Ignored,
    Rejected,
    RequestReceived,
    ServerStreams,
    State,
)
from nri_sync.wire.ttrpc import (
    DATA,
    MESSAGE_MAX,
    NO_DATA,
    REMOTE_CLOSED,
    RESPONSE,
    Message,
    MessageDecoder,
    encode_header,
)

__all__ = ["Framing", "LatePolicy", "ServerCall", "ServerEnd", "encode_error", "encode_success"]

logger = get_logger("nri_sync.ttrpc")

# The shortest time to the next look at a call whose handler is slow, in seconds.
_NEXT_LOOK = 0.05

#: Puts a message (its header and payload) into the shape in which it travels on the link.
Framing = Callable[[bytes, Union[bytes, bytearray, memoryview]], list[Buffer]]

_NEVER = threading.TIMEOUT_MAX * 1e9  # nanoseconds: what means no timeout
_OPEN = State.OPEN  # to look a member up costs a call before Python 3.12
_NO_METADATA: tuple[Metadatum, ...] = ()
_PAYLOAD_TAG = b"\x12"  # field 2 of the Response envelope, length-delimited


_TOO_MANY = Status.of(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests at once")
_NOT_TAKEN = Status.of(
    grpc.StatusCode.RESOURCE_EXHAUSTED, "the handler does not take the data of the stream"
)


class _RequestsBroken(Exception):
    """The stream that a handler reads from was cut off, or has something else in it."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.details)
        self.status = status


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_success(stream_id: int, payload: bytes, frame: Framing) -> list[Buffer]:
    """A response with a payload and no status. The envelope is written around the payload, not copied.

    A payload too large for a message is answered for with RESOURCE_EXHAUSTED.
    """
    envelope = _PAYLOAD_TAG + _varint(len(payload)) if payload else b""
    length = len(envelope) + len(payload)
    if length > MESSAGE_MAX:
        return encode_error(stream_id, _oversized("response", length), frame)
    return frame(encode_header(RESPONSE, stream_id, 0, length) + envelope, payload)


def _oversized(what: str, length: int) -> Status:
    text = f"{what} of {length} bytes exceeds the {MESSAGE_MAX} that ttRPC allows"
    return Status.of(grpc.StatusCode.RESOURCE_EXHAUSTED, text)


def encode_error(stream_id: int, status: Status, frame: Framing) -> list[Buffer]:
    """A response with an error status."""
    data = envelope_pb2.Response(status=status.to_message()).SerializeToString()
    if len(data) > MESSAGE_MAX:
        return encode_error(stream_id, Status(status.number, status.details[:1000] + "..."), frame)
    return frame(encode_header(RESPONSE, stream_id, 0, len(data)), data)


class LatePolicy:
    """When, and how, a call is answered for whose handler takes too long."""

    def limit(self) -> float | None:
        """Seconds after which a call that arrives now is answered for; ``None``: never."""
        return None

    def answer(self, call: ServerCall) -> bytes | Status | None:
        """What to answer in place of the handler: a serialized message or an error; ``None``: nothing."""
        raise NotImplementedError

    def clock_ran(self, delay: float) -> None:
        """The thread that gives late answers ran ``delay`` seconds after its time. Must not block."""

    def ahead(self) -> float:
        """Seconds by which late answers are given before :meth:`limit`, as that thread is slow to run."""
        return 0.0

    def answered(self, call: ServerCall, outcome: bytes | Status) -> None:
        """The late answer has been sent, or waits for room. May block: it delays further late answers only."""

    def finished(self, call: ServerCall, error: Status | None) -> None:
        """The handler is done, after its call was answered for. ``error`` is what it failed with."""


class _Reply(Job):
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
    #: For the late policy: what the call is about.
    about = ""
    #: Whether it was admitted, and counts for the server until it is settled: its answer is out.
    counts = False
    #: Whether a thread serves it, or has.
    begun = False
    context: ServicerContext | None = None

    def __init__(self, end: ServerEnd, stream_id: int, data: bytes, state: State) -> None:
        #: When the request came, on the monotonic clock.
        self.since = time.monotonic()
        self.stream_id = stream_id
        self.size = len(data)
        self._end = end
        self._data = data
        self._state = state
        self.inbox = Inbox() if state is _OPEN else None

    def sent(self) -> None:
        """The answer is out, or will never be."""
        self._end.settle(self)
        if self.context is not None and self.context.answered is not None:
            self.context.answered.set()

    def refuse(self, status: Status = _TOO_MANY) -> Sequence[Buffer]:
        return self._answer(status)

    def run(self) -> Sequence[Buffer]:
        """Serve the call, in this thread; returns what is left to send."""
        end = self._end
        self.begun = True
        try:
            request = envelope_pb2.Request.FromString(self._data)
        except Exception as error:
            return self._answer(
                Status.of(grpc.StatusCode.INVALID_ARGUMENT, f"unmarshal request: {error}")
            )
        self.method = method = f"/{request.service}/{request.method}"
        metadata = (
            tuple(Metadatum(pair.key, pair.value) for pair in request.metadata)
            if request.metadata
            else _NO_METADATA
        )
        nanoseconds = request.timeout_nano
        timeout = nanoseconds / 1e9 if nanoseconds and nanoseconds < _NEVER else None
        context = ServicerContext(method, metadata, self.since, timeout, end.peer, self._cancel)
        # In this order: without a context, the payload is there.
        context.owner = end.owner
        self.context = context
        self._data = b""
        if self.stream_id not in end.calls:
            context.end()  # it was over before this context was there to be told
        thread = _thread.get_ident()
        end.running[thread] = context
        try:
            buffers = self._answer(self._outcome(request, context))
            callbacks = context.end()
            if callbacks:
                run_callbacks(callbacks)
            return buffers
        finally:
            del end.running[thread]

    def _outcome(self, request: Any, context: ServicerContext) -> bytes | Status | None:
        """Call the handler; what to answer, or ``None`` if the last message of a stream was the answer."""
        token = current_context.set(context)
        try:
            handler = self._end.router.find(self.method, context.invocation_metadata())
            if self.inbox is not None and not getattr(handler, "request_streaming", False):
                self.inbox.discard()  # whatever else the peer sends, nobody will take it
            if handler is None:
                return self._unknown(request.service, request.method)
            if handler.request_streaming or handler.response_streaming:
                return self._stream(handler, request.payload, context)
            argument = self._decode(handler, request.payload)
            if isinstance(argument, Status):
                return argument
            context.request = argument
            response = handler.unary_unary(argument, context)
            return context.status(None) or self._encode(handler, response)
        except BaseException as error:
            return self._failure(error, context)
        finally:
            current_context.reset(token)

    def _decode(self, handler: Any, payload: bytes) -> Any:
        """The request, or a Status."""
        deserialize = handler.request_deserializer
        try:
            return payload if deserialize is None else deserialize(payload)
        except Exception as error:
            return Status.of(grpc.StatusCode.INTERNAL, f"cannot deserialize the request: {error}")

    def _encode(self, handler: Any, response: Any) -> bytes | Status:
        if response is None:
            return Status.of(
                grpc.StatusCode.UNKNOWN, f"the handler of {self.method} returned nothing"
            )
        serialize = handler.response_serializer
        try:
            return bytes(response if serialize is None else serialize(response))
        except Exception as error:
            logger.exception("cannot serialize the response of %s", self.method)
            return Status.of(grpc.StatusCode.INTERNAL, f"cannot serialize the response: {error}")

    def _stream(
        self, handler: Any, payload: bytes, context: ServicerContext
    ) -> bytes | Status | None:
        """Serve a streaming call; ``None`` when its last data message has been sent instead of a response."""
        if self._state is State.UNARY and handler.response_streaming:
            return Status.of(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"{self.method} is a stream, but was called as unary",
            )
        if handler.request_streaming:
            argument: Any = self._requests(handler.request_deserializer, payload)
        else:
            argument = self._decode(handler, payload)
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
                return _oversized("message", len(data))
            if not self._end.send_data(self, data):
                return None
        status = context.status(None)
        if status is None:
            self._end.send_data(self, b"", last=True)
        return status

    def _requests(self, deserialize: Any, first: bytes) -> Iterator[Any]:
        """The request messages of a stream, as they arrive."""
        inbox, context = self.inbox, self.context
        assert context is not None
        deadline = context.deadline
        # A client that streams sends its request without a payload, the one of generated code does not.
        data: bytes | None = first if first or inbox is None else inbox.get(deadline)
        while data is not END:
            try:
                request = data if deserialize is None else deserialize(data)
            except Exception as error:
                text = f"cannot deserialize the request: {error}"
                raise _RequestsBroken(Status.of(grpc.StatusCode.INTERNAL, text)) from error
            yield request
            data = END if inbox is None else inbox.get(deadline)
        if not context.is_active():
            text = f"{self.method}: the call ended before the stream of requests did"
            raise _RequestsBroken(Status.of(grpc.StatusCode.CANCELLED, text))

    def _unknown(self, service: str, method: str) -> Status:
        what = f"method {method}" if self._end.router.has_service(service) else f"service {service}"
        return Status.of(grpc.StatusCode.UNIMPLEMENTED, what)

    def _failure(self, error: BaseException, context: ServicerContext) -> Status:
        broken = error.status if isinstance(error, _RequestsBroken) else None
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

    def _cancel(self) -> bool:
        """End the call from inside; returns whether it was still going on."""
        reply = self.give_up(Status.of(grpc.StatusCode.CANCELLED, "cancelled by the server"))
        if reply is None:
            return False
        self._end.link.dispatch(reply)
        return True

    def give_up(self, status: Status) -> Job | None:
        """End the call before its handler has; returns the job that answers, or ``None`` if it is over."""
        buffers = self._answer(status)
        if not buffers:
            return None
        self._end.run_elsewhere(self.stop())
        return _Reply(buffers, self.sent)

    def answer_late(self, policy: LatePolicy) -> None:
        """Answer for the handler, which goes on, unless it is faster or the policy will not."""
        outcome = self._late_outcome(policy)
        buffers = () if outcome is None else self._answer(outcome, late=True)
        if outcome is None or not buffers:
            return
        end = self._end
        end.run_elsewhere(self.stop())
        if end.link.try_send(buffers):
            self.sent()
        else:
            end.link.dispatch(_Reply(buffers, self.sent))
        try:
            policy.answered(self, outcome)
        except Exception:
            logger.exception("%s: cannot report the late answer", self.method)

    def _late_outcome(self, policy: LatePolicy) -> bytes | Status | None:
        self.due = math.inf
        if not self.method:  # still waiting for a thread
            with contextlib.suppress(Exception):
                request = envelope_pb2.Request.FromString(self._data)
                self.method = f"/{request.service}/{request.method}"
        try:
            return policy.answer(self)
        except Exception as error:
            logger.exception("%s: cannot answer for its handler", self.method)
            return Status.of(grpc.StatusCode.INTERNAL, f"no answer in time: {error!r}")

    def _answer(self, outcome: bytes | Status | None, *, late: bool = False) -> Sequence[Buffer]:
        """Finish the stream; the buffers to send, none if it is finished already."""
        end = self._end
        if not end.finish(self, late=late):
            if not late:
                if self.late and end.late_policy is not None:
                    error = outcome if isinstance(outcome, Status) else None
                    end.late_policy.finished(self, error)
                elif outcome is not None:
                    logger.debug("%s: the answer is not wanted any more", self.method)
            return ()
        if isinstance(outcome, Status):
            return encode_error(self.stream_id, outcome, end.frame)
        return encode_success(self.stream_id, outcome or b"", end.frame)

    def payload(self) -> bytes:
        """The request as it came, of a call that waits for a thread; afterwards it is empty.

        Raises an exception for a request that cannot be parsed.
        """
        return envelope_pb2.Request.FromString(self._data).payload

    def stop(self) -> list[Callback]:
        """Nobody waits for the answer any more. Returns the callbacks of the context, to be called."""
        if self.inbox is not None:
            self.inbox.discard()
        return [] if self.context is None else self.context.end()


calls_handlers(ServerCall._outcome.__code__)
calls_handlers(ServerCall._stream.__code__)


class ServerEnd:
    """Serves the calls that come in on one logical connection.

    The link that reads calls :meth:`receive`, :meth:`tick` and :meth:`lost`; calls are run by its threads.
    """

    def __init__(
        self,
        router: Router,
        *,
        frame: Framing,
        peer: str,
        late_policy: LatePolicy | None = None,
        owner: object = None,
        admit: Callable[[], Status | None] = lambda: None,
        done: Callback | None = None,
    ) -> None:
        """``owner`` is in each context. ``admit`` is asked for each new call, and returns why it is refused, if it
        is; ``done`` is told when an admitted one is over, its answer sent.
        """
        self.router = router
        self.frame = frame
        self.peer = peer
        self.late_policy = late_policy
        self.owner = owner
        self.link: Link
        self._admit = admit
        self._done = done
        self._decoder = MessageDecoder()
        # Guards the tables, of the calls that are not answered yet and of the streams, and _look_at. Innermost.
        self._lock = threading.Lock()
        self._streams = ServerStreams()
        # When tick() is to be called next for a call, on the monotonic clock.
        self._look_at = math.inf
        #: Those that are not answered yet, by stream.
        self.calls: dict[int, ServerCall] = {}
        #: Those that are being served, answered or not, by thread.
        self.running: dict[int, ServicerContext] = {}
        # Those whose answer is not sent yet. Who takes one off, without a lock, settles it; somebody may wait
        # for the last one to go.
        self._unsettled: set[ServerCall] = set()
        self._none_left: Latch | None = None
        # The streams that are finished here, but the client may not know yet: it may go on sending, and a
        # refusal must not overtake the answer.
        self._leaving: set[int] = set()
        self._takes_calls = True
        self._holdings = Holdings(self._inboxes)
        self._ignored = 0

    # For the link

    def receive(self, data: memoryview, jobs: list[Job]) -> None:
        """Take bytes in; the calls that begin with them are appended to ``jobs``."""
        rejections: list[Buffer] = []
        for message in self._decoder.receive(data):
            rejections += self._receive(message, jobs)
        if rejections:
            # Joined, since a flood of bad messages may come in one read.
            jobs.append(_Reply([b"".join(rejections)]))

    def receive_message(self, message: Message, jobs: list[Job]) -> None:
        """Like :meth:`receive`, for a message that came whole, between two others."""
        rejections = self._receive(message, jobs)
        if rejections:
            jobs.append(_Reply(rejections))

    @property
    def inside_message(self) -> bool:
        """Whether a message has come in part."""
        return self._decoder.inside

    def _receive(self, message: Message, jobs: list[Job]) -> Sequence[Buffer]:
        """Act on a message; what it begins is appended to ``jobs``. Returns what to say against it."""
        with self._lock:
            event = self._streams.receive(message)
            if isinstance(event, RequestReceived):
                if not self._takes_calls:
                    return ()
                call = ServerCall(self, *event)
                self.calls[call.stream_id] = call
                self._unsettled.add(call)
            else:
                found = self.calls.get(event.stream_id)
                if message.type == DATA and event.stream_id in self._leaving:
                    return ()
        if isinstance(event, RequestReceived):
            return self._admit_call(call, jobs)
        if isinstance(event, DataReceived):
            if found is not None:
                self._receive_data(found, event, jobs)
            return ()
        if isinstance(event, Rejected):
            return self._reject(event)
        self._ignore(event)
        return ()

    def _admit_call(self, call: ServerCall, jobs: list[Job]) -> Sequence[Buffer]:
        refusal = self._admit()
        if refusal is not None:
            buffers = call.refuse(refusal)
            call.sent()
            return buffers
        call.counts = True
        if self.late_policy is not None:
            limit = self.late_policy.limit()
            if limit is not None:
                # Halfway first: see tick().
                call.late_at = call.since + limit
                call.due = call.since + limit / 2
                if call.due < self._look_at:
                    with self._lock:
                        self._look_at = min(self._look_at, call.due)
        jobs.append(call)
        return ()

    def _receive_data(self, call: ServerCall, event: DataReceived, jobs: list[Job]) -> None:
        inbox = call.inbox
        if inbox is None:
            return
        if event.data is not None:
            refusal = self._put(call, inbox, event.data)
            if refusal is not None:
                logger.debug("%s: stream %d: %s", self.peer, call.stream_id, refusal.details)
                reply = call.give_up(refusal)
                if reply is not None:
                    jobs.append(reply)
                return
        if event.end:
            inbox.end()

    def _put(self, call: ServerCall, inbox: Inbox, data: bytes) -> Status | None:
        """Keep a message of a stream; returns why there is no room for it."""
        # No handler makes room in a stream that waits for a thread: it counts with the requests in line.
        if not call.begun and not self.link.hold(call, cost(data)):
            return _TOO_MANY
        if not (self._holdings.put(inbox, data) if call.begun else inbox.put(data)):
            return _NOT_TAKEN
        return None

    def _inboxes(self) -> list[Inbox]:
        with self._lock:
            calls = list(self.calls.values())
        return [call.inbox for call in calls if call.inbox is not None and call.begun]

    def _reject(self, event: Rejected) -> Sequence[Buffer]:
        logger.debug("%s: %s", self.peer, event.reason)
        if event.finished:
            with self._lock:
                call = self.calls.pop(event.stream_id, None)
            if call is not None:
                self.run_elsewhere(call.stop())
                self.settle(call)
        return encode_error(event.stream_id, Status(event.code, event.reason), self.frame)

    def _ignore(self, event: Ignored) -> None:
        self._ignored += 1
        level = logging.WARNING if self._ignored == 1 else logging.DEBUG
        logger.log(level, "%s: ignored on stream %d: %s", self.peer, event.stream_id, event.reason)

    def tick(self, now: float) -> float:
        """Answer for the handlers that take too long; returns when to look again.

        Looks at each call halfway to its late answer, and halfway again. How late the calling thread is then says
        how early the answer has to be begun: a process with busy threads is slow to switch to this one.
        """
        policy = self.late_policy
        if policy is None:
            return math.inf
        with self._lock:
            calls = [call for call in self.calls.values() if call.due < math.inf]
            look_at, self._look_at = self._look_at, math.inf
        if now >= look_at:
            try:
                policy.clock_ran(now - look_at)
            except Exception:
                logger.exception("%s: cannot report a delay", self.peer)
        ahead = policy.ahead()
        next_due = math.inf
        for call in calls:
            # A handler has half of its time, however slow the thread is.
            answer_at = max((call.since + call.late_at) / 2, call.late_at - ahead)
            if now >= answer_at:
                call.answer_late(policy)
            else:
                call.due = min(answer_at, now + max((answer_at - now) / 2, _NEXT_LOOK))
                next_due = min(next_due, call.due)
        with self._lock:
            self._look_at = min(self._look_at, next_due)
        return next_due

    def lost(self, cause: NRIError | None) -> None:
        """The connection is gone: nobody waits for any answer."""
        with self._lock:
            calls = list(self.calls.values())
            self.calls.clear()
            self._streams = ServerStreams()
        if self._ignored > 1:
            logger.warning("%s: %d messages were ignored in all", self.peer, self._ignored)
        callbacks: list[Callback] = []
        for call in calls:
            callbacks += call.stop()
            self.settle(call)
        self.run_elsewhere(callbacks)

    def after_fork_in_child(self) -> None:
        """The connection is the parent's, which answers the calls. A handler that has forked goes on, unheard."""
        self._lock = threading.Lock()
        self.calls.clear()
        self._unsettled.clear()
        self._streams = ServerStreams()
        if self._none_left is not None:
            self._none_left.set()

    def cut_off(self) -> None:
        """Let no stream hold up the reading: whatever comes for one from now on is dropped."""
        with self._lock:
            calls = list(self.calls.values())
        for call in calls:
            if call.inbox is not None:
                call.inbox.end()

    def run_elsewhere(self, callbacks: list[Callback]) -> None:
        """Run what the application wants to be told: not on a thread that others wait for."""
        run_elsewhere(self.link.name, callbacks)

    def take_no_more(self) -> None:
        """Ignore calls from now on. The connection must end soon, which is the only answer they get."""
        self._takes_calls = False

    def quiet(self, deadline: Deadline) -> bool:
        """Block until all calls are answered, the answers sent, or the deadline; returns whether it is so."""
        # Attach, then look: settle() takes one off, then looks whether somebody waits.
        with self._lock:
            if self._none_left is None:
                self._none_left = Latch()
            none_left = self._none_left
        return not self._unsettled or none_left.wait(deadline)

    # For the calls

    def finish(self, call: ServerCall, *, late: bool = False) -> bool:
        """Take a call off the table, to answer it; False when somebody else has."""
        with self._lock:
            if self.calls.get(call.stream_id) is not call:
                return False
            self._leave_locked(call)
            self._streams.send_response(call.stream_id)
            call.late = late
        return True

    def _leave_locked(self, call: ServerCall) -> None:
        assert self._lock.locked()
        del self.calls[call.stream_id]
        if call.inbox is not None and call in self._unsettled:
            self._leaving.add(call.stream_id)

    def settle(self, call: ServerCall) -> None:
        """The answer to the call is sent, or will never be. The first time counts."""
        try:
            self._unsettled.remove(call)
        except KeyError:
            return
        if call.inbox is not None:
            with self._lock:
                self._leaving.discard(call.stream_id)
        if self._none_left is not None:
            with self._lock:
                none_left = None if self._unsettled else self._none_left
                if none_left is not None:
                    self._none_left = None
            if none_left is not None:
                none_left.set()
        if call.counts and self._done is not None:
            self._done()

    def send_data(self, call: ServerCall, data: bytes, *, last: bool = False) -> bool:
        """Send a message of a stream, or the end of it; False when nobody wants it. Blocks."""
        with self._lock:
            if self.calls.get(call.stream_id) is not call:
                return False
            if not self._streams.send_data(call.stream_id, end=last):
                return False
            if last:
                self._leave_locked(call)
        flags = REMOTE_CLOSED | NO_DATA if last else 0
        try:
            self.link.send(self.frame(encode_header(DATA, call.stream_id, flags, len(data)), data))
        except ConnectionLost:
            return False
        return True
