"""An HTTP service with many threads that has become a plugin, too."""

from __future__ import annotations

__all__ = ()
