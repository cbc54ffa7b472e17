"""The runtime side, to embed, simulate and test with.

:class:`Runtime` is the handle. :mod:`.registry` holds the plugins of a runtime: a :class:`Peer` for each plugin
that connects (:mod:`.listener`) or is launched (:mod:`.launcher`), an :mod:`.inprocess` object for each plugin of
this process. :mod:`.relay` sends the requests to the plugins, and :mod:`.result` merges their answers.
"""

from __future__ import annotations

from nri_sync.runtime.metrics import Metrics
from nri_sync.runtime.peer import Peer
from nri_sync.runtime.runtime import Runtime
from nri_sync.runtime.validation import DefaultValidator, DefaultValidatorConfig

__all__ = ["DefaultValidator", "DefaultValidatorConfig", "Metrics", "Peer", "Runtime"]
