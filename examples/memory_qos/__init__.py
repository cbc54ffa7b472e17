"""A plugin that sets memory settings of cgroup v2, by classes in annotations."""

from __future__ import annotations

__all__ = ()
