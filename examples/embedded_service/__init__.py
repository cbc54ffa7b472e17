"""A threaded HTTP service that is also a plugin."""

from __future__ import annotations

__all__ = ()
