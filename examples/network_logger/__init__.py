"""The plugin network-logger."""

from __future__ import annotations

__all__ = ()
