"""The context of the current thread for its log records: plugin, event, pod, container and operation."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import itertools
import logging
import os
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any, Callable, NamedTuple, TypeVar

from nri_sync import api, fork, request_context
from nri_sync.kit.intercept import container_label, join_names, names_of, pod_label
from nri_sync.text import printable

__all__ = [
    "ContextFilter",
    "LogContext",
    "RequestScope",
    "context_of",
    "in_context",
    "log_context",
    "log_scope",
]

_Result = TypeVar("_Result")


# The standard attributes of a record, and the keys of the JSON format.
_RESERVED = frozenset(logging.makeLogRecord({}).__dict__) | {
    "asctime",
    "exception",
    "fields",
    "level",
    "logger",
    "message",
    "nri_context",
    "stack",
    "taskName",
    "time",
}

# Values that the text format shows without quotes.
_PLAIN = re.compile(r"[^\s\"'=\[\]]+")


class LogContext(NamedTuple):
    """The subject of a log record. Unknown parts are empty."""

    plugin: str = ""
    #: The name of the method: ``CreateContainer``, ...
    event: str = ""
    namespace: str = ""
    pod: str = ""
    container: str = ""
    #: An id that differs for each request, also after a restart of the process.
    operation: str = ""
    #: Further fields, from :func:`log_scope`.
    fields: Mapping[str, object] = types.MappingProxyType({})

    @property
    def subject(self) -> str:
        """``namespace/pod:container``"""
        return join_names(self.namespace, self.pod, self.container)

    def __str__(self) -> str:
        parts = (self.plugin, self.event, self.subject, self.operation)
        free = (f"{name}={_shown(value)}" for name, value in self.fields.items())
        return " ".join(filter(None, (*parts, *free)))

    def attributes(self) -> dict[str, object]:
        """Return all fields by name, including the further ones."""
        found = self._asdict()
        del found["fields"]
        return {**found, **self.fields}


def _shown(value: object) -> str:
    text = printable(value)
    if _PLAIN.fullmatch(text):
        return text
    escaped = text.replace('"', '\\"')
    return f'"{escaped}"'


class RequestScope:
    """The data of a request, from which a :class:`LogContext` is made when a record is logged.

    Call :meth:`enter` and :meth:`leave` on the thread that serves the request.
    """

    __slots__ = ("_context", "_event", "_message", "_number", "_plugin", "_serving", "_token")

    def __init__(self, plugin: str, event: str, message: Any) -> None:
        self._plugin = plugin
        self._event = event
        self._message = message
        self._number = _operations.next()
        self._context: LogContext | None = None
        self._serving: Any = None

    def enter(self) -> None:
        self._serving = _serving()
        self._token = _current.set(self)

    def leave(self) -> None:
        """End the scope after the handler has returned."""
        _current.reset(self._token)

    def leave_failed(self) -> None:
        """End the scope after the handler has raised. The stub then logs the error in the same context."""
        if self._serving is None:
            self.leave()
        else:
            # The scope stays until the thread's next request, so it must not keep the large message.
            self.context()
            self._message = None

    def context(self) -> LogContext:
        # Read in this order: leave_failed() drops the message after it has made the context.
        message, context = self._message, self._context
        if context is None:
            operation = _operations.text(self._number)
            context = LogContext(self._plugin, self._event, *names_of(message), operation)
            self._context = context
        return context

    def holds(self) -> bool:
        """Whether the current thread still serves the request, or works on behalf of it."""
        return self._serving is None or self._serving is _serving()


class _Scope(NamedTuple):
    """The context that :func:`log_scope` sets, inside a request or outside."""

    given: LogContext
    outer: _Scope | RequestScope | None

    def context(self) -> LogContext:
        return self.given

    def holds(self) -> bool:
        return self.outer is None or self.outer.holds()


_current: contextvars.ContextVar[_Scope | RequestScope | None] = contextvars.ContextVar(
    "nri_sync.kit.log", default=None
)


def log_context() -> LogContext | None:
    """Return the log context of the current thread; None if there is none."""
    scope = _current.get()
    return scope.context() if scope is not None and scope.holds() else None


def _serving() -> Any:
    """Return the context of the request that the current thread serves; None if it serves none."""
    try:
        return request_context()
    except RuntimeError:
        return None


@contextlib.contextmanager
def log_scope(
    pod: api.PodSandbox | None = None, container: api.Container | None = None, **fields: Any
) -> Iterator[LogContext]:
    """Give the records of this block a pod or container as their subject, and ``fields``.

    A field of :class:`LogContext` (``event="reconcile"``) replaces the value in the context. A field of any other
    name and value (``zone="a"``) follows the context in text, and is a key in JSON. An inner scope adds to the
    outer one. Outside of requests, a scope begins a new operation.

    Raises TypeError for a name that records or formats use themselves, such as ``message``.
    """
    scope = _current.get()
    if scope is not None and not scope.holds():
        scope = None
    context = LogContext(operation=_operations.text()) if scope is None else scope.context()
    if pod is not None:
        context = context._replace(namespace=pod.namespace, pod=pod_label(pod), container="")
    if container is not None:
        context = context._replace(container=container_label(container))
    reserved = fields.keys() & _RESERVED
    if reserved:
        raise TypeError(f"{', '.join(sorted(reserved))}: log records use these names themselves")
    own = {name: str(fields.pop(name)) for name in LogContext._fields if name in fields}
    context = context._replace(**own, fields={**context.fields, **fields})
    token = _current.set(_Scope(context, scope))
    try:
        yield context
    finally:
        _current.reset(token)


def in_context(function: Callable[..., _Result]) -> Callable[..., _Result]:
    """Return ``function`` for calls on another thread with the context of this one. It may be called repeatedly.

    Threads do not inherit context variables, except in some builds of Python 3.14 and newer. Without this
    function, the records of a thread that a handler starts have no context::

        threading.Thread(target=kit.in_context(work)).start()
        executor.submit(kit.in_context(work), argument)
    """
    context = contextvars.copy_context()

    @functools.wraps(function, updated=())
    def call(*args: Any, **kwargs: Any) -> _Result:
        # A copy, because only one thread at a time may use a context.
        return context.copy().run(function, *args, **kwargs)

    return call


class ContextFilter(logging.Filter):
    """Adds the context to each record, as attributes: ``plugin``, ``event``, ``namespace``, ``pod``,
    ``container`` and ``operation``, all of them texts, the further fields, and ``nri_context``. Drops no record.

    Add it to the handlers, because a handler receives the records of all loggers. With a QueueHandler, add it to
    the QueueHandler itself, because the filter must run on the thread that logs. Attributes that the caller passed
    as ``extra`` keep their values.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        attributes = record.__dict__
        if "nri_context" not in attributes:
            context = log_context()
            attributes["nri_context"] = context
            for name, value in (context or _NOTHING).attributes().items():
                attributes.setdefault(name, value)
        return True


_NOTHING = LogContext()


def context_of(record: logging.LogRecord) -> LogContext | None:
    """Return the context of a record: the one that the filter has added, or else that of the current thread."""
    try:
        found = record.__dict__["nri_context"]
    except KeyError:
        return log_context()
    return found if isinstance(found, LogContext) else None


class _Operations:
    """Numbers the operations. The ids differ from those of other processes."""

    def __init__(self) -> None:
        self._process = os.urandom(3).hex()
        self.next = itertools.count(1).__next__

    def text(self, number: int | None = None) -> str:
        return f"{self._process}-{self.next() if number is None else number:x}"


_operations = _Operations()


def _after_fork_in_child() -> None:
    # Otherwise parent and child would continue with the same ids.
    global _operations
    _operations = _Operations()


fork.in_child(_after_fork_in_child)
