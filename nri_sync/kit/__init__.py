"""What nearly every plugin needs around its stub.

Each piece stands on the public API alone, and works without the others. Names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nri_sync.kit.chains import chain
    from nri_sync.kit.config import load
    from nri_sync.kit.program import main

__all__ = [
    "chain",
    "load",
    "main",
]

# Where the names above come from. None may be that of a module here: importing that would put it in its place.
_HOMES = {
    "chain": "nri_sync.kit.chains",
    "load": "nri_sync.kit.config",
    "main": "nri_sync.kit.program",
}

if not TYPE_CHECKING:

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
