"""The runtime side, to embed, simulate and test with.

:class:`Runtime` is the handle. :mod:`.fleet` has its plugins, each a :class:`Peer` or :mod:`.inprocess`, from when
they come (by :mod:`.listener` or :mod:`.launcher`) until they go; :mod:`.relay` asks them, :mod:`.result` merges
what they say.
"""

from __future__ import annotations

from nri_sync.runtime.metrics import Metrics
from nri_sync.runtime.peer import Peer
from nri_sync.runtime.runtime import Runtime
from nri_sync.runtime.validation import DefaultValidator, DefaultValidatorConfig

__all__ = ["DefaultValidator", "DefaultValidatorConfig", "Metrics", "Peer", "Runtime"]
