"""A plugin that gives containers exclusive CPUs, and the rest to all others."""

from __future__ import annotations

__all__ = ()
