"""The plugin network-device-injector."""

from __future__ import annotations

__all__ = ()
