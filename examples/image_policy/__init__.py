"""A plugin that decides which images may run, and fails open or closed."""

from __future__ import annotations

__all__ = ()
