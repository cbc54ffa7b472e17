"""Speed and footprint, measured beside a peer in the same run: ``make bench``, or ``python -m benchmarks``."""

from __future__ import annotations

__all__ = ()
