"""A bounded set of unregistered connections."""

from __future__ import annotations

import threading
from collections import Counter

from nri_sync.logger import get_logger
from nri_sync.runtime.peer import Peer

__all__ = ["PendingConnections"]

logger = get_logger("nri_sync.runtime")


class PendingConnections:
    """The connections that have not registered. Thread-safe."""

    def __init__(self, maximum: int) -> None:
        """``maximum`` is the largest number of connections that may wait for their registration."""
        self._maximum = maximum
        # Guards _waiting, which keeps the order of arrival.
        self._lock = threading.Lock()
        self._waiting: dict[Peer, None] = {}

    def add(self, peer: Peer) -> None:
        """Add a connection; if there are too many, close another one. Does not block.

        The oldest connection of the process with the most connections is closed. So a flood of one process cannot
        displace the connection of a plugin that is about to register.
        """
        with self._lock:
            self._waiting[peer] = None
            count = len(self._waiting)
            if count <= self._maximum:
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
        """Remove a connection that has registered or ended. Idempotent."""
        with self._lock:
            self._waiting.pop(peer, None)
