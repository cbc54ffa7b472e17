"""The plugin ulimit-adjuster."""

from __future__ import annotations

__all__ = ()
