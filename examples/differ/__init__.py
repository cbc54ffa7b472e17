"""The plugin differ."""

from __future__ import annotations

__all__ = ()
