"""The work and the tasks of a :class:`~nri_sync.kit.Background`, in their order.

No thread, no lock and no clock in here: the pool guards the agenda by its own lock, and passes the time.
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
        """The call, with the context variables of now."""
        return cls(function, args, kwargs, contextvars.copy_context())


class Work:
    """A call that was submitted, and its future."""

    __slots__ = ("call", "future")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.future: SafeFuture[Any] = SafeFuture()

    @property
    def function(self) -> Callable[..., Any]:
        return self.call.function

    def cancel(self) -> None:
        """Give the work up, and let those that wait for its future know."""
        self.future.cancel()
        self.future.set_running_or_notify_cancel()


class TaskState:
    """A function that runs at most once at a time, with the newest arguments; every so often, if it has a period.

    The agenda writes the fields.
    """

    __slots__ = (
        "every", "function", "jitter", "newest", "queued", "running", "stopped", "turn", "wanted",
    )  # fmt: skip

    def __init__(
        self, function: Callable[..., Any], *, every: float | None = None, jitter: float = 0.0
    ) -> None:
        self.function = function
        self.every = every
        self.jitter = jitter
        #: The next call, or the last one of a task that has a period.
        self.newest: Call | None = None
        #: Whether the task has to run, or run once more.
        self.wanted = False
        self.queued = False
        self.running = False
        self.stopped = False
        #: The number of the turn that is due next; turns with lower numbers are void.
        self.turn = 0


Item = Union[Work, TaskState]


class Agenda:
    """Work and tasks: the items that are ready for a thread, due later, or running."""

    def __init__(self) -> None:
        self._ready: deque[Item] = deque()
        # When tasks run next: time, a number for the order, turn, task. May hold void turns.
        self._due: list[tuple[float, int, int, TaskState]] = []
        self._order = itertools.count()
        # By thread.
        self._running: dict[int, Item] = {}
        self._closed = False
        #: How much submitted work is ready.
        self.queued_work = 0

    @property
    def queued(self) -> int:
        """How many items are ready."""
        return len(self._ready)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def due_at(self) -> float | None:
        """When the next turn is due; None without one."""
        return self._due[0][0] if self._due else None

    @property
    def is_done(self) -> bool:
        """Whether nothing is ready, and nothing runs."""
        return not self._ready and not self._running

    # Adding

    def add(self, work: Work) -> None:
        self.queued_work += 1
        self._ready.append(work)

    def withdraw(self, work: Work) -> bool:
        """Take work back that has not begun; False if it has."""
        if work not in self._ready:
            return False
        self._ready.remove(work)
        self.queued_work -= 1
        return True

    def want(self, task: TaskState, call: Call) -> None:
        """Have a task run, or run once more. Does nothing for a stopped one."""
        if not task.stopped:
            task.newest = call
            task.wanted = True
            self._queue(task)

    def repeat(self, task: TaskState, call: Call, now: float) -> None:
        """Have a task run every so often."""
        task.newest = call
        self._schedule(task, now)

    def stop(self, task: TaskState) -> None:
        task.stopped = True
        task.wanted = False
        task.turn += 1

    def _queue(self, task: TaskState) -> None:
        """Make a wanted task ready, unless it is or runs."""
        if task.wanted and not task.queued and not task.running:
            task.queued = True
            task.turn += 1  # This run stands for the one that was due.
            self._ready.append(task)

    def _schedule(self, task: TaskState, now: float) -> None:
        if task.every is None or task.stopped or self._closed:
            return
        at = now + task.every * (1 - task.jitter * random.random())
        task.turn += 1
        heapq.heappush(self._due, (at, next(self._order), task.turn, task))

    # Running

    def begin(self, thread: int, now: float) -> tuple[Item, Call] | None:
        """The next item, which runs on that thread from now on, and the call to make; None if none is ready."""
        while self._due and self._due[0][0] <= now:
            _, _, turn, task = heapq.heappop(self._due)
            if task.turn == turn:
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
        if not task.wanted:  # It was stopped meanwhile.
            return None
        task.wanted = False
        task.running = True
        call = task.newest
        if task.every is None:
            task.newest = None  # Its arguments may be large.
        return call

    def finish(self, thread: int, now: float) -> bool:
        """The item of that thread has ended. Returns whether it was a task, which may be ready or due again."""
        item = self._running.pop(thread)
        if isinstance(item, Work):
            return False
        item.running = False
        if item.wanted:
            self._queue(item)
        else:
            self._schedule(item, now)
        return True

    # Closing

    def close(self) -> None:
        """No task becomes due any more."""
        self._closed = True
        self._due.clear()

    def abandon(self, here: int) -> tuple[list[Item], list[Item]]:
        """Give up all ready items. Returns them, and those that run on threads other than ``here``."""
        waiting = list(self._ready)
        self._ready.clear()
        self.queued_work = 0
        running = [item for thread, item in self._running.items() if thread != here]
        for item in (*waiting, *running):
            if isinstance(item, TaskState):
                item.queued = item.wanted = False
        return waiting, running


def name_of(function: Callable[..., Any]) -> str:
    """A function's name, for messages."""
    return getattr(function, "__qualname__", None) or repr(function)
