"""The work and the tasks of a :class:`~nri_sync.kit.Background`, in their order.

The agenda has no thread, lock or clock. The pool guards it by its own lock, and passes the time.
"""

from __future__ import annotations

import contextvars
import heapq
import itertools
import random
from collections import deque
from collections.abc import Mapping
from typing import Any, Callable, NamedTuple, Union

from nri_sync.kit.futures import SafeFuture

__all__ = ["Agenda", "Call", "Item", "TaskState", "Work", "name_of"]


class Call(NamedTuple):
    """A function, its arguments, and the context variables of the caller."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    context: contextvars.Context

    @classmethod
    def of(
        cls, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Call:
        """Return a call with the current context variables."""
        return cls(function, args, kwargs, contextvars.copy_context())


class Work:
    """A submitted call and its future."""

    __slots__ = ("call", "future")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.future: SafeFuture[Any] = SafeFuture()

    @property
    def function(self) -> Callable[..., Any]:
        return self.call.function

    def cancel(self) -> None:
        """Cancel the work, and wake the threads that wait for its future."""
        self.future.cancel()
        self.future.set_running_or_notify_cancel()


class TaskState:
    """A function that runs at most once at a time, with the newest arguments; periodically, if it has a period.

    The agenda writes the fields.
    """

    __slots__ = (
        "agenda", "every", "function", "generation", "jitter", "newest", "queued", "running", "stopped",
        "wanted",
    )  # fmt: skip

    def __init__(
        self, function: Callable[..., Any], *, every: float | None = None, jitter: float = 0.0
    ) -> None:
        self.function = function
        self.every = every
        self.jitter = jitter
        #: The agenda that has the task. A forked child has another one.
        self.agenda: Agenda | None = None
        #: The next call; for a periodic task the last one.
        self.newest: Call | None = None
        #: Whether a run is requested, also while one is under way.
        self.wanted = False
        self.queued = False
        self.running = False
        self.stopped = False
        #: The number of the next due time. Due times with lower numbers are void.
        self.generation = 0


Item = Union[Work, TaskState]


class Agenda:
    """Work and tasks: items that are ready for a thread, due later, or running."""

    def __init__(self) -> None:
        self._ready: deque[Item] = deque()
        # The heap of due times: time, a number for the order, generation, task. May hold void ones.
        self._due: list[tuple[float, int, int, TaskState]] = []
        self._order = itertools.count()
        # The running items by thread.
        self._running: dict[int, Item] = {}
        self._closed = False
        #: The number of ready work items.
        self.queued_work = 0

    @property
    def queued(self) -> int:
        """The number of ready items."""
        return len(self._ready)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def due_at(self) -> float | None:
        """The next due time; None if there is none."""
        return self._due[0][0] if self._due else None

    def due(self) -> list[float]:
        """The valid due times, in order."""
        return sorted(at for at, _, generation, task in self._due if task.generation == generation)

    @property
    def is_done(self) -> bool:
        """Whether no item is ready or running."""
        return not self._ready and not self._running

    # Adding

    def add(self, work: Work) -> None:
        self.queued_work += 1
        self._ready.append(work)

    def withdraw(self, work: Work) -> bool:
        """Take back work that has not begun. Returns False if it has begun."""
        if work not in self._ready:
            return False
        self._ready.remove(work)
        self.queued_work -= 1
        return True

    def want(self, task: TaskState, call: Call) -> None:
        """Request a run of a task, or one more. Has no effect on a stopped task."""
        self._adopt(task)
        if not task.stopped:
            task.newest = call
            task.wanted = True
            self._queue(task)

    def repeat(self, task: TaskState, call: Call, now: float) -> None:
        """Run a task periodically."""
        self._adopt(task)
        task.newest = call
        self._schedule(task, now)

    def stop(self, task: TaskState) -> None:
        task.stopped = True
        task.wanted = False
        task.generation += 1

    def _adopt(self, task: TaskState) -> None:
        """Take a new task, or one of the parent process, which is neither ready nor running here."""
        if task.agenda is not self:
            task.agenda = self
            task.queued = task.running = task.wanted = False

    def _queue(self, task: TaskState) -> None:
        """Make a requested task ready, unless it is ready or running."""
        if task.wanted and not task.queued and not task.running:
            task.queued = True
            task.generation += 1  # This run replaces the one that was due.
            self._ready.append(task)

    def _schedule(self, task: TaskState, now: float) -> None:
        if task.every is None or task.stopped or self._closed:
            return
        at = now + task.every * (1 - task.jitter * random.random())
        task.generation += 1
        heapq.heappush(self._due, (at, next(self._order), task.generation, task))

    # Running

    def begin(self, thread: int, now: float) -> tuple[Item, Call] | None:
        """Return the next item, as running on that thread, and its call; None if no item is ready."""
        while self._due and self._due[0][0] <= now:
            _, _, generation, task = heapq.heappop(self._due)
            if task.generation == generation:
                task.wanted = True
                self._queue(task)
        while self._ready:
            item = self._ready.popleft()
            call = self._begin_work(item) if isinstance(item, Work) else self._begin_task(item)
            if call is not None:
                self._running[thread] = item
                return item, call
        return None

    def _begin_work(self, work: Work) -> Call:
        self.queued_work -= 1
        return work.call

    def _begin_task(self, task: TaskState) -> Call | None:
        task.queued = False
        if not task.wanted:  # The task was stopped meanwhile.
            return None
        task.wanted = False
        task.running = True
        call = task.newest
        if task.every is None:
            task.newest = None  # Frees the arguments, which may be large.
        return call

    def finish(self, thread: int, now: float) -> bool:
        """Remove that thread's item. Returns whether it was a task, which may be ready or due again."""
        # In a child that the item has forked, the item is the parent's.
        item = self._running.pop(thread, None)
        if item is None or isinstance(item, Work):
            return False
        item.running = False
        if item.wanted:
            self._queue(item)
        else:
            self._schedule(item, now)
        return True

    # Closing

    def close(self) -> None:
        """End all due times."""
        self._closed = True
        self._due.clear()

    def abandon(self, here: int) -> tuple[list[Item], list[Item]]:
        """Remove all ready items. Returns them, and the items that run on threads other than ``here``."""
        waiting = list(self._ready)
        self._ready.clear()
        self.queued_work = 0
        running = [item for thread, item in self._running.items() if thread != here]
        for item in (*waiting, *running):
            if isinstance(item, TaskState):
                item.queued = item.wanted = False
        return waiting, running


def name_of(function: Callable[..., Any]) -> str:
    """Return a function's name, for messages."""
    return getattr(function, "__qualname__", None) or repr(function)
