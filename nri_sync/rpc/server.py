"""The server's end of one ttRPC connection: calls in, answers out."""

from __future__ import annotations

import functools
import logging
import math
import threading
from collections.abc import Sequence
from typing import Callable

from nri_sync.codes import StatusCode
from nri_sync.deadline import Deadline
from nri_sync.errors import ConnectionLost, NRIError
from nri_sync.logger import get_logger
from nri_sync.net.link import Buffer, Job, Link
from nri_sync.rpc.callbacks import Callback, run_elsewhere
from nri_sync.rpc.context import RequestContext
from nri_sync.rpc.envelope import Framing, encode_error
from nri_sync.rpc.inbox import Holdings, Inbox
from nri_sync.rpc.late import LatePolicy
from nri_sync.rpc.router import Router
from nri_sync.rpc.server_call import TOO_MANY, Reply, ServerCall
from nri_sync.rpc.status import Status
from nri_sync.threads import Latch
from nri_sync.wire.streams import (
    DataReceived,
    Ignored,
    Rejected,
    RequestReceived,
    ServerStreams,
)
from nri_sync.wire.ttrpc import (
    DATA,
    NO_DATA,
    REMOTE_CLOSED,
    Message,
    MessageDecoder,
    encode_header,
)

__all__ = ["ServerEnd"]


logger = get_logger("nri_sync.ttrpc")

# The shortest time to the next look at a call whose handler is slow, in seconds.
_NEXT_LOOK = 0.05

