"""Messages of real runtimes, recorded for many manifests, and compared with those of a simulation."""

from __future__ import annotations

__all__: list[str] = []
