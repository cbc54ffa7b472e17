"""The plugin side: the stub and its parts.

:mod:`.stub` is the handle, made of a :mod:`.spec`. A start, a stop and a loss are read in two files:
:mod:`.lifecycle` has the state, and decides under its lock; :mod:`.connection` acts on its decisions.
:mod:`.servicer` serves the runtime's requests: its table of methods is made once for the stub, from that of
:mod:`nri_sync.api.handlers`. :mod:`.late` answers for handlers that take too long.
"""

from __future__ import annotations

__all__ = ()
