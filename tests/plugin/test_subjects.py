"""The subject of a request, in words."""

from __future__ import annotations

from typing import Any

import pytest

from nri_sync.api import nri_pb2
from nri_sync.plugin.subjects import describe

__all__: list[str] = []

POD = nri_pb2.PodSandbox(id="0123456789abcdef", name="web", namespace="default")
CONTAINER = nri_pb2.Container(id="fedcba9876543210", name="nginx")
BARE = nri_pb2.PodSandbox(id="0123456789abcdef")
BARE_CONTAINER = nri_pb2.Container(id="fedcba9876543210")


@pytest.mark.parametrize(
    ("rpc", "request_", "text"),
    [
        ("RunPodSandbox", nri_pb2.RunPodSandboxRequest(pod=POD), "RunPodSandbox of default/web"),
        (
            "CreateContainer",
            nri_pb2.CreateContainerRequest(pod=POD, container=CONTAINER),
            "CreateContainer of default/web:nginx",
        ),
        (
            "StateChange",
            nri_pb2.StateChangeEvent(event=nri_pb2.START_CONTAINER, pod=BARE, container=BARE_CONTAINER),
            "StartContainer of 0123456789ab:fedcba987654",
        ),
        ("StateChange", nri_pb2.StateChangeEvent.FromString(b"\x08\x63"), "StateChange"),
        ("RunPodSandbox", nri_pb2.RunPodSandboxRequest(), "RunPodSandbox"),
        ("Synchronize", nri_pb2.SynchronizeRequest(pods=[POD]), "Synchronize"),
        ("CreateContainer", None, "CreateContainer"),
    ],
)  # fmt: skip
def test_the_words(rpc: str, request_: Any, text: str) -> None:
    assert describe(rpc, request_) == text
