"""A plugin that injects what annotations of pods ask for, in the namespaces that may ask."""

from __future__ import annotations

__all__ = ()
