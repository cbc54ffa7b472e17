"""Requests to plugins: serialized once, and split if they are too large."""

from __future__ import annotations

import pytest

from nri_sync.api import nri_pb2
from nri_sync.api.handlers import HANDLERS
from nri_sync.runtime.request import Part, Request, synchronize_requests
from nri_sync.wire.ttrpc import MESSAGE_MAX
from tests.runtime.rig import CONTAINER, POD

__all__: list[str] = []

CREATE = next(handler for handler in HANDLERS if handler.rpc == "CreateContainer")


def test_a_request_is_serialized_once() -> None:
    message = nri_pb2.CreateContainerRequest(pod=POD, container=CONTAINER)
    request = Request(CREATE, message)
    before = request.payload
    assert request.payload is before
    message.container.args.append("more")
    assert request.payload is before
    request.changed()
    assert nri_pb2.CreateContainerRequest.FromString(request.payload) == message


def containers_of(size: int, count: int = 9) -> list[nri_pb2.Container]:
    return [
        nri_pb2.Container(id=f"c{number}", annotations={"padding": "x" * size})
        for number in range(count)
    ]


def read(part: Part) -> nri_pb2.SynchronizeRequest:
    request = nri_pb2.SynchronizeRequest.FromString(part.payload)
    assert request.more == part.more
    return request


@pytest.mark.parametrize("pods", [0, 1, 5])
@pytest.mark.parametrize("size", [0, 1, 100, 127, 1000, 20_000, 465_900])
def test_a_small_state_is_one_request(size: int, pods: int) -> None:
    containers = containers_of(size)
    parts = list(synchronize_requests([POD] * pods, containers))
    expected = nri_pb2.SynchronizeRequest(pods=[POD] * pods, containers=containers)
    assert [part.more for part in parts] == [False]
    assert parts[0].payload == expected.SerializeToString()


@pytest.mark.parametrize("pods", [0, 1, 5, 200_000])
@pytest.mark.parametrize("size", [1000, 200_000, 600_000, MESSAGE_MAX - 1000])
def test_a_large_state_is_sent_in_small_parts(size: int, pods: int) -> None:
    containers = containers_of(size, 2 + (0 if pods == 200_000 else 2 * MESSAGE_MAX // size))
    parts = list(synchronize_requests([POD] * pods, containers))
    assert [part.more for part in parts] == [True] * (len(parts) - 1) + [False]
    requests = [read(part) for part in parts]
    assert [pod for request in requests for pod in request.pods] == [POD] * pods
    assert [c for request in requests for c in request.containers] == containers
    largest = max(message.ByteSize() for message in (POD, *containers))
    small = max(256 * 1024, largest + 10) + len(b"\x18\1")
    assert max(len(part.payload) for part in parts) <= min(small, MESSAGE_MAX - 200)
    for part, following in zip(parts, requests[1:]):
        first = following.pods[0] if following.pods else following.containers[0]
        assert len(part.payload) + first.ByteSize() + 10 > 256 * 1024


def test_nothing_is_one_request() -> None:
    assert list(synchronize_requests([], [])) == [Part(b"", False)]
