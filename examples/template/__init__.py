"""The plugin template."""

from __future__ import annotations

__all__ = ()
