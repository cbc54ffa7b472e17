"""The plugin side: the stub, and what it is made of.

:mod:`.stub` is the handle, :mod:`.lifecycle` and :mod:`.state` say what it may do when, :mod:`.connection` is one
session of it, :mod:`.servicer` serves the runtime's requests by the table in :mod:`nri_sync.api.handlers`.
"""

from __future__ import annotations

__all__ = ()
