"""Fields that a plugin sets and that the runtime's NRI release does not know: the runtime ignores them in silence.

As in Go, an older runtime decodes such a message without an error. Here they are logged and counted.
"""

from __future__ import annotations

import logging
from typing import Any, Callable

from google.protobuf.message import Message

from nri_sync.api.compat import ignores_any, since_of, unknown_fields, without_numbers
from nri_sync.plugin.counters import Tally

__all__ = ["IgnoredFields"]


class IgnoredFields:
    """Logs them, each once in a session, and counts them all. Thread-safe; off the main thread only."""

    def __init__(self, logger: logging.LoggerAdapter[Any], tally: Tally) -> None:
        self._logger = logger
        self._tally = tally
        # By path, without the numbers of entries: there are no more than the protocol has fields.
        self._told: dict[str, object] = {}

    def check(self, method: str, message: Message, nri_version: str) -> None:
        """Look through a message for a runtime of this release: an answer to ``method``, or its request."""
        for path in unknown_fields(message, nri_version):
            self._tally.add("ignored_fields")
            token = object()
            if self._told.setdefault(f"{method} {without_numbers(path)}", token) is token:
                self._logger.warning(
                    "the runtime speaks NRI %s and ignores a field of %s that came with NRI %s: %s",
                    nri_version,
                    method,
                    since_of(message, path),
                    path,
                )

    def around(
        self, method: str, behaviour: Callable[..., Any], nri_version: str
    ) -> Callable[..., Any]:
        """``behaviour``, which answers the requests of ``method``, with a check of its answers, if need be."""
        if not ignores_any(nri_version):
            return behaviour

        def checked(request: Any, context: Any) -> Any:
            reply = behaviour(request, context)
            self.check(method, reply, nri_version)
            return reply

        return checked
