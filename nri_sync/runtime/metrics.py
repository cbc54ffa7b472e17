"""The figures that a runtime reports about its plugins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nri_sync.api import ContainerAdjustment
from nri_sync.logger import get_logger

__all__ = ["Metrics", "SafeMetrics"]

logger = get_logger("nri_sync.runtime")


class Metrics:
    """Receives the figures of a :class:`Runtime`.

    This base class ignores them: override the methods that you need.

    ``plugin`` is a full name, ``NN-name``. ``event`` is the name of an RPC such as ``"CreateContainer"`` or
    ``"Synchronize"``. A runtime reports the calls that it makes; it makes none to a plugin that is not subscribed
    to the event. Several threads call the methods at once, while a request waits: a method must not block. An
    exception of a method is logged and has no other effect.
    """

    def plugin_ignored(self, plugin: str, event: str, fields: Sequence[str]) -> None:
        """Before ``plugin_latency``: the paths of the fields in the answer that the runtime's NRI release ignores.

        Only a runtime that acts as an older release calls this. ``event`` may also be ``"UpdateContainers"``.
        """

    def plugin_latency(self, plugin: str, event: str, seconds: float) -> None:
        """The time from the request to the answer of a plugin, or to its failure."""

    def plugin_invocation(self, plugin: str, event: str, error: Exception | None) -> None:
        """After ``plugin_latency``: the result of the call, before any failure policy.

        ``error`` is None on success.
        """

    def plugin_adjustments(
        self,
        plugin: str,
        event: str,
        adjustment: ContainerAdjustment | None,
        updates: int,
        evictions: int,
    ) -> None:
        """After ``plugin_invocation``: the changes that the answer requests, for RPCs with such answers."""

    def plugin_count(self, count: int) -> None:
        """The number of connected and synchronized plugins, after each change of it."""


class SafeMetrics:
    """Forwards the figures to the application's :class:`Metrics`, and logs the exceptions of its methods."""

    def __init__(self, metrics: Metrics | None) -> None:
        self._metrics = metrics

    def ignored(self, *arguments: Any) -> None:
        self._call("plugin_ignored", *arguments)

    def latency(self, *arguments: Any) -> None:
        self._call("plugin_latency", *arguments)

    def invocation(self, *arguments: Any) -> None:
        self._call("plugin_invocation", *arguments)

    def adjustments(self, *arguments: Any) -> None:
        self._call("plugin_adjustments", *arguments)

    def count(self, count: int) -> None:
        self._call("plugin_count", count)

    def _call(self, method: str, *arguments: Any) -> None:
        if self._metrics is None:
            return
        try:
            getattr(self._metrics, method)(*arguments)
        except Exception:
            logger.exception("the metrics' %s failed", method)
