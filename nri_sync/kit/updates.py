"""Updates of containers at any time, from any thread: :class:`UpdateQueue`.

Every update that is put into a queue is accounted for: it was applied, or merged with another one, or its
future and ``on_failed`` tell why not. Those of one container are applied in the order in which they were put.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Callable, NamedTuple

import grpc
from google.protobuf.message import Message

from nri_sync import Backoff, Stub, api
from nri_sync.api import ContainerEviction, ContainerUpdate
from nri_sync.deadline import Deadline
from nri_sync.errors import (
    NotConnected,
    NRIError,
    QueueClosed,
    QueueFull,
    UpdateFailed,
    WouldDeadlock,
)
from nri_sync.kit.coalesce import overlay
from nri_sync.kit.intercept import Behaviour, RequestInterceptor
from nri_sync.threads import Latch, spawn

__all__ = ["PendingUpdate", "UpdateCounters", "UpdateQueue"]

logger = logging.getLogger("nri_sync.kit.updates")

_TEXTS = {
    "refused": "the runtime has refused it {attempts} times",
    "removed": "the container is gone",
    "closed": "the queue was closed",
    "sent": "the queue was closed before the runtime answered: it may have been applied",
}


class UpdateCounters(NamedTuple):
    """A snapshot of what became of what was put into a queue. All but the last two add up to ``put``."""

    #: Calls of ``put()`` that were accepted.
    put: int
    #: Merged with what waited for the same container.
    merged: int
    applied: int
    refused: int
    #: Dropped, as the container is gone.
    removed: int
    #: Left over when the queue was closed.
    closed: int
    #: Not decided yet.
    pending: int
    #: Calls to the runtime, also those that failed.
    calls: int
    #: Seconds that the runtime has taken for the call that it has not answered yet; 0.0 if there is none.
    calling_for: float


class PendingUpdate(Future[None]):
    """What :meth:`UpdateQueue.put` returns: a ``concurrent.futures.Future`` without a result.

    ``result()`` returns None when the runtime has applied the update, and raises UpdateFailed when it has not.
    All that is merged into one update shares its future, hence it cannot be cancelled.
    """

    def __init__(self, queue: UpdateQueue) -> None:
        super().__init__()
        self._queue = queue
        self.set_running_or_notify_cancel()

    def result(self, timeout: float | None = None) -> None:
        """Block until it is decided.

        Raises:
            UpdateFailed: it was not applied.
            TimeoutError: ``timeout`` (in seconds) passed; ``concurrent.futures.TimeoutError`` before Python 3.11.
            WouldDeadlock: called in a handler that the runtime waits for. The update waits for it, too.
        """
        self._check()
        super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Like :meth:`result`, but returns the failure; None if it was applied."""
        self._check()
        return super().exception(timeout)

    def _check(self) -> None:
        if not self.done() and self._queue.holds_up():
            raise WouldDeadlock(
                "waiting for an update in a handler, or in a callback of the queue, which the update waits for; "
                "wait on another thread, or use add_done_callback()"
            )


class _Entry:
    """What is wanted of one container, until it is decided. Guarded by the lock of its queue.

    Whoever takes it out of the queue's tables decides it, and nobody else.
    """

    __slots__ = (
        "alone",
        "attempts",
        "born",
        "container_id",
        "eviction",
        "future",
        "in_flight",
        "update",
    )

    def __init__(self, container_id: str, future: PendingUpdate) -> None:
        self.container_id = container_id
        self.future = future
        self.update: ContainerUpdate | None = None
        self.eviction: ContainerEviction | None = None
        #: How many sessions had begun when it was put.
        self.born = 0
        #: How often the runtime has refused it.
        self.attempts = 0
        self.in_flight = False
        #: To be sent without others, as they have failed together and nobody knows which.
        self.alone = False

    def add(self, item: Message) -> None:
        if isinstance(item, ContainerEviction):
            self.eviction = ContainerEviction()
            self.eviction.CopyFrom(item)
        else:
            assert isinstance(item, ContainerUpdate)
            if self.update is None:
                self.update = ContainerUpdate()
                self.update.CopyFrom(item)
            else:
                overlay(self.update, item)

    def failure(self, reason: str, cause: BaseException | None = None) -> UpdateFailed:
        key = "sent" if reason == "closed" and self.in_flight else reason
        what = "eviction" if self.update is None else "update"
        text = f"{what} of container {self.container_id} failed: {_TEXTS[key].format(attempts=self.attempts)}"
        error = UpdateFailed(
            text if cause is None else f"{text}: {cause}",
            container_id=self.container_id,
            reason=reason,
            update=self.update,
            eviction=self.eviction,
        )
        error.__cause__ = cause
        return error


