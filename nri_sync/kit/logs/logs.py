"""Logging for plugins: every record names its request, as text or JSON, and requests can be dumped.

:func:`setup_logging` sets all of it up in one call. A configuration of your own can use its parts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, TextIO

from nri_sync import RequestContext
from nri_sync.kit.intercept import NamedInterceptor
from nri_sync.kit.logs import dumps
from nri_sync.kit.logs.context import ContextFilter, RequestScope
from nri_sync.kit.logs.dumps import DumpSelection, selected_events
from nri_sync.kit.logs.formatters import JSONFormatter, TextFormatter
from nri_sync.kit.logs.masking import SECRETS, Mask
from nri_sync.logger import get_logger
from nri_sync.plugin.interceptors import Proceed

__all__ = ["FORMATS", "RequestLogging", "setup_logging"]

#: The logger of the dumps, at DEBUG.
dump_logger = get_logger("nri_sync.kit.dump")

#: The formatter of each format, by the name that :func:`setup_logging` takes.
FORMATS: dict[str, type[logging.Formatter]] = {"text": TextFormatter, "json": JSONFormatter}

_LEVELS = ("critical", "error", "warning", "info", "debug")


class RequestLogging(NamedInterceptor):
    """An interceptor that gives log records the context of their request, and dumps requests and replies.

    Pass it to ``Stub(interceptors=[...])`` as the first one, so that the records of other interceptors have the
    context, too.
    """

    def __init__(
        self,
        *,
        plugin: str = "",
        dump: DumpSelection = (),
        dump_format: str = "text",
        dump_limit: int = dumps.LIMIT,
        mask: Iterable[str] = SECRETS,
    ) -> None:
        """
        Args:
            plugin: the plugin's name in the records; default is that of the stub.
            dump: the events whose request and reply are logged, at DEBUG, to ``nri_sync.kit.dump``: an EventMask,
                or names as ``EventMask.parse`` takes them, ``configure``, ``synchronize`` and ``all``.
            dump_format: ``"text"``, in the style of YAML, in the message; or ``"json"``, a value in the attribute
                ``dump`` of the record.
            dump_limit: the greatest number of characters of one request or reply.
            mask: names of variables, options, annotations and labels whose values dumps leave out, as patterns of
                a shell; default is a list of common ones, such as ``*password*`` and ``*token*``. ``()``: none.

        Raises ValueError for an unknown format or event.
        """
        if dump_format not in FORMATS:
            raise ValueError(
                f"dump_format must be one of {', '.join(FORMATS)}, not {dump_format!r}"
            )
        if dump_limit < 1:
            raise ValueError(f"dump_limit must be positive, not {dump_limit!r}")
        super().__init__(plugin)
        self._dumped = selected_events(dump)
        self._as_text = dump_format == "text"
        self._limit = dump_limit
        self._mask = Mask(mask)

    def serve(self, event: str, request: Any, context: RequestContext, proceed: Proceed) -> Any:
        scope = RequestScope(self.plugin, event, request)
        scope.enter()
        try:
            if event in self._dumped and dump_logger.isEnabledFor(logging.DEBUG):
                reply = self._serve_dumped(request, context, proceed)
            else:
                reply = proceed(request, context)
        except BaseException:
            scope.leave_failed()
            raise
        scope.leave()
        return reply

    def _serve_dumped(self, request: Any, context: Any, proceed: Proceed) -> Any:
        self._dump("request", request)
        try:
            reply = proceed(request, context)
        except BaseException as error:
            dump_logger.debug("no reply: %r", error)
            raise
        self._dump("reply", reply)
        return reply

    def _dump(self, what: str, message: Any) -> None:
        try:
            if self._as_text:
                dump_logger.debug("%s:\n%s", what, dumps.as_text(message, self._limit, self._mask))
            else:
                dump_logger.debug(
                    what, extra={"dump": dumps.as_value(message, self._limit, self._mask)}
                )
        except Exception:
            dump_logger.exception("the %s cannot be dumped", what)


def setup_logging(
    format: str = "text",
    level: str | int = "info",
    *,
    dump: DumpSelection = (),
    dump_limit: int = dumps.LIMIT,
    mask: Iterable[str] = SECRETS,
    plugin: str = "",
    stream: TextIO | None = None,
) -> RequestLogging:
    """Log all records of the process to standard error, with context. Returns the interceptor that adds it.

    ::

        requests = kit.setup_logging("json", "info", dump="createcontainer")
        stub = nri_sync.Stub(plugin, interceptors=[requests])

    Adds one handler to the root logger. It replaces the handler of an earlier call; other handlers stay.

    Args:
        format: ``"text"`` or ``"json"``.
        level: of the root logger: ``"debug"``, ``"info"``, ``"warning"``, ``"error"``, ``"critical"`` or a number.
        dump, dump_limit, mask, plugin: as for :class:`RequestLogging`. ``level`` does not affect dumps.
        stream: the stream to write to in place of standard error.

    Raises ValueError for an unknown format, level or event.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, not {format!r}")
    number = _level(level)
    requests = RequestLogging(
        plugin=plugin, dump=dump, dump_format=format, dump_limit=dump_limit, mask=mask
    )
    handler = _Handler(stream)
    handler.setFormatter(FORMATS[format]())
    handler.addFilter(ContextFilter())
    root = logging.getLogger()
    for other in list(root.handlers):
        if isinstance(other, _Handler):
            root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(number)
    dump_logger.setLevel(logging.DEBUG if selected_events(dump) else logging.NOTSET)
    return requests


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # generic from 3.11 on
    """The handler of :func:`setup_logging`."""


def _level(level: str | int) -> int:
    if isinstance(level, int):
        return level
    if level.lower() not in _LEVELS:
        raise ValueError(f"level must be one of {', '.join(_LEVELS)}, not {level!r}")
    return int(getattr(logging, level.upper()))
