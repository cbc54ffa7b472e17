"""The plugin device-injector."""

from __future__ import annotations

__all__ = ()
