"""A plugin with slow work. An OCI hook waits for the result."""

from __future__ import annotations

__all__ = ()