_NOT_TAKEN = Status(
    StatusCode.RESOURCE_EXHAUSTED, "the handler does not take the data of the stream"
)


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
        is; ``done`` is called when an admitted one is over, its answer sent.
        """
        self.router = router
        self.frame = frame
        self.peer = peer
        self.late_policy = late_policy
        self.owner = owner
        self.link: Link
        self._admit = admit
        self._done = done
        self._decoder = MessageDecoder(views=True)
        # Guards the tables, of the calls that are not answered yet and of the streams, and _look_at. Innermost.
        self._lock = threading.Lock()
        self.streams = ServerStreams()
        # The time of the next tick() for a call, on the monotonic clock.
        self._look_at = math.inf
        #: The calls that are not answered yet, by stream.
        self.calls: dict[int, ServerCall] = {}
        #: The contexts of the calls that are being served, answered or not, by thread.
        self.running: dict[int, RequestContext] = {}
        # The calls whose answer is not sent yet. set.remove() is atomic, so exactly one thread removes a call.
        # wait_idle() waits until the set is empty.
        self._unsent: set[ServerCall] = set()
        self._none_left: Latch | None = None
        # The streams that have ended here while their answer is on its way. The client may go on sending, and a
        # refusal must not overtake the answer.
        self._leaving: set[int] = set()
        self._takes_calls = True
        self.holdings = Holdings(self._inboxes)
        self.ignored = 0

    # For the link

    def receive(self, data: memoryview, jobs: list[Job]) -> None:
        """Take bytes in; the calls that begin with them are appended to ``jobs``."""
        rejections: list[Buffer] = []
        for message in self._decoder.receive(data):
            rejections += self._receive(message, jobs)
        if rejections:
            # Joined, since a flood of bad messages may come in one read.
            jobs.append(Reply([b"".join(rejections)]))

    def receive_message(self, message: Message, jobs: list[Job]) -> None:
        """Like :meth:`receive`, for a message that came whole, between two others."""
        rejections = self._receive(message, jobs)
        if rejections:
            jobs.append(Reply(rejections))

    @property
    def inside_message(self) -> bool:
        """Whether a message has come in part."""
        return self._decoder.inside

    def _receive(self, message: Message, jobs: list[Job]) -> Sequence[Buffer]:
        """Process a message, and append the call that it begins to ``jobs``. Returns the refusal, if any."""
        with self._lock:
            event = self.streams.receive(message)
            if isinstance(event, RequestReceived):
                if not self._takes_calls:
                    return ()
                call = ServerCall(self, *event)
                self.calls[call.stream_id] = call
                self._unsent.add(call)
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

    def begin(self, call: ServerCall) -> bool:
        """Enter a unary call that the fast lane has found; False, and nothing changes, if it may not begin.

        Called by the reading thread, as :meth:`receive`. The end has been made without ``admit``.
        """
        with self._lock:
            if not (self._takes_calls and self.streams.begin_unary(call.stream_id)):
                return False
            self.calls[call.stream_id] = call
            self._unsent.add(call)
        if self.late_policy is not None:
            self._limit(call, self.late_policy)
        return True

    def _admit_call(self, call: ServerCall, jobs: list[Job]) -> Sequence[Buffer]:
        refusal = self._admit()
        if refusal is not None:
            buffers = call.refuse(refusal)
            call.sent()
            return buffers
        call.counts = True
        if self.late_policy is not None:
            self._limit(call, self.late_policy)
        jobs.append(call)
        return ()

    def _limit(self, call: ServerCall, policy: LatePolicy) -> None:
        """Have the timer look at the call, whose handler has a limited time."""
        limit = policy.limit()
        if limit is not None:
            # Halfway first: see tick().
            call.late_at = call.since + limit
            call.due = due = call.since + limit / 2
            if due < self._look_at:
                with self._lock:
                    self._look_at = min(self._look_at, due)

    def _receive_data(self, call: ServerCall, event: DataReceived, jobs: list[Job]) -> None:
        inbox = call.inbox
        if inbox is None:
            return
        give_up = functools.partial(self._give_up, jobs)
        # No handler makes room in the stream of a call that waits for a thread.
        fits = self.holdings.deliver(inbox, event.data, give_up, consumed=call.begun)
        if fits and event.end:
            inbox.end()

    def _give_up(self, jobs: list[Job], inbox: Inbox) -> None:
        """End the stream whose messages leave no room, and append its answer to ``jobs``."""
        held = inbox.held
        with self._lock:
            calls = [call for call in self.calls.values() if call.inbox is inbox]
        for call in calls:
            status = _NOT_TAKEN if call.begun else TOO_MANY
            reply = call.give_up(status)
            if reply is not None:
                # A call that waits for a thread is refused, as others are.
                level = logging.WARNING if call.begun else logging.DEBUG
                text = "%s: %s: %s; stream %d held up the connection with %d bytes"
                about = (self.peer, call.method, status.details, call.stream_id, held)
                logger.log(level, text, *about)
                jobs.append(reply)

    def _inboxes(self) -> list[Inbox]:
        with self._lock:
            calls = list(self.calls.values())
        return [call.inbox for call in calls if call.inbox is not None]

    def _reject(self, event: Rejected) -> Sequence[Buffer]:
        logger.debug("%s: %s", self.peer, event.reason)
        if event.finished:
            with self._lock:
                call = self.calls.pop(event.stream_id, None)
            if call is not None:
                self.run_elsewhere(call.stop())
                self.mark_sent(call)
        return encode_error(event.stream_id, Status(event.code, event.reason), self.frame)

    def _ignore(self, event: Ignored) -> None:
        self.ignored += 1
        level = logging.WARNING if self.ignored == 1 else logging.DEBUG
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
                call.answer_late(policy, look_again=now + _NEXT_LOOK)
            else:
                call.due = min(answer_at, now + max((answer_at - now) / 2, _NEXT_LOOK))
            next_due = min(next_due, call.due)
        with self._lock:
            self._look_at = min(self._look_at, next_due)
        return next_due

    def lost(self, cause: NRIError | None) -> None:
        """The connection is gone: end all calls."""
        with self._lock:
            calls = list(self.calls.values())
            self.calls.clear()
            self.streams = ServerStreams()
        if self.ignored > 1:
            logger.warning("%s: %d messages were ignored in all", self.peer, self.ignored)
        callbacks: list[Callback] = []
        for call in calls:
            callbacks += call.stop()
            self.mark_sent(call)
        self.run_elsewhere(callbacks)

    def after_fork_in_child(self) -> None:
        """The connection is the parent's, which answers the calls. A handler that has forked goes on, unheard."""
        self._lock = threading.Lock()
        self.calls.clear()
        self._unsent.clear()
        self.streams = ServerStreams()
        if self._none_left is not None:
            self._none_left.set()

    def stop_calls(self) -> list[Callback]:
        """End the contexts of all calls, and drop their messages, so that no stream holds up the reading.

        Returns the callbacks of the contexts, to be called.
        """
        with self._lock:
            calls = list(self.calls.values())
        return [callback for call in calls for callback in call.stop()]

    def run_elsewhere(self, callbacks: list[Callback]) -> None:
        """Run callbacks of the application, not on a thread that other calls wait for."""
        run_elsewhere(self.link.name, callbacks)

    def stop_accepting(self) -> None:
        """Ignore calls from now on. The connection must end soon, which is the only answer they get."""
        self._takes_calls = False

    def wait_idle(self, deadline: Deadline) -> bool:
        """Block until all calls are answered, the answers sent, or the deadline; returns whether it is so."""
        # Attach, then look: mark_sent() removes a call, then looks for this latch.
        with self._lock:
            if self._none_left is None:
                self._none_left = Latch()
            none_left = self._none_left
        return not self._unsent or none_left.wait(deadline)

    # For the calls

    def finish(self, call: ServerCall, *, late: bool = False, by_reply: bool = False) -> bool:
        """Take a call off the table, to answer it; False when another thread has.

        ``by_reply``: another job than the call has the answer. The call may be done before that job.
        """
        with self._lock:
            if self.calls.get(call.stream_id) is not call:
                return False
            if call.inbox is None:
                del self.calls[call.stream_id]
            else:
                self._leave_locked(call)
            self.streams.send_response(call.stream_id)
            call.late = late
            call.by_reply = by_reply
        return True

    def _leave_locked(self, call: ServerCall) -> None:
        assert self._lock.locked()
        del self.calls[call.stream_id]
        if call.inbox is not None and call in self._unsent:
            self._leaving.add(call.stream_id)

    def mark_sent(self, call: ServerCall) -> None:
        """The answer to the call is sent, or will never be. The first time counts."""
        try:
            self._unsent.remove(call)
        except KeyError:
            return
        if call.inbox is not None:
            with self._lock:
                self._leaving.discard(call.stream_id)
        if self._none_left is not None:
            with self._lock:
                none_left = None if self._unsent else self._none_left
                if none_left is not None:
                    self._none_left = None
            if none_left is not None:
                none_left.set()
        if call.counts and self._done is not None:
            self._done()

    def send_data(self, call: ServerCall, data: bytes, *, last: bool = False) -> bool:
        """Send a message of a stream, or its end; False when the call is over. Blocks."""
        with self._lock:
            if self.calls.get(call.stream_id) is not call:
                return False
            if not self.streams.send_data(call.stream_id, end=last):
                return False
            if last:
                self._leave_locked(call)
        flags = REMOTE_CLOSED | NO_DATA if last else 0
        try:
            self.link.send(self.frame(encode_header(DATA, call.stream_id, flags, len(data)), data))
        except ConnectionLost:
            return False
        return True
