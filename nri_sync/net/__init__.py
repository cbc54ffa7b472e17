"""Unix sockets and the threads that serve them: see :mod:`.sockets` and :mod:`.link`."""

from __future__ import annotations

__all__ = ()
