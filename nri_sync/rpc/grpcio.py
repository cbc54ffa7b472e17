"""Recognizes objects of libraries' classes without loading these: until a library is loaded, it has no objects."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["grpc_classes", "loaded_classes"]


def loaded_classes(module: str, *names: str) -> tuple[Any, ...]:
    """The classes of a module with these names, for ``isinstance()``. Empty while the module is not loaded."""
    loaded = sys.modules.get(module)
    # Another thread may be loading it: then a class may not be there yet.
    found = (getattr(loaded, name, None) for name in names)
    return tuple(kind for kind in found if kind is not None)


def grpc_classes(*names: str) -> tuple[Any, ...]:
    """The classes of grpcio with these names. Empty while grpcio is not loaded."""
    return loaded_classes("grpc", *names)
