"""The loggers of nri_sync. Text from a pod, a runtime or a plugin in a log record cannot forge lines of a log.

This has to work with every handler and formatter, so the logger changes the record before the first handler gets
it.

A peer can cause any number of records. Of each kind, :mod:`nri_sync.flood` leaves out those that come too fast,
and logs their number. Records of level DEBUG are all logged.

A handler or filter of the application may raise an exception. The exception would break the caller: a thread that
serves requests, or one that closes a connection. So it goes to ``threading.excepthook``, which prints it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import threading
from collections.abc import Mapping
from typing import Any

from nri_sync.flood import records
from nri_sync.text import Lines, printable, quoted, traceback_lines

__all__ = ["PrefixedLogger", "get_logger"]

# Skips the frame of PrefixedLogger.log(), which older Python releases count differently.
_CALLER = 2 if sys.version_info >= (3, 11) else 3

# The types that %-formatting shows unchanged.
_PLAIN = frozenset({bool, float, int, type(None), Lines})


class _Shown:
    """An argument of a record that is not a str. Its text is made printable when a handler formats the record."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __str__(self) -> str:
        return printable(self.value)

    def __repr__(self) -> str:
        return quoted(self.value, 1000)


class _Printable(logging.Filter):
    """Makes the arguments and the traceback of each record printable. Suppresses no record."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, Mapping):
            record.args = {name: _safe(value) for name, value in record.args.items()}
        elif record.args:
            record.args = tuple(map(_safe, record.args))
        if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
            # Formatters of the standard library use this text. Other formatters format ``exc_info`` themselves.
            record.exc_text = traceback_lines(record.exc_info)
        return True


_printable = _Printable()


def get_logger(name: str, *, bounded: bool = True) -> logging.Logger:
    """The logger of this name, with printable records. It raises no exception of its handlers. Idempotent.

    Its records are ``bounded`` in number, unless the module that logs them does that.
    """
    logger = logging.getLogger(name)
    logger.addFilter(_printable)
    if "handle" not in vars(logger):
        handle = functools.partial(_contained, logger, bounded)
        logger.handle = handle  # type: ignore[method-assign]
    return logger


def _contained(logger: logging.Logger, bounded: bool, record: logging.LogRecord) -> None:
    """Have a logger handle the record, unless there are too many. Report its exception in place of raising it."""
    try:
        is_debug = record.levelno <= logging.DEBUG
        if is_debug or not bounded or records.admit(logger, record.msg):
            type(logger).handle(logger, record)
    except BaseException as error:
        _report(error)


def _report(error: BaseException) -> None:
    thread = threading.current_thread()
    # A signal handler interrupts the main thread with KeyboardInterrupt or SystemExit. On other threads these come
    # from a handler or filter.
    if not isinstance(error, Exception) and thread is threading.main_thread():
        raise error
    with contextlib.suppress(Exception):
        threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), thread)))


class PrefixedLogger(logging.LoggerAdapter):  # type: ignore[type-arg]  # generic from 3.11 on
    """Puts ``prefix`` before each message, and makes the arguments printable, for any logger.

    It raises no exception of the logger's handlers. It bounds the number of its records, and not of other records
    of the logger.
    """

    def __init__(self, logger: logging.Logger, prefix: str) -> None:
        super().__init__(logger, {})
        self._prefix = prefix
        # A logger of nri_sync bounds the number itself.
        self._is_bounded = "handle" in vars(logger)

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        return f"{self._prefix}: {msg}", kwargs

    def log(self, level: int, msg: Any, *args: Any, **kwargs: Any) -> None:
        try:
            if not self.isEnabledFor(level):
                return
            if self._is_bounded or level <= logging.DEBUG:
                admitted = True
            else:
                admitted = records.admit(self.logger, f"{self._prefix}: {msg}")
            if not admitted:
                return
            kwargs.setdefault("stacklevel", _CALLER)
            super().log(level, msg, *map(_safe, args), **kwargs)
        except BaseException as error:
            _report(error)


def _safe(value: Any) -> Any:
    if type(value) is str:
        return printable(value)
    # %d can also format a number of another type, such as an enum.
    if type(value) in _PLAIN or isinstance(value, (_Shown, int, float)):
        return value
    return _Shown(value)
