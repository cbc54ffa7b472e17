"""The codes of grpcio, by number."""

from __future__ import annotations

import grpc
import pytest

from nri_sync.codes import StatusCode
from nri_sync.ttrpc.codes import grpc_code

__all__: list[str] = []


@pytest.mark.parametrize("code", StatusCode)
def test_every_code(code: StatusCode) -> None:
    assert grpc_code(code) is grpc.StatusCode[code.name]


@pytest.mark.parametrize("number", [-1, 17, 2**31 - 1])
def test_numbers_without_a_code(number: int) -> None:
    assert grpc_code(number) is grpc.StatusCode.UNKNOWN
