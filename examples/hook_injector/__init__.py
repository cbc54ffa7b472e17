"""The plugin hook-injector."""

from __future__ import annotations

__all__ = ()
