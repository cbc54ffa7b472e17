"""The runtime side, to embed, simulate and test with."""

from __future__ import annotations

from nri_sync.runtime.peer import Peer

__all__ = ["Peer"]
