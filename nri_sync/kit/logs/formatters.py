"""Log records as lines: text for people, JSON for collectors. A formatter never fails, for any record."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping

from nri_sync.kit.logs.context import LogContext, context_of
from nri_sync.text import indented, printable

__all__ = ["JSONFormatter", "TextFormatter"]

# The attributes of every record, and those that the formatters add. All others came with `extra`.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {
    "asctime",
    "message",
    "nri_context",
    "taskName",
}


class TextFormatter(logging.Formatter):
    """``TIME LEVEL [plugin event namespace/pod:container operation] logger: message``.

    Further lines of a record are indented, so that none looks like a new record. All characters that are not
    printable are escaped: control characters, bidirectional and invisible ones. The context is always one line.
    """

    def format(self, record: logging.LogRecord) -> str:
        context = context_of(record)
        about = "" if context is None else f"[{printable(context)}] "
        text = f"{record.levelname:<7} {about}{record.name}: {_message(record)}"
        for further in _traces(self, record):
            text += f"\n{further}"
        return f"{_time(record)} {indented(text)}"


class JSONFormatter(logging.Formatter):
    """One JSON object a line, in ASCII.

    The keys are ``time``, ``level``, ``logger`` and ``message``; the fields of :class:`nri_sync.kit.LogContext`
    that are not empty, with the further ones of :func:`nri_sync.kit.log_scope`; ``exception`` and ``stack``; and
    all ``extra`` attributes. If an attribute's name is already a key, a ``_`` follows it. A value that JSON cannot
    represent is given by its ``repr()``.
    """

    def format(self, record: logging.LogRecord) -> str:
        found: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        traces = _traces(self, record)
        if record.exc_info and traces:
            found["exception"] = traces.pop(0)
        if traces:
            found["stack"] = traces.pop()
        context = context_of(record) or LogContext()
        own = context.attributes()
        found.update(
            (name, value) for name, value in own.items() if value or name in context.fields
        )
        for name, value in record.__dict__.items():
            if name in _STANDARD or (name in LogContext._fields and not value):
                continue
            found[f"{name}_" if name in found and name not in own else name] = value
        members = (f"{_encoded(str(name))}: {_encoded(value)}" for name, value in found.items())
        return f"{{{', '.join(members)}}}"


def _time(record: logging.LogRecord) -> str:
    """Return the time in UTC, because nodes and containers of a cluster may have different time zones."""
    seconds, fraction = divmod(record.created, 1)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(fraction * 1000):03d}Z"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:
        arguments = _repr(record.args)
        return f"{_repr(record.msg)} with the arguments {arguments} cannot be formatted: {_repr(error)}"


def _traces(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    """Return the texts of the record's exception and of its stack, if it has them."""
    found = []
    if record.exc_info:
        # Not the record's exc_text: the loggers of nri_sync indent that for formatters that print it unchanged.
        try:
            found.append(formatter.formatException(record.exc_info))
        except Exception as error:
            found.append(f"an exception that cannot be formatted: {_repr(error)}")
    if record.stack_info:
        found.append(str(record.stack_info))
    return found


def _encoded(value: object) -> str:
    """Return the JSON of a value, in ASCII. Only texts need to stay readable."""
    try:
        return json.dumps(value, default=_default, allow_nan=False)
    except Exception:
        # For example NaN, a cycle, keys that are not texts, a number with thousands of digits.
        return json.dumps(_repr(value))


def _default(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return list(value)
    return _repr(value)


def _repr(value: object) -> str:
    try:
        return str(value) if isinstance(value, str) else repr(value)
    except Exception as error:
        return f"<{type(value).__name__} whose repr() raises {type(error).__name__}>"
