"""Fields that a plugin sets and that the runtime's NRI release does not know: the runtime ignores them in silence.

As in Go, an older runtime decodes such a message without an error. Here they are logged and counted.
"""

from __future__ import annotations

import logging
from typing import Any

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
        self._nri_version = "unknown"
        #: Whether the runtime's release does not know all fields: :meth:`check` is needed.
        self.is_needed = False

    def learn(self, nri_version: str) -> None:
        """The runtime is of this NRI release."""
        self._nri_version = nri_version
        self.is_needed = ignores_any(nri_version)

    def check(self, method: str, message: Message) -> None:
        """Look through a message for the runtime: an answer to ``method``, or its request."""
        if not self.is_needed:
            return
        for path in unknown_fields(message, self._nri_version):
            self._tally.add("ignored_fields")
            token = object()
            if self._told.setdefault(f"{method} {without_numbers(path)}", token) is token:
                self._logger.warning(
                    "the runtime speaks NRI %s and ignores a field of %s that came with NRI %s: %s",
                    self._nri_version,
                    method,
                    since_of(message, path),
                    path,
                )
