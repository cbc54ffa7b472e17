"""One suite for all pairs: our stub and the Go stub, each on our runtime and on the Go runtime.

The Go stub on the Go runtime is the control: if a test fails there, too, the test is wrong.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nri_sync.api import nri_pb2
from tests.interop.plugins import CONTAINER, POD, RESOURCES, without_empty
from tests.interop.sides import PLUGINS, RUNTIMES, Plugin, RequestError, Side

__all__: list[str] = []

StartRuntime = Callable[..., Side]
StartPlugin = Callable[..., Plugin]

POD_EVENTS = [
    "RunPodSandbox", "UpdatePodSandbox", "PostUpdatePodSandbox", "StopPodSandbox", "RemovePodSandbox",
]  # fmt: skip
CONTAINER_EVENTS = [
    "CreateContainer", "PostCreateContainer", "StartContainer", "PostStartContainer", "UpdateContainer",
    "PostUpdateContainer", "StopContainer", "RemoveContainer",
]  # fmt: skip


def fields(op: str) -> dict[str, Any]:
    """The fields of the requests."""
    if op == "UpdatePodSandbox":
        return {"pod": POD, "overhead_linux_resources": RESOURCES, "linux_resources": RESOURCES}
    if op in POD_EVENTS:
        return {"pod": POD}
    found = {"pod": POD, "container": CONTAINER}
    return {**found, "linux_resources": RESOURCES} if op == "UpdateContainer" else found


@pytest.fixture(params=RUNTIMES)
def start_runtime(request: pytest.FixtureRequest, socket_path: Path) -> Iterator[StartRuntime]:
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(RUNTIMES[request.param](socket_path, **options))


@pytest.fixture
def runtime(start_runtime: StartRuntime) -> Side:
    return start_runtime()


@pytest.fixture(params=PLUGINS)
def start_plugin(request: pytest.FixtureRequest, socket_path: Path) -> Iterator[StartPlugin]:
    """Starts a plugin of the parametrized kind."""
    with contextlib.ExitStack() as stack:

        def start(name: str, **options: Any) -> Plugin:
            plugin = stack.enter_context(PLUGINS[request.param](socket_path, name, **options))
            plugin.call("start")
            return plugin

        yield start


def test_configured_then_synchronized(runtime: Side, start_plugin: StartPlugin) -> None:
    plugin = start_plugin("10-a")
    runtime.wait_connected("10-a")
    plugin.wait_event("configure", config="", runtime="containerd", version="v2.4.0")
    plugin.wait_event("synchronize", pods=2, containers=2, ids=["ctr0", "ctr1"])


def test_synchronized_in_parts(start_runtime: StartRuntime, start_plugin: StartPlugin) -> None:
    # With few pods, the Go runtime sends parts without pods, and never ends.
    runtime = start_runtime(pods=500, containers=1500, size=10_000)
    plugin = start_plugin("10-a")
    runtime.wait_connected("10-a")
    plugin.wait_event("synchronize", pods=500, containers=1500)


def test_every_event(runtime: Side, start_plugin: StartPlugin) -> None:
    plugin = start_plugin("10-a")
    runtime.wait_connected("10-a")
    for op in (*POD_EVENTS, *CONTAINER_EVENTS):
        runtime.request(op, **fields(op))
        event = plugin.wait_event("event")["data"]
        if op == "CreateContainer":  # a plugin without a subscription also gets the validation
            plugin.wait_event("event", name="ValidateContainerAdjustment")
        assert event["name"] == op
        expected = [without_empty(message) for message in fields(op).values()]
        got = [_without_empty(argument) for argument in event["args"]]
        assert got == expected


def _without_empty(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    stripped = {key: _without_empty(item) for key, item in value.items()}
    return {key: item for key, item in stripped.items() if item not in ({}, [])}


def test_only_events_that_were_asked_for(runtime: Side, start_plugin: StartPlugin) -> None:
    plugin = start_plugin("10-a", events="stoppodsandbox,startcontainer")
    runtime.wait_connected("10-a")
    for op in (*POD_EVENTS, *CONTAINER_EVENTS):
        runtime.request(op, **fields(op))
    plugin.wait_event("event", name="StopPodSandbox")
    plugin.wait_event("event", name="StartContainer")
    runtime.request("StopPodSandbox", pod=POD)
    plugin.wait_event("event", name="StopPodSandbox")


def test_answers_of_several(runtime: Side, start_plugin: StartPlugin) -> None:
    for name in ("20-b", "10-a"):
        start_plugin(name, env=1, updates=1 if name == "20-b" else 0)
        runtime.wait_connected(name)
    reply = runtime.request("CreateContainer", **fields("CreateContainer"))
    assert [env.key for env in reply.adjust.env] == ["a_0", "b_0"]
    assert [update.container_id for update in reply.update] == ["other0"]
    reply = runtime.request("StopContainer", **fields("StopContainer"))
    assert [update.container_id for update in reply.update] == ["other0"]
    reply = runtime.request("UpdateContainer", **fields("UpdateContainer"))
    assert reply.update[0].container_id == "other0"


def test_a_conflict(runtime: Side, start_plugin: StartPlugin) -> None:
    for name in ("10-a", "20-b"):
        start_plugin(name, updates=1)
        runtime.wait_connected(name)
    for op in ("CreateContainer", "UpdateContainer", "StopContainer"):
        with pytest.raises(RequestError) as error:
            runtime.request(op, **fields(op))
        text = 'plugins "20-b" and "10-a" both tried to set CPUShares '
        assert str(error.value) == text


def test_an_error(runtime: Side, start_plugin: StartPlugin) -> None:
    start_plugin("10-a", error="out of order")
    runtime.wait_connected("10-a")
    for op in (*POD_EVENTS, *CONTAINER_EVENTS):
        with pytest.raises(RequestError, match="out of order"):
            runtime.request(op, **fields(op))


def test_a_rejection(runtime: Side, start_plugin: StartPlugin) -> None:
    start_plugin("10-a", reject="not like that")
    runtime.wait_connected("10-a")
    with pytest.raises(RequestError) as error:
        runtime.request("CreateContainer", **fields("CreateContainer"))
    text = 'validator "10-a" rejected container adjustment, reason: not like that'
    assert str(error.value) == text


def test_unsolicited_updates(runtime: Side, start_plugin: StartPlugin) -> None:
    plugin = start_plugin("10-a")
    runtime.wait_connected("10-a")
    updates = [{"container_id": "ctr0"}, {"container_id": "refused"}]
    assert plugin.call("update", updates=updates) == ["refused"]
    assert runtime.unsolicited() == ["ctr0", "refused"]


def test_a_plugin_that_leaves_and_comes_back(runtime: Side, start_plugin: StartPlugin) -> None:
    plugin = start_plugin("10-a")
    for _ in range(3):
        runtime.wait_connected("10-a")
        plugin.wait_event("configure")
        plugin.wait_event("synchronize")
        runtime.request("RunPodSandbox", pod=POD)
        plugin.wait_event("event", name="RunPodSandbox")
        plugin.call("stop")
        runtime.request("RunPodSandbox", pod=POD)
        plugin.call("start")


def test_a_runtime_that_leaves_and_comes_back(runtime: Side, start_plugin: StartPlugin) -> None:
    plugin = start_plugin("10-a")
    for _ in range(2):
        runtime.wait_connected("10-a")
        runtime.request("RunPodSandbox", pod=POD)
        plugin.wait_event("event", name="RunPodSandbox")
        runtime.stop()
        plugin.wait_event("closed")
        runtime.start()
        plugin.call("start")
    runtime.wait_connected("10-a")


@pytest.mark.parametrize("size", [4050, 4096, 70_000, 3 << 20])
def test_large_requests(size: int, runtime: Side, start_plugin: StartPlugin) -> None:
    plugin = start_plugin("10-a")
    runtime.wait_connected("10-a")
    pod = nri_pb2.PodSandbox(id="large", annotations={"padding": "x" * size})
    runtime.request("RunPodSandbox", pod=pod)
    [argument] = plugin.wait_event("event", name="RunPodSandbox")["data"]["args"]
    assert len(argument["annotations"]["padding"]) == size


@pytest.mark.parametrize("kinds", [("our stub", "Go stub"), ("Go stub", "our stub")])
def test_both_kinds_together(kinds: tuple[str, str], runtime: Side, socket_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        for name, kind in zip(("10-a", "20-b"), kinds):
            plugin = stack.enter_context(PLUGINS[kind](socket_path, name, env=2))
            plugin.call("start")
            runtime.wait_connected(name)
        reply = runtime.request("CreateContainer", **fields("CreateContainer"))
    assert [env.key for env in reply.adjust.env] == ["a_0", "a_1", "b_0", "b_1"]
