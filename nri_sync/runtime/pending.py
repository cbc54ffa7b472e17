"""Connections that have not registered yet: so many of them, and no more."""

from __future__ import annotations

import threading
from collections import Counter

from nri_sync.logger import get_logger
from nri_sync.runtime.peer import Peer

__all__ = ["PendingConnections"]

logger = get_logger("nri_sync.runtime")


class PendingConnections:
    """Where connections wait for their registration. Thread-safe."""

    def __init__(self, room: int) -> None:
        """``room`` is for how many."""
        self._room = room
        # Guards what follows: those that wait, in the order in which they came.
        self._lock = threading.Lock()
        self._waiting: dict[Peer, None] = {}

    def add(self, peer: Peer) -> None:
        """Let somebody wait, and close somebody else if there are too many. Does not block.

        The oldest must go, of the process that has the most of them: somebody else's flood cannot drive out a
        plugin that is about to register.
        """
        with self._lock:
            self._waiting[peer] = None
            count = len(self._waiting)
            if count <= self._room:
                return
            [(pid, share)] = Counter(waiting.pid for waiting in self._waiting).most_common(1)
            victim = next(waiting for waiting in self._waiting if waiting.pid == pid)
            del self._waiting[victim]
        logger.warning(
            "%d connections have not registered, %d of process %s: closing its oldest",
            count,
            share,
            pid,
        )
        victim.close()

    def discard(self, peer: Peer) -> None:
        """It has registered, or is gone. Idempotent."""
        with self._lock:
            self._waiting.pop(peer, None)
