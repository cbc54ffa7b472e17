"""The plugin default-validator."""

from __future__ import annotations

__all__ = ()
