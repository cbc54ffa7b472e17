"""Work that outlives a request: :class:`Background`.

A handler has to return within the runtime's request timeout, usually two seconds. It passes longer work to a
Background, and returns.
"""

from __future__ import annotations

import functools
import types
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Callable, Generic, TypeVar, Union, overload

from nri_sync import Interceptor, api
from nri_sync.kit.background.agenda import Call, TaskState, Work
from nri_sync.kit.background.agenda import name_of as _name
from nri_sync.kit.background.pool import BackgroundCounters, Pool

__all__ = ["Background", "Task"]

_Result = TypeVar("_Result")
if TYPE_CHECKING:
    from typing_extensions import Concatenate, ParamSpec

    _Self = TypeVar("_Self")
    _Args = ParamSpec("_Args")
    _Rest = ParamSpec("_Rest")
    # The types of a plugin's unbound handlers whose response is empty.
    _Handler = TypeVar(
        "_Handler",
        bound=Union[
            Callable[[Any, list[api.PodSandbox], list[api.Container]], object],
            Callable[[Any, api.PodSandbox], object],
            Callable[[Any, api.PodSandbox, api.Container], object],
            Callable[[Any, api.PodSandbox, api.Container, api.LinuxResources], object],
            Callable[[Any, api.PodSandbox, api.LinuxResources, api.LinuxResources], object],
        ],
    )
else:
    _Args = TypeVar("_Args")


class Task(Generic[_Args]):
    """A function that runs in the background, at most once at a time: see :meth:`Background.latest`.

    A call returns at once. While the task is ready or running, further calls replace each other: the task runs
    once more, with the newest arguments. All methods may be called from any thread, and in a signal handler.

    In a class, a task is a method: each instance has its own task. For a type checker, Task is generic in the
    parameters of the function, ``Task[[int, str]]``; a handler keeps its type as a function.
    """

    if not TYPE_CHECKING:
        # Before Python 3.10, Generic takes no list of parameters.
        __class_getitem__ = classmethod(types.GenericAlias)

    def __init__(self, pool: Pool, state: TaskState) -> None:
        """For Background only, which makes tasks."""
        functools.update_wrapper(self, state.function)
        self._pool = pool
        self._state = state
        self._attribute: str | None = None

    def __call__(self, *args: _Args.args, **kwargs: _Args.kwargs) -> None:
        """Request a run of the function, as soon as a thread is free. Has no effect after :meth:`stop`.

        Raises QueueClosed if the Background was closed.
        """
        self._pool.want(self._state, Call.of(self._state.function, args, kwargs))

    def stop(self) -> None:
        """End the runs of the task. Does not wait for a run that has begun. Idempotent."""
        self._pool.stop(self._state)

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
        state = self._state
        method = types.MethodType(state.function, instance)
        own: Task[Any] = Task(self._pool, TaskState(method, every=state.every, jitter=state.jitter))
        # The instance's attribute now precedes this one. setdefault() is atomic: all threads get the same task.
        found: Task[Any] = instance.__dict__.setdefault(self._attribute, own)
        return found

    def __repr__(self) -> str:
        return f"<Task {_name(self._state.function)}>"


class Background(Interceptor):
    """Runs functions on its own threads. All methods may be called from any thread, also in handlers, and in a
    signal handler: see :ref:`kit-signals`.

    A Background starts threads as it needs them, up to a limit; they end with :meth:`close`. They are daemons, so
    a process exits also without close(). Functions see the context variables of their caller, so their log
    records name the request. The Background logs and counts their exceptions, and passes them to ``on_error``.

    As a context manager it calls :meth:`close` at the end. If it is among the ``interceptors`` of a stub,
    :meth:`nri_sync.Stub.close` closes it.
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
            threads: the greatest number of threads.
            limit: the greatest number of submitted functions that may wait for a thread. Tasks do not count.
            name: the beginning of the threads' names.
            on_error: called with a function and its exception, on the function's thread.
        """
        for option, value in (("threads", threads), ("limit", limit)):
            if value < 1:
                raise ValueError(f"{option} must be at least 1, not {value!r}")
        self._pool = Pool(threads=threads, limit=limit, name=name, on_error=on_error)

    def submit(
        self, function: Callable[..., _Result], /, *args: Any, **kwargs: Any
    ) -> Future[_Result]:
        """Run a function in the background. Returns at once, with a ``concurrent.futures.Future`` of its result.

        Work that has not begun can be cancelled. Do not wait for the future in a handler: the function would have
        to end within the handler's time.

        Raises:
            QueueFull: ``limit`` functions wait for a thread.
            QueueClosed: the Background was closed.
            RuntimeError: the system has no thread.
        """
        work = Work(Call.of(function, args, kwargs))
        self._pool.submit(work)
        return work.future

    # For a type checker a handler keeps its type: pyright accepts only a function as an override of a handler.
    @overload
    def latest(self, function: Callable[[], object]) -> Task[...]: ...
    @overload
    def latest(self, function: _Handler) -> _Handler: ...
    @overload
    def latest(  # type: ignore[overload-cannot-match]  # mypy reads _Args as no parameters
        self, function: Callable[_Args, object]
    ) -> Task[_Args]: ...
    def latest(self, function: Callable[..., object]) -> Any:
        """Return a task that runs the function in the background, one run at a time: see :class:`Task`.

        Also a decorator. A decorated handler returns at once, with an empty response::

            background = kit.Background()

            class Plugin:
                @background.latest
                def synchronize(self, pods, containers):
                    ...  # may take its time
        """
        import inspect  # imported here: it takes 1 MB, and few plugins need it

        if inspect.iscoroutinefunction(function) or not callable(function):
            raise TypeError(f"latest() takes an ordinary function, not {function!r}")
        return Task(self._pool, TaskState(function))

    def every(
        self, seconds: float, function: Callable[[], object], *, jitter: float = 0.1
    ) -> Task[[]]:
        """Run a function every ``seconds`` seconds, counted from the end of a run to the next beginning.

        Each pause is shortened at random by up to the fraction ``jitter``. Call the returned task for a run at
        once; call its ``stop()`` to end the runs. After a run that raises, the next one comes in time.

        Raises:
            QueueClosed: the Background was closed.
            RuntimeError: the system has no thread.
        """
        if not seconds > 0 or not 0 <= jitter <= 1:
            raise ValueError(
                f"every({seconds!r}, jitter={jitter!r}) cannot be scheduled: "
                "seconds > 0 and 0 <= jitter <= 1 are needed"
            )
        state = TaskState(function, every=seconds, jitter=jitter)
        self._pool.repeat(state, Call.of(function, (), {}))
        return Task(self._pool, state)

    def close(self, timeout: float | None = 5.0) -> bool:
        """Refuse further work, and finish the rest. A task runs once more if a call has requested a run.

        Blocks for up to ``timeout`` seconds; None means no limit. Does not block on a thread of the Background.
        At the end it cancels the work that has not begun, and leaves running functions on their daemon threads.
        It logs both. Returns whether there were neither. Idempotent.
        """
        return self._pool.close(timeout)

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` has been called: further work raises QueueClosed."""
        return self._pool.closed

    @property
    def due(self) -> list[float]:
        """The times of the next periodic runs in order, one for each waiting task, by ``time.monotonic()``."""
        return self._pool.due()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    @property
    def counters(self) -> BackgroundCounters:
        """A snapshot of the numbers of runs, items and threads."""
        return self._pool.counters()
