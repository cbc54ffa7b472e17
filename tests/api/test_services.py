"""The table of services agrees with the code that grpcio's generator made of the same file."""

from __future__ import annotations

from typing import Any

import pytest

from nri_sync.api import nri_pb2_grpc, services
from nri_sync.api.services import Service

__all__: list[str] = []


class Calls:
    """A channel that records the methods of a generated stub."""

    def __init__(self) -> None:
        self.methods: dict[str, tuple[Any, Any]] = {}

    def unary_unary(
        self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any
    ) -> None:
        self.methods[path] = (request_serializer, response_deserializer)


@pytest.mark.parametrize(
    ("service", "stub"),
    [
        (services.PLUGIN, nri_pb2_grpc.PluginStub),
        (services.RUNTIME, nri_pb2_grpc.RuntimeStub),
    ],
)
def test_paths_and_messages_are_those_of_the_generated_stub(service: Service, stub: Any) -> None:
    calls = Calls()
    stub(calls)
    assert calls.methods == {
        method.path: (method.request.SerializeToString, method.response.FromString)
        for method in service.methods.values()
    }
    assert all(
        method.path == f"/{service.full_name}/{name}" for name, method in service.methods.items()
    )
