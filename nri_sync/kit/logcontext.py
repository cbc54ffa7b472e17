"""What the current thread is doing, for its log records: which plugin, event, pod, container and operation."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import itertools
import logging
import os
import secrets
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple, TypeVar

from nri_sync import api, request_context
from nri_sync.kit.intercept import container_label, join_names, names_of, pod_label

__all__ = [
    "ContextFilter",
    "LogContext",
    "context_of",
    "enter_request",
    "in_context",
    "log_context",
    "log_scope",
]

_Result = TypeVar("_Result")


class LogContext(NamedTuple):
    """What a record is about; empty where it is not about one."""

    plugin: str = ""
    #: The name of the method: ``CreateContainer``, ...
    event: str = ""
    namespace: str = ""
    pod: str = ""
    container: str = ""
    #: Another for each request, also after a restart of the process.
    operation: str = ""

    @property
    def subject(self) -> str:
        """``namespace/pod:container``"""
        return join_names(self.namespace, self.pod, self.container)

    def __str__(self) -> str:
        parts = (self.plugin, self.event, self.subject, self.operation)
        return " ".join(filter(None, parts))


class _Entry(NamedTuple):
    context: LogContext
    #: The request for as long as which it holds; ``None``: as long as it is set.
    request: Any


_current: contextvars.ContextVar[_Entry | None] = contextvars.ContextVar(
    "nri_sync.kit.log", default=None
)


def log_context() -> LogContext | None:
    """What the current thread is doing; ``None`` if that is not known."""
    entry = _current.get()
    if entry is None or (entry.request is not None and entry.request is not _request()):
        return None
    return entry.context


def _request() -> Any:
    try:
        return request_context()
    except RuntimeError:
        return None


@contextlib.contextmanager
def enter_request(plugin: str, event: str, request: Any) -> Iterator[None]:
    """Around the handling of a request. Holds until the stub is done with it.

    That is longer than this block: what the handler raises is logged after it, and belongs to the request.
    """
    namespace, pod, container = names_of(request)
    context = LogContext(plugin, event, namespace, pod, container, _new_operation())
    serving = _request()
    token = _current.set(_Entry(context, serving))
    try:
        yield
    finally:
        if serving is None:
            _current.reset(token)


@contextlib.contextmanager
def log_scope(
    pod: api.PodSandbox | None = None, container: api.Container | None = None, **fields: str
) -> Iterator[LogContext]:
    """For the records of this block: it is about this pod or container, or ``fields`` of :class:`LogContext`.

    What is not given stays as it is. Outside of requests it begins an operation of its own.

    Raises TypeError for a field that there is none of.
    """
    before = log_context()
    context = before or LogContext(operation=_new_operation())
    if pod is not None:
        context = context._replace(namespace=pod.namespace, pod=pod_label(pod), container="")
    if container is not None:
        context = context._replace(container=container_label(container))
    unknown = fields.keys() - set(LogContext._fields)
    if unknown:
        raise TypeError(f"{', '.join(sorted(unknown))}: there are {', '.join(LogContext._fields)}")
    context = context._replace(**fields)
    entry = _current.get()
    request = entry.request if entry is not None and before is not None else None
    token = _current.set(_Entry(context, request))
    try:
        yield context
    finally:
        _current.reset(token)


def in_context(function: Callable[..., _Result]) -> Callable[..., _Result]:
    """``function``, to be called in another thread with the context of this one, as often as you like.

    Threads do not inherit context variables, before Python 3.14 and by default: without it, records of a
    thread that a handler starts would not tell what they are about::

        threading.Thread(target=kit.in_context(work)).start()
        executor.submit(kit.in_context(work), argument)
    """
    context = contextvars.copy_context()

    @functools.wraps(function, updated=())
    def call(*args: Any, **kwargs: Any) -> _Result:
        # A context is for one thread at a time.
        return context.copy().run(function, *args, **kwargs)

    return call


class ContextFilter(logging.Filter):
    """Puts the context into each record that passes, as attributes: ``plugin``, ``event``, ``namespace``, ``pod``,
    ``container``, ``operation``, all of them text, and ``nri_context``. Lets everything through.

    To be added to the handlers, on which it sees the records of all loggers; of a QueueHandler to that itself,
    as it must run in the thread that logs. Attributes that were passed as ``extra`` are left alone.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        attributes = record.__dict__
        if "nri_context" not in attributes:
            context = log_context()
            attributes["nri_context"] = context
            for name, value in (context or _NOTHING)._asdict().items():
                attributes.setdefault(name, value)
        return True


_NOTHING = LogContext()


def context_of(record: logging.LogRecord) -> LogContext | None:
    """What a record is about: as the filter found, or else of the current thread."""
    try:
        found = record.__dict__["nri_context"]
    except KeyError:
        return log_context()
    return found if isinstance(found, LogContext) else None


class _Operations:
    def __init__(self) -> None:
        self._process = secrets.token_hex(3)
        self._numbers = itertools.count(1)

    def new(self) -> str:
        return f"{self._process}-{next(self._numbers):x}"


_operations = _Operations()


def _new_operation() -> str:
    return _operations.new()


def _after_fork_in_child() -> None:
    # Parent and child would otherwise go on with the same ids.
    global _operations
    _operations = _Operations()


os.register_at_fork(after_in_child=_after_fork_in_child)
