"""The threads of a :class:`~nri_sync.kit.Background`."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any, Callable, NamedTuple

from nri_sync import fork
from nri_sync.deadline import Deadline
from nri_sync.errors import QueueClosed, QueueFull
from nri_sync.kit.background.agenda import Agenda, Call, Item, TaskState, Work, name_of
from nri_sync.logger import get_logger
from nri_sync.threads import Latch, signal_safe, spawn

__all__ = ["BackgroundCounters", "Pool"]

logger = get_logger("nri_sync.kit.background")


class BackgroundCounters(NamedTuple):
    """A snapshot of the work of a Background."""

    #: Finished runs, including those that raised.
    done: int
    #: Runs that raised.
    errors: int
    #: Submitted work that was cancelled before it began.
    cancelled: int
    #: Work and tasks that are ready, and wait for a thread.
    queued: int
    running: int
    threads: int


class Pool:
    """Runs the items of an agenda. All methods may be called from any thread, also in a signal handler."""

    def __init__(
        self,
        *,
        threads: int,
        limit: int,
        name: str,
        on_error: Callable[[Callable[..., Any], BaseException], object] | None,
    ) -> None:
        self._most_threads = threads
        self._limit = limit
        self._name = name
        self._on_error = on_error
        # The idents of the pool's threads. Each thread writes its own.
        self._threads: set[int] = set()
        #: Set when the pool is closed, and no item is left.
        self._over = Latch()
        # Guards all attributes below. No function runs under it.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._agenda = Agenda()
        self._numbers = itertools.count(1)
        self._started = 0
        self._idle = 0
        self._closed = False
        self._done = 0
        self._errors = 0
        self._cancelled = 0
        fork.in_child(self._after_fork_in_child)

    def _after_fork_in_child(self) -> None:
        # The parent has the threads and runs the items. One of the threads may have forked, and goes on here.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._threads &= {threading.get_ident()}
        self._started = len(self._threads)
        self._idle = 0
        self._agenda = Agenda()
        if self._closed:
            self._agenda.close()
            self._over.set()

    @signal_safe
    def submit(self, work: Work) -> None:
        """Add work. Raises QueueFull, QueueClosed, RuntimeError: see ``Background.submit()``."""
        with self._changed:
            self._check_open_locked(work.function)
            if self._agenda.queued_work >= self._limit:
                raise QueueFull(
                    f"{self._name}: {self._limit} functions wait for one of {self._most_threads} threads; "
                    f"no room for {name_of(work.function)}"
                )
            self._agenda.add(work)
            self._changed.notify()
        try:
            self._start_thread()
        except RuntimeError:
            with self._changed:
                withdrawn = self._agenda.withdraw(work)
            if withdrawn:
                raise

    @signal_safe
    def want(self, task: TaskState, call: Call) -> None:
        """Request one more run of a task. Raises QueueClosed, RuntimeError."""
        with self._changed:
            self._check_open_locked(task.function)
            self._agenda.want(task, call)
            self._changed.notify()
        self._start_thread()

    @signal_safe
    def repeat(self, task: TaskState, call: Call) -> None:
        """Run a task periodically. Raises QueueClosed, RuntimeError."""
        with self._changed:
            self._check_open_locked(task.function)
            self._agenda.repeat(task, call, time.monotonic())
            # The thread that waits for the next due time must compute it anew.
            self._changed.notify_all()
        try:
            self._start_thread()
        except RuntimeError:
            self.stop(task)
            raise

    @signal_safe
    def stop(self, task: TaskState) -> None:
        """End a task's runs."""
        with self._changed:
            self._agenda.stop(task)

    @signal_safe
    def counters(self) -> BackgroundCounters:
        with self._changed:
            return BackgroundCounters(
                self._done,
                self._errors,
                self._cancelled,
                self._agenda.queued,
                self._agenda.running,
                self._started,
            )

    @property
    def closed(self) -> bool:
        return self._closed

    @signal_safe
    def due(self) -> list[float]:
        with self._changed:
            return self._agenda.due()

    def close(self, timeout: float | None) -> bool:
        """See ``Background.close()``."""
        here = threading.get_ident()
        self._stop_accepting()
        if here not in self._threads:
            self._over.wait(Deadline(timeout))
        waiting, running = self._abandon(here)
        for what, items in (("not started", waiting), ("still running", running)):
            if items:
                names = ", ".join(sorted({name_of(item.function) for item in items}))
                logger.warning("%s is closed; %s: %s", self._name, what, names)
        return not waiting and not running

    @signal_safe
    def _stop_accepting(self) -> None:
        """Accept no more items."""
        with self._changed:
            self._closed = True
            self._agenda.close()
            self._end_locked()
            self._changed.notify_all()

    @signal_safe
    def _abandon(self, here: int) -> tuple[list[Item], list[Item]]:
        """Cancel the items that have not begun. Returns them, and those that run on other threads."""
        with self._changed:
            waiting, running = self._agenda.abandon(here)
            work = [item for item in waiting if isinstance(item, Work)]
            self._cancelled += len(work)
            self._end_locked()
            self._changed.notify_all()
        for item in work:
            item.cancel()
        return waiting, running

    def _check_open_locked(self, function: Callable[..., Any]) -> None:
        assert self._lock.locked()
        if self._closed:
            raise QueueClosed(f"{self._name} is closed; {name_of(function)} came too late")

    def _end_locked(self) -> None:
        """Set _over if the pool is closed and no item is left."""
        assert self._lock.locked()
        if self._closed and self._agenda.is_done:
            self._over.set()

    # Threads

    def _start_thread(self) -> None:
        """Start a thread for an item that is ready or due, if all are busy.

        Raises RuntimeError if the system has no more threads, and the pool has none yet.
        """
        with self._changed:
            needed = self._agenda.queued + (self._agenda.due_at is not None)
            if self._idle >= needed or self._started >= self._most_threads:
                return
            # The new thread counts as idle at once. Otherwise two threads would start for one item.
            self._started += 1
            self._idle += 1
        try:
            spawn(f"{self._name}-{next(self._numbers)}", self._run)
        except BaseException as error:
            with self._changed:
                self._started -= 1
                self._idle -= 1
                alone = not self._started
            if alone or not isinstance(error, RuntimeError):
                raise

    def _start_thread_if_possible(self) -> None:
        """Start a thread for the next item, because this thread is now busy. After a failure the item waits."""
        try:
            self._start_thread()
        except (RuntimeError, MemoryError):
            logger.debug("%s: no more threads", self._name)

    def _run(self) -> None:
        here = threading.get_ident()
        self._threads.add(here)
        try:
            while True:
                with self._changed:
                    found = self._next_locked(here)
                    self._idle -= 1
                    if found is None:
                        self._started -= 1
                        return
                item, call = found
                self._start_thread_if_possible()
                try:
                    call.context.copy().run(self._serve, item, call)
                except BaseException:  # raised by a callback of the future
                    logger.exception("%s: after %s", self._name, name_of(call.function))
                with self._changed:
                    if self._agenda.finish(here, time.monotonic()):
                        # All threads, because each computes the next due time.
                        self._changed.notify_all()
                    self._idle += 1
                    self._end_locked()
                del found, item, call  # a waiting thread holds no reference
        finally:
            self._threads.discard(here)

    def _next_locked(self, here: int) -> tuple[Item, Call] | None:
        """Block until an item is ready. Returns None if the pool is closed and no item is left."""
        assert self._lock.locked()
        while True:
            now = time.monotonic()
            found = self._agenda.begin(here, now)
            if found is not None:
                if self._agenda.queued:
                    self._changed.notify()
                return found
            if self._closed:
                self._end_locked()
                return None
            due = self._agenda.due_at
            self._changed.wait(None if due is None else due - now)

    def _serve(self, item: Item, call: Call) -> None:
        """Call a function in its context, and complete its future."""
        future = item.future if isinstance(item, Work) else None
        if future is not None and not future.set_running_or_notify_cancel():
            with self._changed:
                self._cancelled += 1
            return
        try:
            result = call.function(*call.args, **call.kwargs)
        except BaseException as error:
            self._count(failed=True)
            self._report(call.function, error)
            if future is not None:
                future.set_exception(error)
        else:
            self._count(failed=False)
            if future is not None:
                future.set_result(result)

    def _count(self, *, failed: bool) -> None:
        with self._changed:
            self._done += 1
            self._errors += failed

    def _report(self, function: Callable[..., Any], error: BaseException) -> None:
        logger.error("%s: %s failed", self._name, name_of(function), exc_info=error)
        if self._on_error is not None:
            try:
                self._on_error(function, error)
            except Exception:
                logger.exception("%s: on_error failed", self._name)