class UpdateQueue(RequestInterceptor):
    """Sends updates of containers to the runtime, from a thread of its own, when that is safe.

    An interceptor: pass it to the stub, then attach the stub to it::

        updates = kit.UpdateQueue()
        stub = nri_sync.Stub(Plugin(updates), interceptors=[updates])
        updates.attach(stub)

    One call is in flight at a time, and none is begun while a request of the runtime waits for its answer: the
    usual runtimes hold one lock while they relay an event and while they apply updates. What is put meanwhile
    for the same container is merged: of each setting the later one wins. While no session is up, updates are
    kept; they are sent once the next one is synchronized. A call is given up when its session is over, never
    before: the runtime could still apply it after a later one.

    All methods may be called from any thread, in handlers too.
    """

    def __init__(
        self,
        *,
        limit: int = 10_000,
        attempts: int = 3,
        backoff: Backoff | None = None,
        batch: int = 32,
        on_failed: Callable[[UpdateFailed], object] | None = None,
    ) -> None:
        """
        Args:
            limit: how many containers may have something undecided; twice counts one that has something on
                its way, and something after it.
            attempts: how often an update is sent that the runtime refuses.
            backoff: how long to wait before it is sent again; default ``Backoff()``. Others go on meanwhile.
            batch: how many containers one call is for, at most. While the runtime is at it, it relays no events.
            on_failed: called with each failure, on the thread of the queue, or on that which closes it. Must not
                block for long: nothing is sent meanwhile.
        """
        for option, value in (("limit", limit), ("attempts", attempts), ("batch", batch)):
            if value < 1:
                raise ValueError(f"{option} must be at least 1, not {value!r}")
        self._limit = limit
        self._attempts = attempts
        self._backoff = backoff or Backoff()
        self._batch = batch
        self._on_failed = on_failed
        self._stub: Stub | None = None
        self._thread: int | None = None
        # Handlers that are running, by thread. Written by the threads themselves.
        self._handlers: dict[int, grpc.ServicerContext] = {}
        #: Set when the thread has ended.
        self._over = Latch()
        # Guards all that follows. No user code and no call runs under it.
        self._changed = threading.Condition(threading.Lock())
        # Each entry is in one of these. _sent: in flight, or to be sent again; _behind: after one that is there.
        self._waiting: OrderedDict[str, _Entry] = OrderedDict()
        self._sent: dict[str, _Entry] = {}
        self._behind: dict[str, _Entry] = {}
        # When to send those in _sent again: time, a number for the order, entry. May hold decided ones.
        self._again: list[tuple[float, int, _Entry]] = []
        self._order = itertools.count()
        # Taken out of the tables, to be told of by the thread.
        self._removed: list[_Entry] = []
        # Set and replaced when a full queue has room.
        self._room = Latch()
        # Requests of the runtime that are not answered.
        self._unanswered = 0
        # Whether calls may be made, as far as known; sessions that were synchronized, and configured.
        self._ready = False
        self._session = 0
        self._configured = 0
        self._listed: set[str] = set()
        self._closed = False
        self._tally = dict.fromkeys(UpdateCounters._fields[:-3], 0)
        self._calls = 0
        self._calling_since: float | None = None

    def attach(self, stub: Stub) -> None:
        """Tell which stub to send by; before it is started. Idempotent.

        Raises:
            ValueError: another stub is attached, or the queue is not one of its interceptors.
            RuntimeError: the system has no more threads.
        """
        if not any(item is self for item in stub.server_interceptors):
            raise ValueError(
                f"{stub!r} does not know this queue: pass it to the stub as well, interceptors=[queue]"
            )
        with self._changed:
            if self._stub not in (None, stub):
                raise ValueError(f"{self._stub!r} is attached already; each stub needs its own")
            if self._stub is not None or self._closed:
                return
            self._stub = stub
        try:
            spawn(f"{stub.name}-updates", self._run)
        except BaseException:
            self._stub = None
            raise

    # For the application

    def put(
        self,
        item: api.Update | ContainerUpdate | ContainerEviction,
        *,
        timeout: float | None = 0.0,
    ) -> PendingUpdate:
        """Have a container updated, or evicted. The message is copied. Returns what tells what became of it.

        While the queue is full it blocks for ``timeout`` seconds, None for as long as it takes; not in a handler,
        which would hold it up. What can be merged always has room.

        Raises:
            QueueFull: there was no room.
            QueueClosed: the queue was closed.
            ValueError: the message names no container.
            TypeError: it is none of the three.
        """
        message = item.message if isinstance(item, api.Update) else item
        if not isinstance(message, (ContainerUpdate, ContainerEviction)):
            raise TypeError(
                f"put() takes an Update or a ContainerEviction, not {type(item).__name__}"
            )
        if not message.container_id:
            raise ValueError(f"a {type(message).__name__} needs a container_id")
        deadline = Deadline(timeout)
        while True:
            with self._changed:
                entry = self._accept_locked(message)
                room = self._room
            if entry is not None:
                return entry.future
            if deadline.expired or self.holds_up():
                raise QueueFull(
                    f"the updates of {self._limit} containers wait for the runtime; "
                    f"no room for one of {message.container_id}"
                )
            room.wait(deadline)

    def _accept_locked(self, message: ContainerUpdate | ContainerEviction) -> _Entry | None:
        """Requires the lock. Returns where the message went; None when there is no room."""
        if self._closed:
            raise QueueClosed(
                f"the queue of updates is closed; {message.container_id} came too late"
            )
        container_id = message.container_id
        table = self._behind if container_id in self._sent else self._waiting
        entry = table.get(container_id)
        if entry is None:
            if self._size_locked() >= self._limit:
                return None
            entry = table[container_id] = _Entry(container_id, PendingUpdate(self))
            self._changed.notify_all()
        else:
            self._tally["merged"] += 1
        entry.add(message)
        entry.born = self._configured
        self._tally["put"] += 1
        return entry

    def drop(self, container_id: str) -> bool:
        """Forget what is wanted of a container, as it is gone; but for what is on its way to the runtime.

        Returns whether there was anything. The queue does this by itself where it can see the removal: when
        the plugin is subscribed to RemoveContainer, and when it is synchronized again.
        """
        with self._changed:
            return self._drop_locked(container_id)

    def close(self, timeout: float | None = 5.0) -> bool:
        """Take nothing more, send what is there, and end the thread. Idempotent.

        Blocks for ``timeout`` seconds, None for as long as it takes; not while no session is up, and not in a
        handler. What is left then is abandoned, and told of. Returns whether nothing was.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._make_room_locked()
            attached = self._stub is not None
        if attached and not self.holds_up():
            self._over.wait(Deadline(timeout))
        with self._changed:
            tables = (self._sent, self._waiting, self._behind)
            left = [entry for table in tables for entry in table.values()]
            for table in tables:
                table.clear()
            self._tally["closed"] += len(left)
            removed, self._removed = self._removed, []
            self._changed.notify_all()
        for entry in removed:
            self._decide(entry, entry.failure("removed"))
        for entry in left:
            self._decide(entry, entry.failure("closed"))
        return not left

    def __enter__(self) -> UpdateQueue:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    @property
    def counters(self) -> UpdateCounters:
        """What has become of all that was put; a snapshot."""
        with self._changed:
            since = self._calling_since
            return UpdateCounters(
                **self._tally,
                pending=self._size_locked(),
                calls=self._calls,
                calling_for=0.0 if since is None else time.monotonic() - since,
            )

    def holds_up(self) -> bool:
        """Whether the queue waits for this thread: it is in a handler, or in a callback of the queue."""
        thread = threading.get_ident()
        context = self._handlers.get(thread)
        return thread == self._thread or (context is not None and context.is_active())

    # For the stub

    def serve(
        self, event: str, request: Any, context: grpc.ServicerContext, behaviour: Behaviour
    ) -> Any:
        synchronized = event == "Synchronize" and not request.more

        def answered() -> None:
            with self._changed:
                self._unanswered -= 1
                if synchronized:
                    self._ready = True
                    self._session += 1
                if not self._unanswered:
                    self._changed.notify_all()

        with self._changed:
            self._unanswered += 1
            self._watch_locked(event, request)
        # Not when the handler returns: one that was answered for may never do. It is called as well when the
        # session is lost, which then shows at the next call.
        if not context.add_callback(answered):
            answered()
        thread = threading.get_ident()
        self._handlers[thread] = context
        try:
            return behaviour(request, context)
        finally:
            del self._handlers[thread]

    def _watch_locked(self, event: str, request: Any) -> None:
        """Requires the lock. Notice which containers are gone."""
        if event == "RemoveContainer":
            self._drop_locked(request.container.id)
        elif event == "Configure":
            self._configured += 1
            self._listed.clear()
        elif event == "Synchronize":
            self._listed.update(container.id for container in request.containers)
            if not request.more:
                # What was put in this session may be about a container that was created meanwhile.
                tables = (self._sent, self._waiting, self._behind)
                known = {
                    entry.container_id
                    for table in tables
                    for entry in table.values()
                    if entry.born < self._configured
                }
                for container_id in known - self._listed:
                    self._drop_locked(container_id)
                self._listed.clear()

    # Tables

    def _size_locked(self) -> int:
        """Requires the lock."""
        return len(self._waiting) + len(self._sent) + len(self._behind)

    def _make_room_locked(self) -> None:
        """Requires the lock. Wake those who wait for room."""
        room, self._room = self._room, Latch()
        room.set()

    def _drop_locked(self, container_id: str) -> bool:
        """Requires the lock."""
        gone = [
            table.pop(container_id)
            for table in (self._waiting, self._behind)
            if container_id in table
        ]
        sent = self._sent.get(container_id)
        if sent is not None and not sent.in_flight:
            gone.insert(0, self._sent.pop(container_id))
        if gone:
            self._tally["removed"] += len(gone)
            self._removed += gone
            self._make_room_locked()
            self._changed.notify_all()
        return bool(gone)

    def _settle_locked(self, entry: _Entry, outcome: str) -> None:
        """Requires the lock. Take an entry out that was sent; it is the turn of the one behind it."""
        del self._sent[entry.container_id]
        behind = self._behind.pop(entry.container_id, None)
        if behind is not None:
            self._waiting[entry.container_id] = behind
        self._tally[outcome] += 1
        self._make_room_locked()

    def _send_again_locked(self, entry: _Entry, due: float) -> None:
        """Requires the lock."""
        heapq.heappush(self._again, (due, next(self._order), entry))

    def _pick_locked(self) -> list[_Entry]:
        """Requires the lock. What to send now: first what has been sent before."""
        batch: list[_Entry] = []
        if not self._ready or self._unanswered:
            return batch
        now = time.monotonic()
        while self._again and len(batch) < self._batch and self._again[0][0] <= now:
            entry = self._again[0][2]
            if entry.alone and batch:
                return batch
            heapq.heappop(self._again)
            if self._sent.get(entry.container_id) is entry:  # not dropped meanwhile
                batch.append(entry)
                if entry.alone:
                    return batch
        while self._waiting and len(batch) < self._batch:
            container_id, entry = self._waiting.popitem(last=False)
            self._sent[container_id] = entry
            batch.append(entry)
        return batch

    def _pause_locked(self) -> float | None:
        """Requires the lock. Seconds until there may be something to send without a word from anybody."""
        if not self._again or not self._ready or self._unanswered:
            return None
        return max(0.0, self._again[0][0] - time.monotonic())

    # The thread

    def _run(self) -> None:
        self._thread = threading.get_ident()
        try:
            while self._step():
                pass
        finally:
            self._thread = None
            self._over.set()

    def _step(self) -> bool:
        """Wait for something to do, and do it. False when the queue is closed, and there is nothing."""
        with self._changed:
            while True:
                removed, self._removed = self._removed, []
                batch = [] if removed else self._pick_locked()
                if removed or batch:
                    break
                if self._closed and not (self._ready and self._size_locked()):
                    return False
                self._changed.wait(self._pause_locked())
            session = self._session
            if batch:
                for entry in batch:
                    entry.in_flight = True
                self._calls += 1
                self._calling_since = time.monotonic()
        for entry in removed:
            self._decide(entry, entry.failure("removed"))
        if batch:
            self._send(batch, session)
        return True

    def _send(self, batch: Sequence[_Entry], session: int) -> None:
        assert self._stub is not None
        failed: set[str] = set()
        error: BaseException | None = None
        try:
            refused = self._stub.update_containers(
                [entry.update for entry in batch if entry.update is not None],
                [entry.eviction for entry in batch if entry.eviction is not None],
                timeout=math.inf,
            )
            failed = {update.container_id for update in refused}
        except BaseException as raised:  # whatever an interceptor does, the thread goes on
            error = raised
        decided: list[tuple[_Entry, UpdateFailed | None]] = []
        with self._changed:
            self._calling_since = None
            # What is not there any more was decided by close().
            mine = [entry for entry in batch if self._sent.get(entry.container_id) is entry]
            for entry in mine:
                entry.in_flight = False
            if error is not None and _is_loss(error):
                if self._session == session:
                    self._ready = False
                for entry in mine:
                    self._send_again_locked(entry, 0.0)
            elif error is not None and len(batch) > 1:
                # containerd answers with an error when any of them has failed, and does not say which.
                for entry in mine:
                    entry.alone = True
                    self._send_again_locked(entry, 0.0)
            else:
                for entry in mine:
                    if error is None and entry.container_id not in failed:
                        self._settle_locked(entry, "applied")
                        decided.append((entry, None))
                    elif self._refused_locked(entry):
                        decided.append((entry, entry.failure("refused", error)))
        for entry, failure in decided:
            self._decide(entry, failure)

    def _refused_locked(self, entry: _Entry) -> bool:
        """Requires the lock. Send an entry again that was refused; True if it has been often enough."""
        entry.attempts += 1
        if entry.attempts < self._attempts:
            self._send_again_locked(entry, time.monotonic() + self._backoff.delay(entry.attempts))
            return False
        self._settle_locked(entry, "refused")
        return True

    def _decide(self, entry: _Entry, failure: UpdateFailed | None) -> None:
        """Tell all who want to know; for whoever took the entry out of the tables."""
        if failure is None:
            entry.future.set_result(None)
            return
        logger.warning("%s", failure)
        entry.future.set_exception(failure)
        if self._on_failed is not None:
            try:
                self._on_failed(failure)
            except Exception:
                logger.exception("on_failed failed")


def _is_loss(error: BaseException) -> bool:
    """Whether the session is over, and the runtime has not answered; it may have applied some."""
    # An error that the runtime answers with has no cause.
    return isinstance(error, NotConnected) or (
        isinstance(error, grpc.RpcError) and isinstance(error.__cause__, NRIError)
    )
