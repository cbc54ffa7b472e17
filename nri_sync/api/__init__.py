"""The NRI protocol's messages, and helpers on them."""

from __future__ import annotations

__all__: list[str] = []
