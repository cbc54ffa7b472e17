"""A plugin that gives containers a bundle of CA certificates."""

from __future__ import annotations

__all__ = ()
