"""The plugin v010-adapter."""

from __future__ import annotations

__all__ = ()
