"""Work that outlives a request: :class:`Background`.

A handler has as long as the runtime's request timeout, two seconds as a rule. It hands longer work over, and
returns.
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
    # The handlers of a plugin that answer with nothing, before they are bound.
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

    Calling it returns at once. While it waits for its turn or runs, further calls replace each other: it runs
    once more, with the newest arguments. All methods may be called from any thread, and in a signal handler.

    In a class, it is a method: each instance has one of its own. To a type checker it is generic in the parameters
    of the function, ``Task[[int, str]]``; a handler is a function like any other.
    """

    if not TYPE_CHECKING:
        # Generic takes no list of parameters before Python 3.10.
        __class_getitem__ = classmethod(types.GenericAlias)

    def __init__(self, pool: Pool, state: TaskState) -> None:
        """For a Background, which makes them."""
        functools.update_wrapper(self, state.function)
        self._pool = pool
        self._state = state
        self._attribute: str | None = None

    def __call__(self, *args: _Args.args, **kwargs: _Args.kwargs) -> None:
        """Have the function called, as soon as there is a thread. Does nothing after :meth:`stop`.

        Raises QueueClosed when the Background was closed.
        """
        self._pool.want(self._state, Call.of(self._state.function, args, kwargs))

    def stop(self) -> None:
        """Have it run no more; does not wait for a run that has begun. Idempotent."""
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
        # From now on it is found there, before this one. setdefault() is atomic: two threads get the same.
        found: Task[Any] = instance.__dict__.setdefault(self._attribute, own)
        return found

    def __repr__(self) -> str:
        return f"<Task {_name(self._state.function)}>"


class Background(Interceptor):
    """Runs functions on threads of its own. All methods may be called from any thread, in handlers too, and in a
    signal handler: see :ref:`kit-signals`.

    Threads are started as they are needed, up to a limit, and end with :meth:`close`. They are daemons: a
    process that forgets it still exits. Functions see the context variables of their caller, so that
    their log records name the request. Their exceptions are logged, counted, and passed to ``on_error``.

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
            name: the beginning of the threads' names.
            on_error: called with a function and its exception, on the thread of the function.
        """
        for option, value in (("threads", threads), ("limit", limit)):
            if value < 1:
                raise ValueError(f"{option} must be at least 1, not {value!r}")
        self._pool = Pool(threads=threads, limit=limit, name=name, on_error=on_error)

    def submit(
        self, function: Callable[..., _Result], /, *args: Any, **kwargs: Any
    ) -> Future[_Result]:
        """Call a function in the background. Returns at once, with a ``concurrent.futures.Future`` of its result.

        Work that has not begun can be cancelled. Do not wait for the future in a handler: the work has no
        more time then than the handler has.

        Raises:
            QueueFull: ``limit`` others wait for a thread.
            QueueClosed: it was closed.
            RuntimeError: the system has no thread for it.
        """
        work = Work(Call.of(function, args, kwargs))
        self._pool.submit(work)
        return work.future

    # To a type checker a handler stays what it is: pyright takes nothing but a function for an override of one.
    @overload
    def latest(self, function: Callable[[], object]) -> Task[...]: ...
    @overload
    def latest(self, function: _Handler) -> _Handler: ...
    @overload
    def latest(  # type: ignore[overload-cannot-match]  # mypy takes _Args for no parameters
        self, function: Callable[_Args, object]
    ) -> Task[_Args]: ...
    def latest(self, function: Callable[..., object]) -> Any:
        """Make a function one that runs behind, one at a time, with the newest arguments: see :class:`Task`.

        A decorator, too; of a handler it makes one that answers at once, with nothing::

            background = kit.Background()

            class Plugin:
                @background.latest
                def synchronize(self, pods, containers):
                    ...  # may take its time
        """
        import inspect  # only here: 1 MB that most plugins do not need

        if inspect.iscoroutinefunction(function) or not callable(function):
            raise TypeError(f"latest() takes an ordinary function, not {function!r}")
        return Task(self._pool, TaskState(function))

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
        state = TaskState(function, every=seconds, jitter=jitter)
        self._pool.repeat(state, Call.of(function, (), {}))
        return Task(self._pool, state)

    def close(self, timeout: float | None = 5.0) -> bool:
        """Refuse further work, and finish the rest. A task runs once more if a call has asked for it.

        Blocks for ``timeout`` seconds, None for as long as it takes; not at all on one of its own threads. What
        has not begun by then is cancelled; what still runs is left behind, on a daemon. Both are logged. Returns
        whether there was neither. Idempotent.
        """
        return self._pool.close(timeout)

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    @property
    def counters(self) -> BackgroundCounters:
        """A snapshot of its work."""
        return self._pool.counters()
