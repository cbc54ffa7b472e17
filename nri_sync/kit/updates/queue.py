"""Updates of containers at any time, from any thread: :class:`UpdateQueue`.

The queue accounts for every update: the runtime has applied it, the queue has merged it with another one, or its
future and ``on_failed`` get the reason. Updates of a container are applied in the order of the ``put()`` calls.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

from nri_sync import Backoff, Interceptor, RequestContext, Stub, api, fork
from nri_sync.api import ContainerEviction, ContainerUpdate
from nri_sync.deadline import Deadline
from nri_sync.errors import (
    CallFailed,
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
    """A snapshot of the outcomes of all ``put()`` calls. All fields but the last two add up to ``put``."""

    #: Calls of ``put()`` that were accepted.
    put: int
    #: Merged with an update that waited for the same container.
    merged: int
    applied: int
    refused: int
    #: Dropped because the container is gone.
    removed: int
    #: Left when the queue was closed.
    closed: int
    #: Without an outcome yet.
    pending: int
    #: Calls to the runtime, including failed ones.
    calls: int
    #: The age in seconds of the call that the runtime has not answered yet; 0.0 if there is none.
    calling_for: float


class UpdateQueue(Interceptor):
    """Sends updates of containers to the runtime, from its own thread, when that is safe.

    An interceptor: pass it to the stub, which attaches it, and closes it in :meth:`nri_sync.Stub.close`::

        updates = kit.UpdateQueue()
        stub = nri_sync.Stub(Plugin(updates), interceptors=[updates])

    The queue makes one call at a time, and begins none while a request of the runtime is unanswered: containerd
    and CRI-O hold one lock while they relay an event and while they apply updates. Meanwhile the queue merges
    updates of the same container: the later value of each setting wins. While no session is up, the queue keeps
    updates, and sends them once the next session is synchronized. A call ends only with an answer or with its
    session, because the runtime could still apply an abandoned call after a later one.

    All methods may be called from any thread, also in handlers.
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
            limit: the number of containers that may have unsettled updates. A container counts twice if one
                update is in flight, and another one waits behind it.
            attempts: how often the queue sends an update that the runtime refuses.
            backoff: the delay before such an update is sent again; default ``Backoff()``. Others do not wait.
            batch: the greatest number of containers in one call. The runtime relays no event during the call.
            on_failed: called with each failure, on the queue's thread, or on the thread that closes the queue.
                It must not block for long: the queue sends nothing meanwhile.
        """
        for option, value in (("limit", limit), ("attempts", attempts), ("batch", batch)):
            if value < 1:
                raise ValueError(f"{option} must be at least 1, not {value!r}")
        self._limit = limit
        delay = (backoff or Backoff()).delay
        self._new_backlog: Callable[[], Backlog[PendingUpdate]] = functools.partial(
            Backlog, limit=limit, batch=batch, attempts=attempts, delay=delay
        )
        self._on_failed = on_failed
        self._stub: Stub | None = None
        self._thread: int | None = None
        # Whether the thread runs. The first request of a session starts it.
        self._has_thread = False
        # The context of the handler that runs on each thread. Each thread writes its own entry.
        self._handlers: dict[int, RequestContext] = {}
        #: Set when the thread has ended.
        self._over = Latch()
        # Guards all attributes below. No user code and no call runs under it.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._backlog: Backlog[PendingUpdate] = self._new_backlog()
        # Entries that were dropped with their containers. The thread reports them.
        self._removed: list[_Entry] = []
        # Set and replaced when an entry leaves the backlog, so that there may be room for another.
        self._room = Latch()
        # The unanswered requests of the runtime.
        self._unanswered: set[RequestContext] = set()
        # Whether a session is up, by the queue's knowledge; the numbers of synchronized and configured sessions.
        self._ready = False
        self._synchronized = 0
        self._configured = 0
        # The containers in the received parts of a Synchronize.
        self._listed: set[str] = set()
        self._closed = False
        self._calls = 0
        self._calling_since: float | None = None
        fork.in_child(self._after_fork_in_child)

    def _after_fork_in_child(self) -> None:
        # The parent has the session and sends the updates. Its thread may have forked, in on_failed.
        here = threading.get_ident()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._has_thread = self._thread == here
        self._thread = here if self._has_thread else None
        self._handlers = {thread: c for thread, c in self._handlers.items() if thread == here}
        self._over = Latch()
        self._backlog = self._new_backlog()
        self._removed = []
        self._room = Latch()
        self._unanswered = set()
        self._ready = False
        self._listed = set()
        self._calling_since = None

    def attach(self, stub: Stub) -> None:
        """Store the stub that sends the updates; the stub calls it. Idempotent. Starts no thread.

        Raises ValueError if another stub is attached, or if the queue is not one of the stub's interceptors.
        """
        # A loop, since an interrupt that strikes a generator as it ends gets lost.
        for interceptor in stub.interceptors:
            if interceptor is self:
                break
        else:
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

    def _start_thread(self) -> None:
        """Start the thread, unless it has been started. After a failure, the next request tries again."""
        with self._changed:
            stub = self._stub
            if stub is None or self._has_thread or self._closed:
                return
            self._has_thread = True
        try:
            spawn(f"{stub.name}-updates", self._run)
        except (RuntimeError, MemoryError) as error:
            logger.error("%s: no thread to send updates: %s", stub.name, error)
            self._thread_failed()

    def _thread_failed(self) -> None:
        with self._changed:
            self._has_thread = False
            if self._closed:
                self._over.set()  # close() may wait for the thread

    # For the application

    def put(
        self,
        item: api.Update | ContainerUpdate | ContainerEviction,
        *,
        timeout: float | None = 0.0,
    ) -> PendingUpdate:
        """Request an update or an eviction of a container. Copies the message. Returns a future of the outcome.

        While the queue is full, the call blocks for up to ``timeout`` seconds; None means no limit. In a handler
        it does not block, because the queue waits for the handler. An update that can be merged always has room.

        Raises:
            QueueFull: the queue had no room.
            QueueClosed: the queue was closed.
            ValueError: the message names no container.
            TypeError: the item is not an Update, ContainerUpdate or ContainerEviction.
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
        """Returns the entry of the message, None if the queue is full, and a latch that is set for new room."""
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
        """Drop the update of a removed container, unless it is in flight.

        Returns whether there was an update. The queue drops updates by itself if the plugin subscribes to
        RemoveContainer, and at each Synchronize.
        """
        with self._changed:
            gone = self._backlog.drop(container_id)
            self._gone_locked(gone)
            return bool(gone)

    def close(self, timeout: float | None = 5.0) -> bool:
        """Accept no more items, send the remaining ones, and end the thread. Idempotent.

        Blocks for up to ``timeout`` seconds; None means no limit. If no session is up, or in a handler, it does
        not block. The entries that remain then fail, and are logged. Returns whether none remained. The stub's
        ``close()`` calls it.
        """
        if self._stop_accepting() and not self.holds_up():
            self._over.wait(Deadline(timeout))
        left, removed = self._abandon()
        for failure in removed + left:
            logger.warning("%s", failure)
        return not left

    @signal_safe
    def _stop_accepting(self) -> bool:
        """Accept no more items. Returns whether there is a thread to wait for."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._make_room_locked()
            return self._has_thread

    @signal_safe
    def _abandon(self) -> tuple[list[UpdateFailed], list[UpdateFailed]]:
        """Settle all entries. Returns the failures of the remaining entries, and of those removed before."""
        with self._changed:
            left = self._backlog.clear()
            removed, self._removed = self._removed, []
            self._changed.notify_all()
        # In the order in which the entries were dropped.
        gone = [self._settle_failed(entry, "removed") for entry in removed]
        return [self._settle_failed(entry, "closed") for entry in left], gone

    def __enter__(self) -> UpdateQueue:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` has been called: further updates raise QueueClosed."""
        return self._closed

    @property
    def counters(self) -> UpdateCounters:
        """A snapshot of the outcomes of all ``put()`` calls so far."""
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
        """Whether the queue waits for the calling thread: it runs a handler, or a callback of the queue."""
        thread = threading.get_ident()
        context = self._handlers.get(thread)
        return thread == self._thread or (context is not None and context.is_active())

    # For the stub

    def serve(self, event: str, request: Any, context: RequestContext, proceed: Proceed) -> Any:
        synchronized = event == "Synchronize" and not request.more

        def answered() -> None:
            with self._changed:
                self._unanswered.discard(context)
                if synchronized:
                    self._ready = True
                    self._synchronized += 1
                # Requests do not wake the thread of a plugin that has nothing to send.
                if not self._unanswered and self._backlog:
                    self._changed.notify_all()

        if not self._has_thread:
            self._start_thread()
        with self._changed:
            self._unanswered.add(context)
            self._watch_locked(event, request)
        # Run at the answer and not at the handler's return: after a late answer the handler may never return.
        # Runs at the loss of a session, too; the next call then fails with the loss.
        if not context.add_callback(answered):
            answered()
        thread = threading.get_ident()
        self._handlers[thread] = context
        try:
            return proceed(request, context)
        finally:
            del self._handlers[thread]

    def _watch_locked(self, event: str, request: Any) -> None:
        """Drop the updates of containers that the request shows as removed."""
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
        """Pass dropped entries to the thread, which reports them."""
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
        """Wait for work, and do it. Returns False if the queue is closed, and no work is left."""
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
        """Returns the entries of the call that begins now; none if no call may begin."""
        assert self._lock.locked()
        batch = self._backlog.pick(time.monotonic()) if self._may_call_locked() else []
        if batch:
            self._calls += 1
            self._calling_since = time.monotonic()
        return batch

    def _pause_locked(self) -> float | None:
        """The seconds until an entry is due to be sent again; None if no entry is."""
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
        except BaseException as raised:
            # An interceptor may raise any exception. The thread continues.
            error = raised
        done: tuple[list[_Entry], list[_Entry]] = ([], [])
        with self._changed:
            self._calling_since = None
            if error is not None and _is_loss(error):
                if self._synchronized == session:
                    self._ready = False
                self._backlog.lost(batch)
            elif error is not None and len(batch) > 1:
                # containerd answers with an error if any container has failed, and does not name it.
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
        """Fail an entry, and log the failure."""
        logger.warning("%s", self._settle_failed(entry, reason, cause))

    def _settle_failed(
        self, entry: _Entry, reason: str, cause: BaseException | None = None
    ) -> UpdateFailed:
        """Complete the entry's future with the failure. Called once for an entry, without the lock."""
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
    """Whether the session ended before the runtime answered. The runtime may have applied some updates."""
    # An error in the runtime's answer has no cause.
    return isinstance(error, NotConnected) or (
        isinstance(error, CallFailed) and isinstance(error.__cause__, NRIError)
    )
