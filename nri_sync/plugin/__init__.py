"""The plugin side: the stub, and what it is made of.

:mod:`.stub` is the handle, made of a :mod:`.spec`. A start, a stop and a loss are read in two files:
:mod:`.lifecycle` has the state, and decides under its lock; :mod:`.connection` does what follows. :mod:`.servicer`
serves the runtime's requests by the table in :mod:`nri_sync.api.handlers`, and :mod:`.late` answers for handlers
that take too long.
"""

from __future__ import annotations

__all__ = ()
