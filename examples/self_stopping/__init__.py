"""A plugin that stops itself now and then, and comes back when it is safe."""

from __future__ import annotations

__all__ = ()
