"""A plugin with slow work to do, for which an OCI hook waits."""

from __future__ import annotations

__all__ = ()
