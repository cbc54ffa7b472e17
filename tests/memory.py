"""The memory that an object holds."""

from __future__ import annotations

import gc
import types

__all__ = ["reachable"]

# The way to all that a program has loaded.
_SHARED = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)


def reachable(root: object) -> set[int]:
    """The identifiers of the objects that an object refers to, directly or not; without classes and functions."""
    found = {id(root)}
    pending = [root]
    while pending:
        for item in gc.get_referents(pending.pop()):
            if id(item) not in found and not isinstance(item, _SHARED):
                found.add(id(item))
                pending.append(item)
    return found
