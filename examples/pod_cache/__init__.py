"""A plugin that knows the pods of the node, and answers questions about them over HTTP."""

from __future__ import annotations

__all__ = ()
