"""Stubs and servicers that grpcio's generator has made work unchanged."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from nri_sync.api import nri_pb2, nri_pb2_grpc
from nri_sync.ttrpc import Server, connect
from tests.ttrpc.rig import LONG, error_of

__all__: list[str] = []


class Plugin(nri_pb2_grpc.PluginServicer):
    def Configure(self, request: Any, context: Any) -> Any:
        return nri_pb2.ConfigureResponse(events=len(request.config))

    def CreateContainer(self, request: Any, context: Any) -> Any:
        reply = nri_pb2.CreateContainerResponse()
        reply.adjust.annotations[request.pod.name] = request.container.name
        return reply


@pytest.fixture
def stub() -> Iterator[Any]:
    server = Server()
    nri_pb2_grpc.add_PluginServicer_to_server(Plugin(), server)
    with tempfile.TemporaryDirectory(prefix="nri") as directory:
        server.add_insecure_port(f"unix://{directory}/s")
        server.start()
        with connect(f"unix://{directory}/s") as channel:
            yield nri_pb2_grpc.PluginStub(channel)
        assert server.stop(None).wait(LONG)


def test_calls(stub: Any) -> None:
    assert stub.Configure(nri_pb2.ConfigureRequest(config="abc")).events == 3
    request = nri_pb2.CreateContainerRequest()
    request.pod.name, request.container.name = "pod", "container"
    reply = stub.CreateContainer.future(request).result(LONG)
    assert dict(reply.adjust.annotations) == {"pod": "container"}


def test_methods_that_the_servicer_does_not_have(stub: Any) -> None:
    # Generated code sets UNIMPLEMENTED and raises NotImplementedError: it was said expressly.
    code, details = error_of(lambda: stub.Shutdown(nri_pb2.Empty()))
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert details == "Method not implemented!"
