"""The plugin writable-cgroups."""

from __future__ import annotations

__all__ = ()
