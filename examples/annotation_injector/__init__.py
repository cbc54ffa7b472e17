"""A plugin that injects the variables and devices that pods request by annotation, in allowed namespaces."""

from __future__ import annotations

__all__ = ()
