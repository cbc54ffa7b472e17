"""The events of pods and containers: their content and their order."""

from __future__ import annotations

from typing import Any

import pytest

from nri_sync import api
from tests.e2e.conftest import Connect
from tests.e2e.cri import Cri
from tests.e2e.inside import Inside
from tests.e2e.node import Node
from tests.interop.plugins import Recorder

__all__: list[str] = []

feature = pytest.mark.feature


def names(calls: list[tuple[str, tuple[Any, ...]]]) -> list[str]:
    return [name for name, _ in calls]


def drain(plugin: Recorder, last: str) -> list[tuple[str, tuple[Any, ...]]]:
    """The calls, including the next one of that name."""
    calls = [plugin.next_call()]
    while calls[-1][0] != last:
        calls.append(plugin.next_call())
    return calls


@feature("Events of pods and containers, in order")
def test_a_life(connect: Connect, cri: Cri, node: Node) -> None:
    plugin = Recorder()
    connect(plugin)
    pod = cri.run_pod(annotations={"a": "b"})
    container = pod.run(args=["x"], env={"A": "1"})
    pid = Inside(container).pid
    container.update(cpu_shares=99)
    container.stop()
    container.remove()
    pod.remove()
    calls = drain(plugin, "remove_pod_sandbox")
    assert names(calls) == [
        "run_pod_sandbox",
        "create_container", "post_create_container", "start_container", "post_start_container",
        "update_container", "post_update_container",
        "stop_container", "remove_container",
        "stop_pod_sandbox", "remove_pod_sandbox",
    ]  # fmt: skip
    told = dict(calls)
    (sandbox,) = told["run_pod_sandbox"]
    assert (sandbox.id, sandbox.name, sandbox.namespace) == (pod.id, pod.name, "e2e")
    assert (sandbox.uid, sandbox.annotations["a"]) == (f"uid-{pod.name}", "b")
    _, created = told["create_container"]
    assert (created.id, created.pod_sandbox_id) == (container.id, pod.id)
    assert created.name == container.name
    assert list(created.args) == ["/probe", "x"]
    assert "A=1" in created.env
    # Older releases of CRI-O never send the pid.
    assert told["post_start_container"][1].pid == (0 if node.name == "cri-o" else pid)
    assert told["update_container"][2].cpu.shares.value == 99


@feature("UpdatePodSandbox")
def test_pod_update(connect: Connect, cri: Cri) -> None:
    plugin = Recorder()
    connect(plugin)
    pod = cri.run_pod()
    plugin.expect("run_pod_sandbox")
    cri.call("UpdatePodSandboxResources", pod_sandbox_id=pod.id, resources={"cpu_shares": 123})
    seen, _, resources = plugin.expect("update_pod_sandbox")
    assert (seen.id, resources.cpu.shares.value) == (pod.id, 123)
    assert plugin.expect("post_update_pod_sandbox")[0].id == pod.id


@feature("StopContainer when the container ends by itself")
def test_a_container_that_ends(connect: Connect, cri: Cri) -> None:
    container = cri.run_pod().create(args=["touch", "/tmp/x"])
    plugin = Recorder()
    connect(plugin)
    container.start()
    plugin.expect("start_container")
    # The process may have ended before the runtime reports its start.
    ends = {plugin.next_call()[0] for _ in range(2)}
    assert ends == {"post_start_container", "stop_container"}


@feature("Synchronize after a late start")
def test_late_start(connect: Connect, cri: Cri, node: Node) -> None:
    pods = [cri.run_pod() for _ in range(3)]
    running = [pod.run() for pod in pods]
    created = pods[0].create()
    gone = pods[1].run()
    gone.stop()
    gone.remove()
    seen: list[Any] = []
    plugin = Recorder(synchronize=lambda *told: seen.append(told))
    stub = connect(plugin)
    last = cri.run_pod()
    ((told_pods, told_containers),) = seen
    assert {pod.id for pod in told_pods} == {pod.id for pod in pods}
    assert {container.id for container in told_containers} == {
        container.id for container in [*running, created]
    }
    assert plugin.expect("run_pod_sandbox")[0].id == last.id
    states = {container.id: container.state for container in told_containers}
    assert {states[container.id] for container in running} == {api.ContainerState.CONTAINER_RUNNING}
    assert states[created.id] == api.ContainerState.CONTAINER_CREATED
    assert stub.runtime_name == node.name
    assert stub.runtime_version.partition("+")[0] == node.version.lstrip("v")
    assert stub.runtime_nri_version == node.nri
