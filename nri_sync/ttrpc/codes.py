"""The status codes of grpcio, by number."""

from __future__ import annotations

import grpc

__all__ = ["grpc_code"]

_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def grpc_code(number: int) -> grpc.StatusCode:
    """The code with that number; UNKNOWN for numbers that gRPC does not define."""
    return _BY_NUMBER.get(number, grpc.StatusCode.UNKNOWN)
