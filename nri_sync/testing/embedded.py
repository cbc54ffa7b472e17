"""The runtime side as a test uses it: each answer is put down, and a plugin can be cut off."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Callable

from nri_sync.api import ContainerAdjustment
from nri_sync.errors import ConnectionLost
from nri_sync.runtime import Metrics, Peer, Runtime
from nri_sync.runtime.registry import Plugin
from nri_sync.testing.result import Answer
from nri_sync.threads import signal_safe

__all__ = ["Embedded", "Recorder"]


# The list that gets the answers to the events of this context. A context, and not a thread: the runtime may send
# an event on another thread, in the context of the thread that waits for it.
_answers: ContextVar[list[Answer] | None] = ContextVar("answers", default=None)


class Recorder(Metrics):
    """Records the answers to the events of a thread, for that thread. Thread-safe."""

    def __init__(self, changed: Callable[[], object]) -> None:
        """``changed()`` is called when a plugin has come or gone."""
        # How long the answer took that comes next.
        self._here = threading.local()
        self._changed = changed

    @contextmanager
    def answers(self) -> Iterator[list[Answer]]:
        """The answers to the events of this thread, until the end of the block."""
        answers: list[Answer] = []
        token = _answers.set(answers)
        try:
            yield answers
        finally:
            _answers.reset(token)

    def plugin_ignored(self, plugin: str, event: str, fields: Sequence[str]) -> None:
        self._here.ignored = event, tuple(fields)

    def plugin_latency(self, plugin: str, event: str, seconds: float) -> None:
        self._here.seconds = seconds

    def plugin_invocation(self, plugin: str, event: str, error: Exception | None) -> None:
        answers = _answers.get()
        about, fields = self._here.__dict__.pop("ignored", ("", ()))
        if answers is not None:
            answers.append(Answer(plugin, event, self._here.seconds, error))
            if about == event:
                answers[-1] = answers[-1]._replace(ignored=fields)

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
    """A Runtime that can cut off a plugin, and knows at once which plugins have hung up."""

    @property
    def plugins(self) -> tuple[str, ...]:
        """As for :class:`Runtime`, without plugins that have hung up, which is a moment earlier."""
        return tuple(
            member.name for member in self._members() if not getattr(member, "hung_up", False)
        )

    @property
    def connected(self) -> tuple[str, ...]:
        """The full names of the plugins that have come over the socket, and have not hung up."""
        return tuple(peer.name for peer in self._member_peers() if not peer.hung_up)

    def _members(self) -> tuple[Plugin, ...]:
        serving = self._serving
        return () if serving is None else serving.registry.members

    def _member_peers(self) -> list[Peer]:
        return [member for member in self._members() if isinstance(member, Peer)]

    def _peers(self) -> frozenset[Peer]:
        serving = self._serving
        return frozenset() if serving is None else serving.registry.peers

    def leaving(self) -> Callable[[], bool]:
        """Returns a function: whether the runtime still asks plugins that have hung up by now.

        It goes by connections, not by names: a plugin that comes back at once has another connection.
        """
        left = {peer for peer in self._peers() if peer.hung_up}
        return lambda: not left.isdisjoint(self._peers())

    @signal_safe
    def disconnect(self, plugin: str) -> bool:
        """Close the connection of a plugin, by its full name; False if it is not connected."""
        found = [peer for peer in self._member_peers() if peer.name == plugin and not peer.closed]
        for peer in found:
            peer.close(ConnectionLost(f"plugin {plugin} was cut off by the test"))
        return bool(found)
