"""The runtime side as a test uses it: each answer is put down, and a plugin can be cut off."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

from nri_sync.api import ContainerAdjustment
from nri_sync.errors import ConnectionLost
from nri_sync.runtime import Metrics, Peer, Runtime
from nri_sync.testing.result import Answer

__all__ = ["Embedded", "Recorder"]


class Recorder(Metrics):
    """Puts down the answers to the events that a thread tells of, for that thread. Thread-safe."""

    def __init__(self, changed: Callable[[], object]) -> None:
        """``changed()`` is called when a plugin has come or gone."""
        self._here = threading.local()
        self._changed = changed

    @contextmanager
    def answers(self) -> Iterator[list[Answer]]:
        """What plugins answer to this thread until the end of the block."""
        answers: list[Answer] = []
        self._here.answers = answers
        try:
            yield answers
        finally:
            del self._here.answers

    def plugin_latency(self, plugin: str, event: str, seconds: float) -> None:
        self._here.seconds = seconds

    def plugin_invocation(self, plugin: str, event: str, error: Exception | None) -> None:
        answers = self._answers()
        if answers is not None:
            answers.append(Answer(plugin, event, self._here.seconds, error))

    def plugin_adjustments(
        self,
        plugin: str,
        event: str,
        adjustment: ContainerAdjustment | None,
        updates: int,
        evictions: int,
    ) -> None:
        answers = self._answers()
        if answers:
            answers[-1] = answers[-1]._replace(
                adjustment=adjustment, updates=updates, evictions=evictions
            )

    def plugin_count(self, count: int) -> None:
        self._changed()

    def _answers(self) -> list[Answer] | None:
        # A plugin is synchronized by a thread that nobody listens to.
        return getattr(self._here, "answers", None)


class Embedded(Runtime):
    """A Runtime that can be told to cut off a plugin."""

    def disconnect(self, plugin: str) -> bool:
        """Close the connection of a plugin, by its full name; False if it is not connected."""
        members = self._present("disconnect").fleet.members
        found = [peer for peer in members if isinstance(peer, Peer) and peer.name == plugin]
        for peer in found:
            peer.close(ConnectionLost(f"plugin {plugin} was cut off by the test"))
        return bool(found)
