"""What stands around the handlers."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from nri_sync import api, kit
from nri_sync.kit.intercept import Behaviour, event_name, join_names, names_of, subject
from tests.kit._node import CONTAINER, LONG, POD, Node, PluginWith

__all__: list[str] = []


@pytest.fixture
def node(socket_dir: Path) -> Iterator[Node]:
    with Node(socket_dir) as made:
        made.start()
        yield made


class Recording(kit.RequestInterceptor):
    def __init__(self, word: str, calls: queue.SimpleQueue[Any]) -> None:
        self._word = word
        self._calls = calls

    def serve(self, event: str, request: Any, context: Any, behaviour: Behaviour) -> Any:
        self._calls.put((self._word, event, subject(request)))
        return behaviour(request, context)


def test_it_stands_around_each_request_the_first_outermost(node: Node) -> None:
    calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
    plugin = PluginWith(create_container=lambda pod, container: calls.put("handler"))
    stub = node.stub(plugin, interceptors=[Recording("a", calls), Recording("b", calls)])
    for _ in range(2):  # each session has handlers of its own
        node.connect(stub)
        for event in ("Configure", "Synchronize"):
            assert [calls.get(timeout=LONG) for _ in "ab"] == [("a", event, ""), ("b", event, "")]
        for _ in range(2):
            node.runtime.create_container(POD, CONTAINER)
            about = "CreateContainer", "default/web:nginx"
            assert [calls.get(timeout=LONG) for _ in "abc"] == [
                ("a", *about),
                ("b", *about),
                "handler",
            ]
        stub.stop()


def test_sessions_that_overlap_keep_their_own_handlers() -> None:
    interceptor = Recording("a", queue.SimpleQueue())
    details = _Details("/nri.pkg.api.v1alpha1.Plugin/RunPodSandbox")
    handlers = {word: _handler(lambda *_, word=word: word) for word in ("old", "new")}
    for word in ("old", "new", "old", "old", "new"):
        found = interceptor.intercept_service(lambda _, word=word: handlers[word], details)
        assert found.unary_unary(api.RunPodSandboxRequest(), None) == word


class _Details(grpc.HandlerCallDetails):
    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()


def _handler(behaviour: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(behaviour)


def test_an_unknown_method_and_a_stream_are_left_alone() -> None:
    interceptor = Recording("a", queue.SimpleQueue())
    details = _Details("/other/Method")
    assert interceptor.intercept_service(lambda _: None, details) is None
    stream: Any = grpc.unary_stream_rpc_method_handler(lambda request, context: iter(()))
    assert interceptor.intercept_service(lambda _: stream, details) is stream


def test_a_state_change_goes_by_the_name_of_its_event() -> None:
    calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
    found = Recording("a", calls).intercept_service(
        lambda _: _handler(lambda request, context: api.Empty()),
        _Details("/nri.pkg.api.v1alpha1.Plugin/StateChange"),
    )
    numbers: list[Any] = [api.Event.STOP_POD_SANDBOX, 99]
    for number in numbers:
        found.unary_unary(api.StateChangeEvent(event=number, pod=POD), None)
    assert calls.get(timeout=LONG) == ("a", "StopPodSandbox", "default/web")
    assert calls.get(timeout=LONG) == ("a", "StateChange", "default/web")


def test_event_names() -> None:
    assert event_name(api.Event.RUN_POD_SANDBOX) == "RunPodSandbox"
    assert event_name(api.Event.UNKNOWN) == event_name(-1) == event_name(10**6) == "StateChange"


@pytest.mark.parametrize(
    ("request_", "names"),
    [
        (api.ConfigureRequest(config="pod"), ("", "", "")),
        (api.SynchronizeRequest(pods=[POD]), ("", "", "")),
        (api.RunPodSandboxRequest(pod=POD), ("default", "web", "")),
        (api.StopContainerRequest(pod=POD, container=CONTAINER), ("default", "web", "nginx")),
        (
            api.CreateContainerRequest(
                pod=api.PodSandbox(id="0123456789abcdef"),
                container=api.Container(id="fedcba9876543210"),
            ),
            ("", "0123456789ab", "fedcba987654"),
        ),
        (
            api.CreateContainerRequest(
                container=api.Container(labels={"io.kubernetes.container.name": "nginx"})
            ),
            ("", "", "nginx"),
        ),
        (None, ("", "", "")),
    ],
)
def test_names(request_: Any, names: tuple[str, str, str]) -> None:
    assert names_of(request_) == names
    assert subject(request_) == join_names(*names)


def test_joined_names() -> None:
    assert join_names("", "", "") == ""
    assert join_names("ns", "pod", "") == "ns/pod"
    assert join_names("", "pod", "ctr") == "pod:ctr"
    assert join_names("ns", "pod", "ctr") == "ns/pod:ctr"
