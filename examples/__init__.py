"""Small plugins to read, run and copy, and the demo."""

from __future__ import annotations

__all__ = ()
