"""Threaded, synchronous NRI (Node Resource Interface) SDK for Python."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0.dev0"
