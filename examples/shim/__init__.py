"""A containerd shim: runs a process in the root file system of a container, and answers containerd over ttRPC."""

from __future__ import annotations

__all__ = ()
