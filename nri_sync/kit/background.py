"""Work that outlives a request: :class:`Background`.

A handler has as long as the runtime's request timeout, two seconds as a rule. What takes longer is handed
over, and the handler returns.
"""

from __future__ import annotations

import contextvars
import functools
import heapq
import inspect
import itertools
import random
import threading
import time
import types
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Callable, Generic, NamedTuple, TypeVar, overload

from nri_sync import Interceptor
from nri_sync.deadline import Deadline
from nri_sync.errors import QueueClosed, QueueFull
from nri_sync.logger import get_logger
from nri_sync.threads import Latch, spawn

__all__ = ["Background", "BackgroundCounters", "Task"]

logger = get_logger("nri_sync.kit.background")

_Result = TypeVar("_Result")
if TYPE_CHECKING:
    from typing_extensions import Concatenate, ParamSpec

    _Self = TypeVar("_Self")
    _Args = ParamSpec("_Args")
    _Rest = ParamSpec("_Rest")
else:
    _Args = TypeVar("_Args")


class BackgroundCounters(NamedTuple):
    """A snapshot of what a Background has done, and has to do."""

    #: Runs that are over, those that raised included.
    done: int
    #: Runs that raised.
    errors: int
    #: Submitted work that was cancelled before it began.
    cancelled: int
    #: What waits for a thread.
    queued: int
    running: int
    threads: int


