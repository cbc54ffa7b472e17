"""A plugin that gives containers the devices that annotations of their pods name."""

from __future__ import annotations

__all__ = ()
