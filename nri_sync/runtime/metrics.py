"""What a runtime can count and measure of its plugins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nri_sync.api import ContainerAdjustment
from nri_sync.logger import get_logger

__all__ = ["Metrics", "SafeMetrics"]

logger = get_logger("nri_sync.runtime")


class Metrics:
    """Receives the figures of a :class:`Runtime`; this one ignores them. Override what is wanted.

    ``plugin`` is a full name, ``NN-name``; ``event`` the name of an RPC such as ``"CreateContainer"``, or
    ``"Synchronize"``. Only calls that were made are counted, not those to plugins without interest in the event.
    Methods are called by several threads at once, while a request waits: they must not block. What they raise
    is logged, and changes nothing.
    """

    def plugin_ignored(self, plugin: str, event: str, fields: Sequence[str]) -> None:
        """Before ``plugin_latency``: what the answer sets and the runtime's NRI release does not know, as paths.

        Only of a runtime that acts as an older release. ``event`` may be ``"UpdateContainers"``, too.
        """

    def plugin_latency(self, plugin: str, event: str, seconds: float) -> None:
        """A plugin has answered, or failed to, after so long."""

    def plugin_invocation(self, plugin: str, event: str, error: Exception | None) -> None:
        """After ``plugin_latency``: how it went, before any failure policy."""

    def plugin_adjustments(
        self,
        plugin: str,
        event: str,
        adjustment: ContainerAdjustment | None,
        updates: int,
        evictions: int,
    ) -> None:
        """After ``plugin_invocation``: what the answer asks for, where it is one that can ask for something."""

    def plugin_count(self, count: int) -> None:
        """So many plugins are connected and synchronized, after one has come or gone."""


class SafeMetrics:
    """Hands on to metrics of the application's what its failures must not spoil."""

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
