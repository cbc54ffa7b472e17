"""Updates of containers at any time, from any thread: :class:`UpdateQueue`.

Every update that is put into a queue is accounted for: it was applied, or merged with another one, or its
future and ``on_failed`` have the reason. Updates of a container are applied in the order of the ``put()`` calls.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

import grpc

from nri_sync import Backoff, Interceptor, Stub, api
from nri_sync.api import ContainerEviction, ContainerUpdate
from nri_sync.deadline import Deadline
from nri_sync.errors import (
    NotConnected,
    NRIError,
    QueueClosed,
    QueueFull,
    UpdateFailed,
)
from nri_sync.kit.updates.backlog import Backlog, Entry, Item
from nri_sync.kit.updates.pending import PendingUpdate
from nri_sync.logger import get_logger
from nri_sync.plugin.interceptors import Proceed
from nri_sync.threads import Latch, signal_safe, spawn
from nri_sync.ttrpc import ServicerContext

__all__ = ["UpdateCounters", "UpdateQueue"]

logger = get_logger("nri_sync.kit.updates")

_Entry = Entry[PendingUpdate]

_TEXTS = {
    "refused": "the runtime refuses it",
    "removed": "the container is gone",
    "closed": "the queue was closed",
    "sent": "the queue was closed before the runtime answered: it may have been applied",
}


class UpdateCounters(NamedTuple):
    """A snapshot of the outcomes of all ``put()`` calls. All but the last two add up to ``put``."""

    #: Calls of ``put()`` that were accepted.
    put: int
    #: Merged with an update that waited for the same container.
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


class UpdateQueue(Interceptor):
    """Sends updates of containers to the runtime, from a thread of its own, when that is safe.

    An interceptor, to be passed to the stub, which attaches it, and closes it in :meth:`nri_sync.Stub.close`::

        updates = kit.UpdateQueue()
        stub = nri_sync.Stub(Plugin(updates), interceptors=[updates])

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
        self._on_failed = on_failed
        self._stub: Stub | None = None
        self._thread: int | None = None
        # Whether the thread has been started: the first request of a session does.
        self._manned = False
        # Handlers that are running, by thread. Written by the threads themselves.
        self._handlers: dict[int, ServicerContext] = {}
        #: Set when the thread has ended.
        self._over = Latch()
        # Guards all that follows. No user code and no call runs under it.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._backlog: Backlog[PendingUpdate] = Backlog(
            limit=limit, batch=batch, attempts=attempts, delay=(backoff or Backoff()).delay
        )
        # Entries that were dropped with their containers, for the thread to report.
        self._removed: list[_Entry] = []
        # Set and replaced when there is room for more.
        self._room = Latch()
        # Requests of the runtime that are not answered.
        self._unanswered = 0
        # Whether calls may be made, as far as known; how many sessions were synchronized, and configured.
        self._ready = False
        self._synchronized = 0
        self._configured = 0
        # The containers in the parts of a Synchronize that have come so far.
        self._listed: set[str] = set()
        self._closed = False
        self._calls = 0
        self._calling_since: float | None = None

    def attach(self, stub: Stub) -> None:
        """Learn which stub to send by; the stub calls it. Idempotent. Starts nothing.

        Raises ValueError when another stub is attached, or the queue is not one of its interceptors.
        """
        if not any(interceptor is self for interceptor in stub.interceptors):
            raise ValueError(
                f"{stub!r} does not know this queue: pass it to the stub, interceptors=[queue]"
            )
        self._attach(stub)

    @signal_safe
    def _attach(self, stub: Stub) -> None:
        with self._changed:
            if self._stub not in (None, stub):
                raise ValueError(f"{self._stub!r} is attached already; each stub needs its own")
            self._stub = stub

    def _man(self) -> None:
        """Start the thread, unless it has been; when there is none to be had, the next request tries again."""
        with self._changed:
            stub = self._stub
            if stub is None or self._manned or self._closed:
                return
            self._manned = True
        try:
            spawn(f"{stub.name}-updates", self._run)
        except (RuntimeError, MemoryError) as error:
            logger.error("%s: no thread to send updates by: %s", stub.name, error)
            self._unman()

    def _unman(self) -> None:
        with self._changed:
            self._manned = False
            if self._closed:
                self._over.set()  # close() may wait for the thread

    # For the application

    def put(
        self,
        item: api.Update | ContainerUpdate | ContainerEviction,
        *,
        timeout: float | None = 0.0,
    ) -> PendingUpdate:
        """Have a container updated, or evicted. The message is copied. Returns a future of the outcome.

        While the queue is full it blocks for ``timeout`` seconds, None for as long as it takes; not in a handler,
        which would hold it up. An update that can be merged always has room.

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
            entry, room = self._accept(message)
            if entry is not None:
                return entry.handle
            if deadline.expired or self.holds_up():
                raise QueueFull(
                    f"the updates of {self._limit} containers wait for the runtime; "
                    f"no room for one of {message.container_id}"
                )
            room.wait(deadline)

    @signal_safe
    def _accept(self, message: Item) -> tuple[_Entry | None, Latch]:
        """Returns the entry that has the message, None without room; and a latch, set when there is room."""
        with self._changed:
            if self._closed:
                raise QueueClosed(
                    f"the queue of updates is closed; {message.container_id} came too late"
                )
            entry = self._backlog.accept(
                message, self._configured, lambda: PendingUpdate(self.holds_up)
            )
            self._changed.notify_all()
            return entry, self._room

    @signal_safe
    def drop(self, container_id: str) -> bool:
        """Drop the update of a container that is gone, unless it is on its way to the runtime.

        Returns whether there was anything. The queue does this by itself where it can see the removal: when
        the plugin is subscribed to RemoveContainer, and when it is synchronized again.
        """
        with self._changed:
            gone = self._backlog.drop(container_id)
            self._gone_locked(gone)
            return bool(gone)

    def close(self, timeout: float | None = 5.0) -> bool:
        """Take nothing more, send what is there, and end the thread. Idempotent; the stub's ``close()`` calls it.

        Blocks for ``timeout`` seconds, None for as long as it takes; not while no session is up, and not in a
        handler. Entries that are left then fail, and are logged. Returns whether none was left.
        """
        if self._shut() and not self.holds_up():
            self._over.wait(Deadline(timeout))
        left, removed = self._abandon()
        for failure in removed + left:
            logger.warning("%s", failure)
        return not left

    @signal_safe
    def _shut(self) -> bool:
        """Take nothing more. Returns whether there is a thread to wait for."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._make_room_locked()
            return self._manned

    @signal_safe
    def _abandon(self) -> tuple[list[UpdateFailed], list[UpdateFailed]]:
        """Settle all entries. Returns the failures of entries left over, and of entries removed before."""
        with self._changed:
            left = self._backlog.clear()
            removed, self._removed = self._removed, []
            self._changed.notify_all()
        # In the order in which they were dropped.
        gone = [self._settle_failed(entry, "removed") for entry in removed]
        return [self._settle_failed(entry, "closed") for entry in left], gone

    def __enter__(self) -> UpdateQueue:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    @property
    def counters(self) -> UpdateCounters:
        """The outcomes of all ``put()`` calls so far; a snapshot."""
        return self._count()

    @signal_safe
    def _count(self) -> UpdateCounters:
        with self._changed:
            since = self._calling_since
            return UpdateCounters(
                **self._backlog.tally,
                pending=len(self._backlog),
                calls=self._calls,
                calling_for=0.0 if since is None else time.monotonic() - since,
            )

    def holds_up(self) -> bool:
        """Whether the queue waits for this thread: it is in a handler, or in a callback of the queue."""
        thread = threading.get_ident()
        context = self._handlers.get(thread)
        return thread == self._thread or (context is not None and context.is_active())

    # For the stub

    def serve(self, event: str, request: Any, context: ServicerContext, proceed: Proceed) -> Any:
        synchronized = event == "Synchronize" and not request.more

        def answered() -> None:
            with self._changed:
                self._unanswered -= 1
                if synchronized:
                    self._ready = True
                    self._synchronized += 1
                # The thread is not woken for each request of a plugin that has nothing to send.
                if not self._unanswered and self._backlog:
                    self._changed.notify_all()

        if not self._manned:
            self._man()
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
            return proceed(request, context)
        finally:
            del self._handlers[thread]

    def _watch_locked(self, event: str, request: Any) -> None:
        """Notice which containers are gone."""
        assert self._lock.locked()
        if event == "RemoveContainer":
            self._gone_locked(self._backlog.drop(request.container.id))
        elif event == "Configure":
            self._configured += 1
            self._listed.clear()
        elif event == "Synchronize":
            self._listed.update(container.id for container in request.containers)
            if not request.more:
                self._gone_locked(self._backlog.drop_unlisted(self._listed, self._configured))
                self._listed.clear()

    def _gone_locked(self, entries: Sequence[_Entry]) -> None:
        """Have the thread report entries that were dropped."""
        assert self._lock.locked()
        if entries:
            self._removed += entries
            self._make_room_locked()
            self._changed.notify_all()

    def _make_room_locked(self) -> None:
        """Wake the threads that wait for room."""
        assert self._lock.locked()
        room, self._room = self._room, Latch()
        room.set()

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
                if self._closed and not (self._ready and self._backlog):
                    return False
                self._changed.wait(self._pause_locked())
            session = self._synchronized
        for entry in removed:
            self._failed(entry, "removed")
        if batch:
            self._send(batch, session)
        return True

    def _may_call_locked(self) -> bool:
        assert self._lock.locked()
        return self._ready and not self._unanswered

    def _pick_locked(self) -> list[_Entry]:
        """Returns the entries of the call that begins now; none if no call may."""
        assert self._lock.locked()
        batch = self._backlog.pick(time.monotonic()) if self._may_call_locked() else []
        if batch:
            self._calls += 1
            self._calling_since = time.monotonic()
        return batch

    def _pause_locked(self) -> float | None:
        """Seconds until an entry is due to be sent again; None without one."""
        assert self._lock.locked()
        due = self._backlog.due() if self._may_call_locked() else None
        return None if due is None else max(0.0, due - time.monotonic())

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
        except BaseException as raised:  # an interceptor may raise anything; the thread goes on
            error = raised
        done: tuple[list[_Entry], list[_Entry]] = ([], [])
        with self._changed:
            self._calling_since = None
            if error is not None and _is_loss(error):
                if self._synchronized == session:
                    self._ready = False
                self._backlog.lost(batch)
            elif error is not None and len(batch) > 1:
                # containerd answers with an error when any of them has failed, and does not say which.
                self._backlog.failed_together(batch)
            else:
                if error is not None:
                    failed = {batch[0].container_id}
                done = self._backlog.answered(batch, failed, time.monotonic())
                self._make_room_locked()
        for entry in done[0]:
            entry.handle.set_result(None)
        for entry in done[1]:
            self._failed(entry, "refused", error)

    def _failed(self, entry: _Entry, reason: str, cause: BaseException | None = None) -> None:
        """Settle an entry that has failed, and log it."""
        logger.warning("%s", self._settle_failed(entry, reason, cause))

    def _settle_failed(
        self, entry: _Entry, reason: str, cause: BaseException | None = None
    ) -> UpdateFailed:
        """Report a failure; called once for an entry, without the lock."""
        text = _TEXTS["sent" if reason == "closed" and entry.in_flight else reason]
        what = "eviction" if entry.update is None else "update"
        text = f"{what} of container {entry.container_id} failed: {text}"
        failure = UpdateFailed(
            text if cause is None else f"{text}: {cause}",
            container_id=entry.container_id,
            reason=reason,
            update=entry.update,
            eviction=entry.eviction,
        )
        failure.__cause__ = cause
        entry.handle.set_exception(failure)
        if self._on_failed is not None:
            try:
                self._on_failed(failure)
            except Exception:
                logger.exception("on_failed failed")
        return failure


def _is_loss(error: BaseException) -> bool:
    """Whether the session is over, and the runtime has not answered; it may have applied some."""
    # An error that the runtime answers with has no cause.
    return isinstance(error, NotConnected) or (
        isinstance(error, grpc.RpcError) and isinstance(error.__cause__, NRIError)
    )
