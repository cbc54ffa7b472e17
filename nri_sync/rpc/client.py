"""The client's end of one ttRPC connection: sends calls and receives their answers."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from typing import Callable

from nri_sync.codes import StatusCode
from nri_sync.deadline import Deadline
from nri_sync.errors import ConnectionLost, LocalProtocolError, NRIError, RemoteProtocolError
from nri_sync.logger import get_logger
from nri_sync.net.link import Job, Link
from nri_sync.rpc import envelope_pb2
from nri_sync.rpc.callbacks import Callback, run_callbacks
from nri_sync.rpc.client_call import CANCELLED, Callbacks, ClientCall
from nri_sync.rpc.envelope import Framing, Metadata, encode_request, oversized
from nri_sync.rpc.inbox import Holdings, Inbox
from nri_sync.rpc.status import Status
from nri_sync.threads import spawn_anywhere
from nri_sync.wire.streams import (
    REQUEST_FLAGS,
    STREAM_ID_MAX,
    ClientStreams,
    DataReceived,
    Ignored,
    ResponseReceived,
    State,
    StreamFailed,
)
from nri_sync.wire.ttrpc import (
    DATA,
    MESSAGE_MAX,
    NO_DATA,
    REMOTE_CLOSED,
    REQUEST,
    Message,
    MessageDecoder,
    encode_header,
)

__all__ = ["ClientEnd"]

logger = get_logger("nri_sync.ttrpc")

_OK = Status(StatusCode.OK, "")
_OF_THE_PARENT = (
    "the connection belongs to the process that forked this one; make another connection here"
)


class ClientEnd:
    """Makes calls over one logical connection; thread-safe.

    The link calls :meth:`receive`, :meth:`tick` and :meth:`lost`. A failure of a call becomes the outcome of the
    call; these methods do not raise it.
    """

    def __init__(self, *, frame: Framing, name: str) -> None:
        self.frame = frame
        self.name = name
        self.link: Link
        self._decoder = MessageDecoder()
        # Held from the allocation of a stream id to the end of its request on the wire: the peer refuses
        # ids that do not grow. Taken before _lock and before the link's locks.
        self._send_lock = threading.Lock()
        # Guards the callbacks of the calls, and the fields below unless a comment says otherwise. Innermost.
        self._lock = threading.Lock()
        self.streams = ClientStreams()
        # The calls that are not done. dict.pop() is atomic: exactly one thread removes a call, and ends it.
        # A thread that also forgets the stream holds the lock, which keeps the two tables in step; drop() cannot.
        self.calls: dict[int, ClientCall] = {}
        # The streams of dropped calls, to be forgotten by the next thread that holds the lock.
        self._dropped: deque[int] = deque()
        # The reason why the connection takes no further call; it ends when the last call is done.
        self._spent: LocalProtocolError | None = None
        # A server cannot know that a call is alone: requests may wait to be read.
        self.holdings = Holdings(self._inboxes, alone=lambda: len(self.calls) == 1)
        self._closed: Status | None = None
        self._closed_by: Exception | None = None
        #: The number of messages that the peer should not have sent.
        self.ignored = 0

    # For the caller

    def start(
        self,
        method: str,
        payload: bytes,
        *,
        state: State = State.UNARY,
        deadline: Deadline,
        metadata: Metadata = None,
        inbox: Inbox | None = None,
        wait: bool = False,
        on_done: Callable[[ClientCall], object] | None = None,
    ) -> ClientCall:
        """Send a request. Blocks while the peer does not read, until the deadline.

        With ``wait`` it blocks until the call is done, and may read the answer on this thread.
        """
        call = ClientCall(method, deadline, inbox, on_done)
        remaining = deadline.remaining()
        data = encode_request(method, payload, metadata, remaining)
        if len(data) > MESSAGE_MAX:
            self._conclude(call, oversized("request", len(data)))
        elif remaining == 0.0 or not self._send_lock.acquire(
            timeout=-1 if remaining is None else remaining
        ):
            status = call.too_late()
            self._conclude(call, status, cause=TimeoutError(status.details))
        else:
            try:
                reading = self._send_request(call, state, data, wait)
            except BaseException:
                self.finish(call, Status(StatusCode.UNKNOWN, "the request was not sent"))
                raise
            finally:
                self._send_lock.release()
            if reading:
                self.link.read_until(call.done, deadline)
        if self._spent is not None:
            self._end_if_spent()
        if wait:
            self.wait(call)
        return call

    def _send_request(self, call: ClientCall, state: State, data: bytes, read: bool) -> bool:
        """Send the request. With ``read``, returns whether this thread may read the answer."""
        closed = self._register(call, state)
        if closed is not None:
            self._conclude(call, closed, cause=self._closed_by)
            return False
        header = encode_header(REQUEST, call.stream_id, REQUEST_FLAGS[state], len(data))
        buffers = self.frame(header, data)
        if read and self.link.begin_reading():
            if self.link.try_send(buffers):
                return True
            # The peer does not read, perhaps because it waits for a reader on this side.
            self.link.end_reading()
        try:
            self.link.send(buffers, call.deadline)
        except TimeoutError:
            self.expire(call)
        except ConnectionLost as error:
            self.finish(call, self._unavailable(error), cause=error)
        return False

    def _register(self, call: ClientCall, state: State) -> Status | None:
        """Open a stream for the call; returns the status of the failure, if there is one."""
        with self._lock:
            if self._closed is not None:
                return self._closed
            self._forget_dropped_locked()
            try:
                call.stream_id = self.streams.open(state)
            except LocalProtocolError as error:
                return self._unavailable(error)
            self.calls[call.stream_id] = call
            # Add, then wake: a reading that waits sets its latch, then counts the calls.
            self.holdings.look_again()
            if call.stream_id == STREAM_ID_MAX:
                self._spent = LocalProtocolError("all stream ids of this connection are used up")
            return None

    def _forget_dropped_locked(self) -> None:
        assert self._lock.locked()
        while self._dropped:
            self.streams.forget(self._dropped.popleft())

    def _end_if_spent(self) -> None:
        if self._spent is not None and not self.calls:
            self.link.close(self._spent)

    def send_data(self, call: ClientCall, data: bytes, *, last: bool = False) -> bool:
        """Send a message of a stream, or with ``last`` the end of the stream; False when the call is over."""
        if len(data) > MESSAGE_MAX:
            self.finish(call, oversized("message", len(data)))
            return False
        with self._lock:
            if self.calls.get(call.stream_id) is not call:
                return False
            if not self.streams.send_data(call.stream_id, end=last):
                return False
        flags = REMOTE_CLOSED | NO_DATA if last else 0
        try:
            header = encode_header(DATA, call.stream_id, flags, len(data))
            self.link.send(self.frame(header, data), call.deadline)
        except TimeoutError:
            self.expire(call)
        except ConnectionLost as error:
            self.finish(call, self._unavailable(error), cause=error)
        return True

    def _unavailable(self, reason: object) -> Status:
        return Status(StatusCode.UNAVAILABLE, f"{self.name}: {reason}")

    def wait(self, call: ClientCall) -> None:
        """Block until the call is done, at its deadline at the latest."""
        if not call.done.wait(call.deadline):
            self.expire(call)
            call.done.wait()

    def result(self, call: ClientCall) -> bytes:
        """The payload of the response to a unary call. Blocks until the call is done, or until its deadline.

        Raises:
            CallFailed: the call failed.
        """
        status = call.status
        if status is None:
            self.wait(call)
            status = call.status
            assert status is not None
        if status.number != 0:
            raise status.error(call.method) from call.cause
        return call.payload or b""

    def watch(self, call: ClientCall) -> None:
        """Have the timer end the call at its deadline, since no thread waits for it."""
        if call.deadline.at is not None:
            call.timed = True
            self.link.wake_by(call.deadline.at)

    def add_callback(self, call: ClientCall, callback: Callback) -> bool:
        """Have a thread of the link call ``callback()`` when the call is done; False if it is done already."""
        with self._lock:
            if call.callbacks is None:
                return False
            call.callbacks.append(callback)
            return True

    def finish(
        self,
        call: ClientCall,
        status: Status,
        *,
        cause: Exception | None = None,
        even_if_answered: bool = False,
    ) -> bool:
        """End a call; False when it has ended before. Sends nothing: ttRPC has no message for a cancellation.

        A call whose peer has ended the stream of responses counts as ended, even while messages of the stream wait
        in the inbox. ``even_if_answered`` ends such a call, too.
        """
        if (call.outcome is not None and not even_if_answered) or not self._take(call):
            return False
        self._conclude(call, status, cause=cause)
        return True

    def cancel(self, call: ClientCall, status: Status = CANCELLED) -> bool:
        """End a call, and drop the messages that have arrived; False when the call is done."""
        if not self.finish(call, status, even_if_answered=True):
            return False
        if call.inbox is not None:
            call.inbox.discard()
        return True

    def drop(self, call: ClientCall) -> None:
        """Cancel a call whose caller has dropped all references to it, unless the call is done.

        Takes no lock: the garbage collector may call this between any two steps of any thread, even of a thread
        that holds the locks of this connection.
        """
        if self.calls.pop(call.stream_id, None) is None:
            return
        self._dropped.append(call.stream_id)
        if call.inbox is not None:
            call.inbox.discard()
        # Needs no lock: only the caller uses add_callback(), and the caller is gone.
        callbacks, call.callbacks = call.callbacks, None
        call.status = CANCELLED
        call.done.set()
        call.owner = None
        if callbacks:
            spawn_anywhere(f"{self.name}-callbacks", run_callbacks, callbacks)
        if self._spent is not None:
            spawn_anywhere(f"{self.name}-end", self._end_if_spent)

    def settle(self, call: ClientCall) -> None:
        """End a call with the outcome from the peer. Does nothing without one, or when the call is done."""
        if call.outcome is not None and self._take(call):
            self._conclude(call, *call.outcome)

    def expire(self, call: ClientCall) -> None:
        """End a call whose deadline has passed. An outcome that has arrived before counts."""
        self.settle(call)
        status = call.too_late()
        self.finish(call, status, cause=TimeoutError(status.details))

    def _take(self, call: ClientCall) -> bool:
        """Remove a call from the table. Exactly one thread gets True, and must conclude the call."""
        with self._lock:
            self.streams.forget(call.stream_id)
            return self.calls.pop(call.stream_id, None) is not None

    def _conclude(
        self,
        call: ClientCall,
        status: Status,
        payload: bytes | None = None,
        *,
        cause: Exception | None = None,
    ) -> None:
        """Record the outcome. Only the thread that removed the call from the table calls this."""
        call.payload = payload
        call.cause = cause
        call.status = status
        call.done.set()
        call.owner = None
        if call.inbox is not None:
            call.inbox.end()
        if call.on_done is not None:
            call.on_done(call)
        with self._lock:
            callbacks, call.callbacks = call.callbacks, None
        if callbacks:
            self.link.dispatch(Callbacks(self.name, callbacks))
        if self._spent is not None:
            self._end_if_spent()

    def _answered(self, call: ClientCall, status: Status, payload: bytes | None = None) -> None:
        """Take the outcome from the peer; the stream is forgotten already."""
        if call.inbox is None:
            # The usual case needs no lock: the stream is forgotten already.
            if self.calls.pop(call.stream_id, None) is not None:
                self._conclude(call, status, payload)
            return
        call.outcome = status, payload
        call.inbox.end()
        # The outcome is set before this look at the inbox: a consumer takes a message, then looks for the outcome.
        if call.inbox.drained:
            self.settle(call)

    # For the link

    def receive(self, data: memoryview, jobs: list[Job]) -> None:
        """Decode bytes, and deliver the answers in them."""
        for message in self._decoder.receive(data):
            self.receive_message(message, jobs)

    @property
    def inside_message(self) -> bool:
        """Whether a part of a message has arrived."""
        return self._decoder.inside

    def receive_message(self, message: Message, jobs: list[Job]) -> None:
        """Like :meth:`receive`, for one decoded message that does not follow a part of another."""
        with self._lock:
            if self._dropped:
                self._forget_dropped_locked()
            event = self.streams.receive(message)
            call = self.calls.get(event.stream_id)
        if call is None or isinstance(event, Ignored):
            reason, is_late = event[1:] if isinstance(event, Ignored) else ("late data", True)
            self.ignored += not is_late
            level = logging.DEBUG if is_late or self.ignored > 1 else logging.WARNING
            logger.log(level, "%s: ignored on stream %d: %s", self.name, event.stream_id, reason)
        elif isinstance(event, ResponseReceived):
            self._receive_response(call, bytes(event.data))
        elif isinstance(event, StreamFailed):
            # The reference treats an oversized answer as a status from the peer, not as a broken protocol.
            oversized = event.code == StatusCode.RESOURCE_EXHAUSTED
            broken = None if oversized else RemoteProtocolError(event.reason)
            self.finish(call, Status(event.code, event.reason), cause=broken)
        else:
            self._receive_data(call, event)

    def _receive_response(self, call: ClientCall, data: bytes) -> None:
        try:
            response = envelope_pb2.Response.FromString(data)
        except Exception as error:
            text = f"{call.method}: cannot parse the response: {error}"
            status = Status(StatusCode.INTERNAL, text)
            self.finish(call, status, cause=RemoteProtocolError(text))
            return
        # The status comes first: the payload of a failed call may hold any bytes.
        if response.HasField("status") and response.status.code != 0:
            self._answered(call, Status.from_message(response.status))
            return
        payload, inbox = response.payload, call.inbox
        if inbox is None or self.holdings.deliver(inbox, payload or None, self._give_up):
            self._answered(call, _OK, payload)

    def _receive_data(self, call: ClientCall, event: DataReceived) -> None:
        if call.inbox is None:
            status = call.no_stream()
            self.finish(call, status, cause=RemoteProtocolError(status.details))
        elif self.holdings.deliver(call.inbox, event.data, self._give_up) and event.end:
            self._answered(call, _OK)

    def _give_up(self, inbox: Inbox) -> None:
        """End the stream whose messages leave no room, and drop them: no bound would count them."""
        with self._lock:
            call = next((call for call in self.calls.values() if call.inbox is inbox), None)
        if call is not None and self.cancel(call, status := call.not_taken()):
            logger.warning("%s: %s", self.name, status.details)

    def _inboxes(self) -> list[Inbox]:
        with self._lock:
            return [call.inbox for call in self.calls.values() if call.inbox is not None]

    def tick(self, now: float) -> float:
        """End the watched calls whose deadline has passed; returns the time of the next deadline."""
        next_due = math.inf
        with self._lock:
            calls = list(self.calls.values())
        for call in calls:
            if call.timed and call.deadline.at is not None:
                if call.deadline.at <= now:
                    self.expire(call)
                else:
                    next_due = min(next_due, call.deadline.at)
        return next_due

    def fail_all(self, status: Status, cause: Exception | None = None) -> None:
        """End all calls with ``status``, and all later calls. Idempotent: the first status counts."""
        with self._lock:
            if self._closed is None:
                self._closed_by = cause
                self._closed = status
            calls = list(self.calls.values())
            calls = [call for call in calls if self.calls.pop(call.stream_id, None) is not None]
            self._dropped.clear()
            self.streams = ClientStreams()
        for call in calls:
            if call.outcome is not None:
                self._conclude(call, *call.outcome)
            else:
                self._conclude(call, self._closed, cause=self._closed_by)

    def after_fork_in_child(self) -> None:
        """Fail all calls, and all later ones: the connection is the parent's. Runs no callback."""
        self._send_lock = threading.Lock()
        self._lock = threading.Lock()
        status = self._unavailable(_OF_THE_PARENT)
        if self._closed is None:
            self._closed_by = ConnectionLost(_OF_THE_PARENT)
            self._closed = status
        calls, self.calls = list(self.calls.values()), {}
        for call in calls:
            call.callbacks = call.on_done = None
            self._conclude(call, status, cause=self._closed_by)

    def lost(self, cause: NRIError | None) -> None:
        """End all calls: the connection is lost, for ``cause``, or closed by this side."""
        if self.ignored > 1:
            logger.warning("%s: %d messages were ignored in all", self.name, self.ignored)
        text = "the connection was closed" if cause is None else str(cause)
        self.fail_all(self._unavailable(text), ConnectionLost(text) if cause is None else cause)
