"""Speed and footprint, measured next to other implementations in the same run: ``python -m benchmarks``."""

from __future__ import annotations

__all__ = ()
