"""A plugin that stops itself from time to time, and reconnects when that is safe."""

from __future__ import annotations

__all__ = ()
