"""The plugin rdt."""

from __future__ import annotations

__all__ = ()
