"""The runtime side as a test uses it: each answer is put down, and a plugin can be cut off."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Callable

from nri_sync.api import ContainerAdjustment
from nri_sync.errors import ConnectionLost
from nri_sync.runtime import Metrics, Peer, Runtime
from nri_sync.testing.result import Answer

__all__ = ["Embedded", "Recorder"]


# Where the answers go to what this thread tells plugins of. Not of a thread: the runtime may tell of an event on
# another one, in the context of the one that waits for it.
_answers: ContextVar[list[Answer] | None] = ContextVar("answers", default=None)


class Recorder(Metrics):
    """Puts down the answers to the events that a thread tells of, for that thread. Thread-safe."""

    def __init__(self, changed: Callable[[], object]) -> None:
        """``changed()`` is called when a plugin has come or gone."""
        # How long the answer took that comes next.
        self._here = threading.local()
        self._changed = changed

    @contextmanager
    def answers(self) -> Iterator[list[Answer]]:
        """What plugins answer to this thread until the end of the block."""
        answers: list[Answer] = []
        token = _answers.set(answers)
        try:
            yield answers
        finally:
            _answers.reset(token)

    def plugin_latency(self, plugin: str, event: str, seconds: float) -> None:
        self._here.seconds = seconds

    def plugin_invocation(self, plugin: str, event: str, error: Exception | None) -> None:
        answers = _answers.get()
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
        answers = _answers.get()
        if answers:
            answers[-1] = answers[-1]._replace(
                adjustment=adjustment, updates=updates, evictions=evictions
            )

    def plugin_count(self, count: int) -> None:
        self._changed()


class Embedded(Runtime):
    """A Runtime that can be told to cut off a plugin."""

    @property
    def connected(self) -> tuple[str, ...]:
        """The full names of the plugins that have come over the socket."""
        return tuple(peer.name for peer in self._peers())

    def _peers(self) -> list[Peer]:
        serving = self._serving
        members = () if serving is None else serving.fleet.members
        return [member for member in members if isinstance(member, Peer)]

    def disconnect(self, plugin: str) -> bool:
        """Close the connection of a plugin, by its full name; False if it is not connected."""
        found = [peer for peer in self._peers() if peer.name == plugin]
        for peer in found:
            peer.close(ConnectionLost(f"plugin {plugin} was cut off by the test"))
        return bool(found)
