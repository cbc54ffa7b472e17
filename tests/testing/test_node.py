"""The pods and containers of an embedded runtime."""

from __future__ import annotations

import pytest

from nri_sync import api
from nri_sync.runtime.request import synchronize_requests
from nri_sync.testing import make_container, make_pod
from nri_sync.testing.node import Node, given_resources, set_resources, split

__all__: list[str] = []


@pytest.fixture
def node() -> Node:
    return Node()


def test_copies_go_in_and_out(node: Node) -> None:
    pod = make_pod("web")
    container = make_container(pod, "app")
    node.put(pod)
    node.put(container)
    pod.name = container.name = "changed"
    node.pods[0].name = node.containers[0].name = "changed"
    assert node.pod(pod).name == "web"
    assert node.container(container.id).name == "app"
    assert [item.name for item in node.containers_of(pod)] == ["app"]
    assert node.containers_of(make_pod()) == []


def test_unknown_pods_and_containers(node: Node) -> None:
    pod = make_pod(id="p")
    with pytest.raises(ValueError, match=r"no pod 'p' on this runtime: run_pod\(\) or add\(\) it"):
        node.pod(pod)
    with pytest.raises(ValueError, match="no container 'c' on this runtime: create_container"):
        node.container("c")
    with pytest.raises(ValueError, match="no pod 'p'"):
        node.new(make_container(pod))
    node.put(pod)
    node.remove(pod)
    assert node.pods == []


def test_an_id_is_taken_once(node: Node) -> None:
    pod = make_pod("web", id="p")
    node.new(pod)
    node.put(pod)
    with pytest.raises(ValueError, match="'web' exists already: the id 'p' is taken"):
        node.new(pod)
    with pytest.raises(ValueError, match="the id 'p' is taken"):
        node.new(make_container(pod, id="p"))


def test_a_pod_stops_once(node: Node) -> None:
    pod = make_pod()
    node.put(pod)
    assert node.stop(pod)
    assert not node.stop(pod)
    node.remove(pod)
    node.put(pod)
    assert node.stop(pod)


def test_an_update(node: Node) -> None:
    pod = make_pod()
    container = make_container(pod)
    node.put(container)
    assert node.update(api.Update(container.id).set_cpu(shares=7).message)
    assert node.container(container).linux.resources.cpu.shares.value == 7
    assert not node.update(api.Update("nobody").set_cpu(shares=7).message)


def test_an_update_goes_by_way_of_the_cri(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """The CRI has no separate swap limit, no process limit and no classes. Its memory limit also limits swap."""
    container = make_container(make_pod())
    container.linux.resources.pids.limit = 10
    node.put(container)
    update = api.Update(container.id).set_memory(limit=200, swap=500, swappiness=1)
    update.set_pids_limit(5).set_rdt_class("gold").set_cpu(quota=7000, realtime_period=1)
    update.add_hugepage_limit("2MB", 2).set_unified("memory.high", "1")
    assert node.update(update.message)
    has = node.container(container).linux.resources
    assert (has.memory.limit.value, has.memory.swap.value, has.pids.limit) == (200, 200, 10)
    assert not has.memory.HasField("swappiness")
    assert not has.HasField("rdt_class")
    assert (has.cpu.quota.value, has.cpu.HasField("realtime_period")) == (7000, False)
    assert [(item.page_size, item.limit) for item in has.hugepage_limits] == [("2MB", 2)]
    assert dict(has.unified) == {"memory.high": "1"}
    lost = ("memory.swap", "memory.swappiness", "pids", "rdt_class")
    assert [name for name in lost if f"{name} is lost" in caplog.text] == list(lost)


def test_set_fields_are_copied_and_others_stay() -> None:
    before = (
        api.Update("c").set_memory(limit=5, swap=6).set_cpu(shares=1, cpus="0").set_pids_limit(9)
    )
    before.add_hugepage_limit("2MB", 1).add_hugepage_limit("1GB", 1).set_unified("a.a", "1")
    wanted = api.Update("c").set_memory(limit=0).set_cpu(cpus="1").add_hugepage_limit("2MB", 2)
    wanted.set_unified("b.b", "2").set_rdt_class("gold")
    set_resources(before.resources, wanted.resources)
    expected = (
        api.Update("c").set_memory(limit=0, swap=6).set_cpu(shares=1, cpus="1").set_pids_limit(9)
    )
    expected.add_hugepage_limit("2MB", 2).add_hugepage_limit("1GB", 1)
    expected.set_unified("a.a", "1").set_unified("b.b", "2").set_rdt_class("gold")
    assert before.resources == expected.resources


def test_split_makes_a_runtime_send_parts() -> None:
    pods = [api.PodSandbox(id="p0"), api.PodSandbox(id="p1")]
    containers = [api.Container(id="c0"), api.Container(id="c1")]
    told = list(synchronize_requests(*split(pods, containers)))
    parts = [api.SynchronizeRequest.FromString(part.payload) for part in told]
    ids = [[*(p.id for p in part.pods), *(c.id for c in part.containers)] for part in parts]
    assert ids == [["p0"], ["p1"], ["c0"], ["c1"]]
    assert [part.more for part in parts] == [True, True, True, False]
    for part in parts:
        part.DiscardUnknownFields()
    assert [pod for part in parts for pod in part.pods] == pods
    assert [container for part in parts for container in part.containers] == containers


def test_split_of_a_large_or_empty_state() -> None:
    large = api.PodSandbox(id="p", annotations={"a": "x" * 5_000_000})
    assert split([large], []) == ([large], [])


def test_the_effective_values_of_an_update() -> None:
    wanted = api.LinuxResources()
    wanted.cpu.shares.value = 0
    wanted.cpu.quota.value = -1
    wanted.memory.limit.value = 0
    wanted.hugepage_limits.add(page_size="2MB", limit=0)
    wanted.hugepage_limits.add(page_size="1GB", limit=5)
    given = given_resources(wanted, False)
    assert not given.cpu.HasField("shares")
    assert given.cpu.quota.value == -1
    assert not given.memory.HasField("limit")
    assert [item.page_size for item in given.hugepage_limits] == ["1GB"]
    assert len(given_resources(wanted, True).hugepage_limits) == 2
    assert len(wanted.hugepage_limits) == 2
