"""A plugin that gives containers the devices that pods request by annotation."""

from __future__ import annotations

__all__ = ()
