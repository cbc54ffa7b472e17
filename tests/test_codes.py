"""The status codes are those of gRPC."""

from __future__ import annotations

import grpc

from nri_sync import StatusCode

__all__: list[str] = []


def test_names_and_numbers_are_those_of_grpc() -> None:
    assert {code.name: int(code) for code in StatusCode} == {
        code.name: code.value[0] for code in grpc.StatusCode
    }
