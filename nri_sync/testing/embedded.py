"""The runtime side for tests: it records each answer, and can disconnect a plugin."""

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

__all__ = ["AnswerRecorder", "Embedded"]


# The list that collects the answers to the events of this context. It is a context variable and not a thread's,
# because the runtime may send an event on another thread, in the context of the thread that waits for it.
_answers: ContextVar[list[Answer] | None] = ContextVar("answers", default=None)


class AnswerRecorder(Metrics):
    """Records the answers to events, for the thread that sends the event. Thread-safe."""

    def __init__(self, changed: Callable[[], object]) -> None:
        """Calls ``changed()`` when a plugin has connected or disconnected."""
        # The duration of the next answer, and its ignored fields: the runtime reports both before the answer.
        self._here = threading.local()
        self._changed = changed

    @contextmanager
    def answers(self) -> Iterator[list[Answer]]:
        """Collect the answers to the events of this thread until the end of the block."""
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
    """A Runtime that can disconnect a plugin, and whose plugin lists leave out closed connections at once."""

    @property
    def plugins(self) -> tuple[str, ...]:
        """Like :attr:`Runtime.plugins`, but without plugins that have just closed their connection."""
        return tuple(
            member.name for member in self._members() if not getattr(member, "hung_up", False)
        )

    @property
    def connected(self) -> tuple[str, ...]:
        """The full names of the plugins that have connected to the socket and have not closed the connection."""
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
        """Returns a function: whether the runtime still sends events to a plugin that has disconnected by now.

        The function compares connections, not names, because a plugin that reconnects has another connection.
        """
        left = {peer for peer in self._peers() if peer.hung_up}
        return lambda: not left.isdisjoint(self._peers())

    @signal_safe
    def disconnect(self, plugin: str) -> bool:
        """Close the connection of a plugin, by its full name; False if it is not connected."""
        found = [peer for peer in self._member_peers() if peer.name == plugin and not peer.closed]
        for peer in found:
            peer.close(ConnectionLost(f"the test has disconnected plugin {plugin}"))
        return bool(found)
