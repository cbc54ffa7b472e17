"""A plugin that gives containers CPUs of their own, and the others the rest."""

from __future__ import annotations

__all__ = ()
