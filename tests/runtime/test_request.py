"""Requests on their way to plugins: serialized once, and split where they are too large."""

from __future__ import annotations

import pytest

from nri_sync.api import nri_pb2
from nri_sync.api.handlers import HANDLERS
from nri_sync.runtime.request import Request, synchronize_requests
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


@pytest.mark.parametrize("size", [1, 1000, 600_000, MESSAGE_MAX // 2, MESSAGE_MAX - 1000])
@pytest.mark.parametrize("pods", [0, 1, 5])
def test_the_state_in_as_few_parts_as_it_takes(size: int, pods: int) -> None:
    containers = [
        nri_pb2.Container(id=f"c{number}", annotations={"padding": "x" * size})
        for number in range(9)
    ]
    parts = list(synchronize_requests([POD] * pods, containers))
    assert [part.more for part in parts] == [True] * (len(parts) - 1) + [False]
    assert [pod for part in parts for pod in part.pods] == [POD] * pods
    assert [container for part in parts for container in part.containers] == containers
    assert max(part.ByteSize() for part in parts) < MESSAGE_MAX - 200
    for part, following in zip(parts, parts[1:]):
        first = following.pods[0] if following.pods else following.containers[0]
        assert part.ByteSize() + first.ByteSize() > MESSAGE_MAX - 300


def test_nothing_is_one_request() -> None:
    assert list(synchronize_requests([], [])) == [nri_pb2.SynchronizeRequest()]