class _Call(NamedTuple):
    """A function, what to call it with, and the context variables of whoever wants it called."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    context: contextvars.Context


class _Work:
    """Something that was submitted."""

    __slots__ = ("call", "future")

    def __init__(self, call: _Call) -> None:
        self.call = call
        self.future: Future[Any] = Future()

    def cancel(self) -> None:
        """Nobody will do it."""
        self.future.cancel()
        self.future.set_running_or_notify_cancel()


class Task(Generic[_Args]):
    """A function that runs in the background, at most once at a time: see :meth:`Background.latest`.

    Calling it returns at once. While it waits for its turn or runs, further calls replace each other: it runs
    once more, with the newest arguments. All methods may be called from any thread.

    In a class, it is a method: each instance has one of its own. To a type checker it is generic in the parameters
    of the function, ``Task[[int, str]]``, and a handler like any other.
    """

    if not TYPE_CHECKING:
        # Generic takes no list of parameters before Python 3.10.
        __class_getitem__ = classmethod(types.GenericAlias)

    def __init__(
        self,
        background: Background,
        function: Callable[_Args, object],
        *,
        every: float | None = None,
        jitter: float = 0.0,
    ) -> None:
        """For a Background, which makes them."""
        functools.update_wrapper(self, function)
        self._background = background
        self._function = function
        self._every = every
        self._jitter = jitter
        self._attribute: str | None = None
        # What follows is guarded by the lock of the background.
        # What to run next, or again.
        self._newest: _Call | None = None
        self._wanted = False
        self._queued = False
        self._running = False
        self._stopped = False
        # The turn that is due next; those before it are void.
        self._turn = 0

    def __call__(self, *args: _Args.args, **kwargs: _Args.kwargs) -> None:
        """Have the function called, as soon as there is a thread. Does nothing after :meth:`stop`.

        Raises QueueClosed when the Background was closed.
        """
        call = _Call(self._function, args, kwargs, contextvars.copy_context())
        self._background._kick(self, call)

    def stop(self) -> None:
        """Have it run no more; does not wait for a run that has begun. Idempotent."""
        self._background._stop(self)

    def __set_name__(self, owner: type, name: str) -> None:
        self._attribute = name

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Task[_Args]: ...
    @overload
    def __get__(
        self: Task[Concatenate[_Self, _Rest]], instance: _Self, owner: type | None = None
    ) -> Task[_Rest]: ...
    def __get__(self, instance: object, owner: type | None = None) -> Task[Any]:
        if instance is None or self._attribute is None:
            return self
        own: Task[Any] = Task(
            self._background,
            types.MethodType(self._function, instance),
            every=self._every,
            jitter=self._jitter,
        )
        # From now on it is found there, before this one. One step: two threads get the same.
        found: Task[Any] = instance.__dict__.setdefault(self._attribute, own)
        return found

    def __repr__(self) -> str:
        return f"<Task {_name(self._function)}>"


class Background(Interceptor):
    """Runs functions on threads of its own. All methods may be called from any thread, in handlers too.

    Threads are started as they are needed, up to a limit, and end with :meth:`close`. They are daemons: a
    process that forgets it still exits. Functions see the context variables of whoever asked for them, so that
    their log records say for which request. What they raise is logged, counted, and told to ``on_error``.

    As a context manager: :meth:`close` at the end. Passed to a stub among its ``interceptors``, it is closed by
    :meth:`nri_sync.Stub.close`.
    """

    def __init__(
        self,
        *,
        threads: int = 4,
        limit: int = 1000,
        name: str = "background",
        on_error: Callable[[Callable[..., Any], BaseException], object] | None = None,
    ) -> None:
        """
        Args:
            threads: how many there may be.
            limit: how much submitted work may wait for one of them. Tasks do not count.
            name: what the threads are called.
            on_error: called with a function and what it has raised, on the thread that it ran on.
        """
        for option, value in (("threads", threads), ("limit", limit)):
            if value < 1:
                raise ValueError(f"{option} must be at least 1, not {value!r}")
        self._most_threads = threads
        self._limit = limit
        self._name = name
        self._on_error = on_error
        # Written by the threads themselves.
        self._threads: set[int] = set()
        #: Set when it is closed, and nothing is left to do.
        self._over = Latch()
        # Guards all that follows, and the state of the tasks. No function runs under it.
        self._changed = threading.Condition(threading.Lock())
        self._ready: deque[_Work | Task[Any]] = deque()
        # When tasks run next: time, a number for the order, turn, task. May hold void turns.
        self._due: list[tuple[float, int, int, Task[Any]]] = []
        self._order = itertools.count()
        self._numbers = itertools.count(1)
        self._started = 0
        self._idle = 0
        # What each of the others is at.
        self._running: dict[int, _Work | Task[Any]] = {}
        self._queued_work = 0
        self._closed = False
        self._done = 0
        self._errors = 0
        self._cancelled = 0

    def submit(
        self, function: Callable[..., _Result], /, *args: Any, **kwargs: Any
    ) -> Future[_Result]:
        """Call a function behind. Returns at once, with a ``concurrent.futures.Future`` of what it returns.

        Work that has not begun can be cancelled. Do not wait for the future in a handler: the work has no
        more time then than the handler has.

        Raises:
            QueueFull: ``limit`` others wait for a thread.
            QueueClosed: it was closed.
            RuntimeError: the system has no thread for it.
        """
        work = _Work(_Call(function, args, kwargs, contextvars.copy_context()))
        with self._changed:
            self._check_locked(function)
            if self._queued_work >= self._limit:
                raise QueueFull(
                    f"{self._name}: {self._limit} functions wait for one of {self._most_threads} threads; "
                    f"no room for {_name(function)}"
                )
            self._queued_work += 1
            self._ready.append(work)
            self._changed.notify()
        try:
            self._man()
        except RuntimeError:
            if self._withdraw(work):
                raise
        return work.future

    def latest(self, function: Callable[_Args, object]) -> Task[_Args]:
        """Make a function one that runs behind, one at a time, with the newest arguments: see :class:`Task`.

        A decorator, too; of a handler it makes one that answers at once, with nothing::

            background = kit.Background()

            class Plugin:
                @background.latest
                def synchronize(self, pods, containers):
                    ...  # may take its time
        """
        if inspect.iscoroutinefunction(function) or not callable(function):
            raise TypeError(f"latest() takes an ordinary function, not {function!r}")
        return Task(self, function)

    def every(
        self, seconds: float, function: Callable[[], object], *, jitter: float = 0.1
    ) -> Task[[]]:
        """Call a function every so many seconds, from the end of one run to the beginning of the next.

        Each pause is shortened at random by up to the share ``jitter``. Call the task that is returned to have
        a run now, ``stop()`` it to end this. A run that raises is reported, and the next one comes in time.

        Raises:
            QueueClosed: it was closed.
            RuntimeError: the system has no thread for it.
        """
        if not seconds > 0 or not 0 <= jitter <= 1:
            raise ValueError(
                f"every({seconds!r}, jitter={jitter!r}) does not make sense: "
                "seconds > 0 and 0 <= jitter <= 1 are needed"
            )
        task = Task(self, function, every=seconds, jitter=jitter)
        with self._changed:
            self._check_locked(function)
            task._newest = _Call(function, (), {}, contextvars.copy_context())
            self._schedule_locked(task)
        try:
            self._man()
        except RuntimeError:
            task.stop()
            raise
        return task

    def close(self, timeout: float | None = 5.0) -> bool:
        """Take nothing more, and finish what there is. Tasks run if a call has asked for it, no more else.

        Blocks for ``timeout`` seconds, None for as long as it takes; not at all on one of its own threads. What
        has not begun by then is cancelled; what still runs is left behind, on a daemon. Both are logged. Returns
        whether there was neither. Idempotent.
        """
        with self._changed:
            self._closed = True
            self._due.clear()
            self._end_locked()
            self._changed.notify_all()
        if threading.get_ident() not in self._threads:
            self._over.wait(Deadline(timeout))
        here = threading.get_ident()
        with self._changed:
            waiting = list(self._ready)
            self._ready.clear()
            self._queued_work = 0
            running = [item for thread, item in self._running.items() if thread != here]
            for item in (*waiting, *running):
                if isinstance(item, Task):
                    item._queued = item._wanted = False
            self._cancelled += sum(isinstance(item, _Work) for item in waiting)
            self._end_locked()
            self._changed.notify_all()
        for item in waiting:
            if isinstance(item, _Work):
                item.cancel()
        for what, items in (("not begun any more", waiting), ("still running", running)):
            if items:
                names = ", ".join(sorted({_name(_function(item)) for item in items}))
                logger.warning("%s is closed; %s: %s", self._name, what, names)
        return not waiting and not running

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    @property
    def counters(self) -> BackgroundCounters:
        """What it has done, and has to do; a snapshot."""
        with self._changed:
            return BackgroundCounters(
                self._done,
                self._errors,
                self._cancelled,
                len(self._ready),
                len(self._running),
                self._started,
            )

    # For its tasks

    def _kick(self, task: Task[Any], call: _Call) -> None:
        """Have a task run once more."""
        with self._changed:
            self._check_locked(call.function)
            if task._stopped:
                return
            task._newest = call
            task._wanted = True
            self._queue_locked(task)
        self._man()

    def _stop(self, task: Task[Any]) -> None:
        with self._changed:
            task._stopped = True
            task._wanted = False
            task._turn += 1

    def _queue_locked(self, task: Task[Any]) -> None:
        """Requires the lock. Give a task that is wanted its place in the line, if it has none."""
        if task._wanted and not task._queued and not task._running:
            task._queued = True
            task._turn += 1  # this is its run, whatever was due
            self._ready.append(task)
            self._changed.notify()

    def _schedule_locked(self, task: Task[Any]) -> None:
        """Requires the lock. Have a task that runs every so often run again."""
        if task._every is None or task._stopped or self._closed:
            return
        at = time.monotonic() + task._every * (1 - task._jitter * random.random())
        task._turn += 1
        heapq.heappush(self._due, (at, next(self._order), task._turn, task))
        # All of them: whoever goes on to wait must know when to wake.
        self._changed.notify_all()

    # Threads

    def _check_locked(self, function: Callable[..., Any]) -> None:
        """Requires the lock."""
        if self._closed:
            raise QueueClosed(f"{self._name} is closed; {_name(function)} came too late")

    def _end_locked(self) -> None:
        """Requires the lock. Notice that all is done."""
        if self._closed and not self._ready and not self._running:
            self._over.set()

    def _man(self) -> None:
        """See to it that somebody takes what there is, or watches what is due.

        Raises RuntimeError when the system has no more threads, and there are none yet.
        """
        with self._changed:
            needed = len(self._ready) + bool(self._due)
            if self._idle >= needed or self._started >= self._most_threads:
                return
            # Counts as idle from now on: otherwise two would be started for the same.
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

    def _withdraw(self, work: _Work) -> bool:
        """Take back what nobody will do; False when somebody has taken it."""
        with self._changed:
            if work not in self._ready:
                return False
            self._ready.remove(work)
            self._queued_work -= 1
            return True

    def _run(self) -> None:
        here = threading.get_ident()
        self._threads.add(here)
        try:
            while True:
                with self._changed:
                    item, call = self._next_locked()
                    self._idle -= 1
                    if item is None or call is None:
                        self._started -= 1
                        return
                    self._running[here] = item
                self._man_if_possible()
                try:
                    call.context.copy().run(self._serve, item, call)
                except BaseException:  # of a callback of the future
                    logger.exception("%s: after %s", self._name, _name(call.function))
                with self._changed:
                    self._finish_locked(item)
                    del self._running[here]
                    self._idle += 1
                    self._end_locked()
                del item, call  # nothing of it stays while this waits
        finally:
            self._threads.discard(here)

    def _man_if_possible(self) -> None:
        """Have somebody else take what is left, now that this thread is busy; it can wait if there is nobody."""
        try:
            self._man()
        except (RuntimeError, MemoryError):
            logger.debug("%s: no more threads", self._name)

    def _next_locked(self) -> tuple[_Work | Task[Any] | None, _Call | None]:
        """Requires the lock. Block until there is something to do; None when it is closed and there is nothing."""
        while True:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                _, _, turn, task = heapq.heappop(self._due)
                if task._turn == turn:
                    task._wanted = True
                    self._queue_locked(task)
            while self._ready:
                item = self._ready.popleft()
                if isinstance(item, _Work):
                    self._queued_work -= 1
                    return item, item.call
                item._queued = False
                if item._wanted:  # and not stopped meanwhile
                    item._wanted = False
                    item._running = True
                    call = item._newest
                    if item._every is None:
                        item._newest = None  # its arguments may be large
                    return item, call
            if self._closed:
                self._end_locked()
                return None, None
            self._changed.wait(self._due[0][0] - now if self._due else None)

    def _finish_locked(self, item: _Work | Task[Any]) -> None:
        """Requires the lock."""
        if isinstance(item, Task):
            item._running = False
            if item._wanted:
                self._queue_locked(item)
            else:
                self._schedule_locked(item)

    def _serve(self, item: _Work | Task[Any], call: _Call) -> None:
        """Call a function, in its context, and pass on what comes of it."""
        future = item.future if isinstance(item, _Work) else None
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
        logger.error("%s: %s failed", self._name, _name(function), exc_info=error)
        if self._on_error is not None:
            try:
                self._on_error(function, error)
            except Exception:
                logger.exception("%s: on_error failed", self._name)


def _function(item: _Work | Task[Any]) -> Callable[..., Any]:
    return item._function if isinstance(item, Task) else item.call.function


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or repr(function)
