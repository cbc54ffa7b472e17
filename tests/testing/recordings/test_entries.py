"""The properties of an entry."""

from __future__ import annotations

from nri_sync import api
from nri_sync.testing.recordings.entries import REQUEST, RESPONSE, Entry, message_type

__all__: list[str] = []

POD = api.PodSandbox(id="p0", name="web", namespace="default")


def test_the_types_of_messages() -> None:
    assert message_type("CreateContainer", REQUEST) is api.nri_pb2.CreateContainerRequest
    assert message_type("CreateContainer", RESPONSE) is api.nri_pb2.CreateContainerResponse
    assert message_type("UpdateContainers", REQUEST) is api.nri_pb2.UpdateContainersRequest
    assert message_type("Dance", REQUEST) is None


def test_a_state_change_is_of_its_event() -> None:
    message = api.nri_pb2.StateChangeEvent(event=api.nri_pb2.RUN_POD_SANDBOX, pod=POD)
    assert Entry(REQUEST, 1, rpc="StateChange", message=message).event == "RunPodSandbox"
    assert Entry(REQUEST, 1, rpc="StateChange").event == "StateChange"


def test_the_subject() -> None:
    container = api.Container(id="c0", name="nginx")
    both = api.nri_pb2.CreateContainerRequest(pod=POD, container=container)
    assert Entry(REQUEST, 1, message=both).subject == "default/web:nginx"
    container.name = ""  # as with CRI-O
    both = api.nri_pb2.CreateContainerRequest(pod=POD, container=container)
    assert Entry(REQUEST, 1, message=both).subject == "default/web:c0"
    assert Entry(REQUEST, 1, message=api.nri_pb2.ConfigureRequest()).subject == ""
    assert Entry(REQUEST, 1).subject == ""
