"""Recognizes objects of grpcio's classes without loading grpcio: where it is not loaded, no such object exists."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["grpc_classes"]


def grpc_classes(*names: str) -> tuple[Any, ...]:
    """The classes of grpcio with these names, for ``isinstance()``. Empty while grpcio is not loaded."""
    grpc = sys.modules.get("grpc")
    # Another thread may be loading it: then a class may not be there yet.
    found = (getattr(grpc, name, None) for name in names)
    return tuple(kind for kind in found if kind is not None)
