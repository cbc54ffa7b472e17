"""Sums of resources, and the kubelet's conversion of requests and limits."""

from __future__ import annotations

import time
from typing import Any

import pytest

from nri_sync.kit import QoS, Quantity
from nri_sync.testing.manifests.model import Assumptions, Kind, ManifestError
from nri_sync.testing.manifests.resources import ContainerAmounts, PodAmounts, aggregate
from tests.testing.manifests import fields

__all__: list[str] = []

NODE = Assumptions(memory=16 << 30)
V1 = Assumptions(cgroup_version=1)
KINDS = {"init": Kind.INIT, "side": Kind.SIDECAR, "main": Kind.ORDINARY}


def amounts(name: str, requests: Any = None, limits: Any = None) -> ContainerAmounts:
    """A container whose name begins with its kind."""
    data = {"name": name, "resources": {"requests": requests, "limits": limits}}
    return ContainerAmounts.read(fields(data), KINDS[name[:4]])


def pod(*containers: ContainerAmounts, resources: Any = None, **more: Any) -> PodAmounts:
    return PodAmounts.read(fields({"resources": resources}), containers, **more)


def texts(amounts: dict[str, Quantity]) -> dict[str, str]:
    return {name: str(amount) for name, amount in amounts.items()}


def test_amounts_are_rounded_to_thousandths() -> None:
    """``SetDefaults_ResourceList``."""
    found = amounts("main", {"cpu": "0.0001", "memory": "1Gi"}, {"cpu": "1500.5m", "memory": "2Gi"})
    assert texts(found.requests) == {"cpu": "1m", "memory": "1Gi"}
    assert texts(found.limits) == {"cpu": "1501m", "memory": "2Gi"}


@pytest.mark.parametrize(
    ("requests", "limits", "text"),
    [
        ({"cpu": 2}, {"cpu": 1}, "resources.requests: the request of cpu, 2, is more than its limit, 1"),
        ({"hugepages-2Mi": "2Mi"}, {"hugepages-2Mi": "4Mi"}, "resources.requests: the request of hugepages-2Mi"),
        ({"hugepages-2Mi": "2Mi"}, {}, "resources.limits: hugepages-2Mi needs a limit, too"),
    ],
)  # fmt: skip
def test_amounts_that_the_api_server_refuses(requests: Any, limits: Any, text: str) -> None:
    with pytest.raises(ManifestError, match=text):
        amounts("main", requests, limits)


@pytest.mark.parametrize(
    ("containers", "cpu"),
    [
        ([("main", "1"), ("main2", "500m")], "1500m"),
        ([("init", "2"), ("main", "1")], "2"),
        ([("init", "2"), ("init2", "3"), ("main", "4")], "4"),
        # An init container runs together with the sidecars before it, but not with those after it.
        ([("side", "1"), ("init", "2"), ("main", "1")], "3"),
        ([("init", "2"), ("side", "1"), ("main", "500m")], "2"),
        ([("side", "1"), ("side2", "1"), ("main", "1")], "3"),
    ],
)
def test_a_pod_requests_the_amounts_of_containers_that_run_together(
    containers: list[tuple[str, str]], cpu: str
) -> None:
    read = [amounts(name, {"cpu": amount}) for name, amount in containers]
    assert texts(aggregate(read, "requests")) == {"cpu": cpu}


class TestQoS:
    def test_by_containers(self) -> None:
        limits = {"cpu": 1, "memory": "1Gi"}
        assert pod(amounts("main")).qos is QoS.BEST_EFFORT
        assert pod(amounts("main", {}, limits)).qos is QoS.GUARANTEED
        assert pod(amounts("init"), amounts("main", {}, limits)).qos is QoS.BURSTABLE

    def test_of_the_pod_itself(self) -> None:
        limits = {"cpu": 1, "memory": "1Gi"}
        assert pod(amounts("main"), resources={"limits": limits}).qos is QoS.GUARANTEED
        requests = {"cpu": "500m"}
        found = pod(amounts("main"), resources={"limits": limits, "requests": requests})
        assert found.qos is QoS.BURSTABLE

    def test_the_api_server_knows(self) -> None:
        assert pod(amounts("main"), status_qos=QoS.GUARANTEED).qos is QoS.GUARANTEED


class TestOfThePod:
    def test_requests_of_the_pod_come_from_its_containers_or_its_limits(self) -> None:
        found = pod(
            amounts("main", {"cpu": "250m"}, {"hugepages-2Mi": "4Mi"}),
            resources={"limits": {"cpu": 1, "memory": "1Gi"}},
        )
        assert texts(found.requests) == {"cpu": "250m", "memory": "1Gi", "hugepages-2Mi": "4Mi"}
        assert texts(found.limits) == {"cpu": "1", "memory": "1Gi", "hugepages-2Mi": "4Mi"}

    def test_a_container_without_limits_has_the_pod_s(self) -> None:
        free, own = amounts("main"), amounts("main2", {}, {"cpu": "100m", "hugepages-1Gi": "1Gi"})
        limits = {"cpu": 1, "memory": "1Gi", "hugepages-2Mi": "4Mi"}
        found = pod(free, own, resources={"limits": limits})
        of_free, of_own = found.container(free, NODE), found.container(own, NODE)
        # Its shares follow from the limit, too, because it has no request.
        assert (of_free.shares, of_free.quota, of_free.memory_limit) == (1024, 100_000, 1 << 30)
        assert (of_own.shares, of_own.quota, of_own.memory_limit) == (102, 10_000, 1 << 30)
        assert of_own.huge_pages == {"2MB": 4 << 20, "1GB": 1 << 30}

    def test_the_surplus_request_of_a_pod_counts_for_all_containers(self) -> None:
        one, other = amounts("main", {"memory": "2Gi"}), amounts("main2")
        found = pod(one, other, resources={"requests": {"memory": "6Gi"}})
        # (2 + 4 / 2) and (0 + 4 / 2), of 16.
        assert found.container(one, NODE).oom_score_adj == 750
        assert found.container(other, NODE).oom_score_adj == 875

    def test_the_sandbox_has_the_pod_s(self) -> None:
        found = pod(
            amounts("main", {"cpu": "250m"}, {"cpu": "500m", "memory": "1Gi"}),
            resources={"requests": {"cpu": 1}, "limits": {"cpu": 2, "memory": "4Gi"}},
        )
        sandbox = found.sandbox(NODE)
        assert (sandbox.shares, sandbox.quota, sandbox.memory_limit) == (1024, 200_000, 4 << 30)


class TestContainer:
    def test_without_anything(self) -> None:
        only = amounts("main")
        found = pod(only).container(only, NODE)
        assert (found.shares, found.quota, found.period) == (2, 0, 100_000)
        assert (found.memory_limit, found.swap_limit, found.oom_score_adj) == (0, 0, 1000)

    def test_by_request_and_limit(self) -> None:
        only = amounts("main", {"cpu": "250m", "memory": "4Gi"}, {"cpu": "1500m", "memory": "8Gi"})
        found = pod(only).container(only, NODE)
        assert (found.shares, found.quota, found.memory_limit) == (256, 150_000, 8 << 30)
        assert found.oom_score_adj == 750

    def test_a_tiny_limit(self) -> None:
        only = amounts("main", {}, {"cpu": "5m"})
        found = pod(only).container(only, NODE)
        # The kernel accepts no quota below a millisecond.
        assert (found.shares, found.quota) == (5, 1000)

    def test_cgroup_versions(self) -> None:
        only = amounts("main", {}, {"memory": "1Gi"})
        v2, v1 = pod(only).container(only, NODE), pod(only).container(only, V1)
        assert v2.unified == {"memory.oom.group": "1", "memory.swap.max": "0"}
        assert (v2.swap_limit, v1.swap_limit, v1.unified) == (0, 1 << 30, {})

    def test_without_limits_of_swap(self) -> None:
        only = amounts("main", {}, {"memory": "1Gi"})
        without = Assumptions(swap_limits=False)
        assert pod(only).container(only, without).unified == {"memory.oom.group": "1"}
        without = Assumptions(swap_limits=False, cgroup_version=1)
        assert pod(only).container(only, without).swap_limit == 0

    @pytest.mark.parametrize(
        ("name", "size"),
        [("hugepages-2Mi", "2MB"), ("hugepages-1Gi", "1GB"), ("hugepages-64Ki", "64KB"), ("hugepages-x", "")],
    )  # fmt: skip
    def test_huge_pages_by_the_sizes_of_the_node(self, name: str, size: str) -> None:
        node = Assumptions(huge_page_sizes=("64KB", "2MB", "1GB"))
        only = amounts("main", {}, {name: "8Gi"})
        found = pod(only).container(only, node)
        assert found.huge_pages == {one: (8 << 30) * (one == size) for one in node.huge_page_sizes}

    def test_a_sidecar_is_no_more_likely_killed_than_the_others(self) -> None:
        small, large = amounts("side", {"memory": "1Gi"}), amounts("side2", {"memory": "8Gi"})
        found = pod(small, large, amounts("main", {"memory": "4Gi"}))
        assert found.container(small, NODE).oom_score_adj == 750
        assert found.container(large, NODE).oom_score_adj == 500

    def test_critical_for_the_node(self) -> None:
        only = amounts("main")
        assert pod(only, node_critical=True).container(only, NODE).oom_score_adj == -997


def test_as_much_as_can_be_written() -> None:
    most = str((1 << 63) - 1)
    containers = [amounts(name, {}, {"cpu": most, "memory": most}) for name in ("main", "main2")]
    sandbox = pod(*containers).sandbox(NODE)
    assert sandbox.quota == sandbox.memory_limit == (1 << 63) - 1
    assert sandbox.message().memory.limit.value == (1 << 63) - 1


def test_overhead() -> None:
    overhead = {"cpu": Quantity.parse("250m"), "memory": Quantity.parse("120Mi")}
    found = pod(amounts("main"), overhead=overhead)
    told = found.overhead_resources(NODE)
    assert (told.shares, told.quota, told.memory_limit) == (256, 25_000, 120 << 20)
    assert pod(amounts("main")).overhead_resources(NODE).message().cpu.shares.value == 0
    # The sandbox gets no part of the containers' shares.
    assert found.sandbox(NODE).shares == 2


def test_the_resources_of_a_resized_container() -> None:
    """``updatePodContainerResources``: a missing request counts as 0, and gets the minimum of shares."""
    own = amounts("main", {}, {"memory": "1Gi", "hugepages-2Mi": "4Mi"})
    own.requests = {"memory": Quantity.parse("1Gi")}
    pod = PodAmounts([own], limits={"cpu": Quantity.parse("2")}, own=True)
    node = Assumptions()
    created, resized = pod.container(own, node), pod.resized_container(own, node)
    assert (created.shares, resized.shares) == (2048, 2)
    assert created.quota == resized.quota == 200_000
    assert created.memory_limit == resized.memory_limit == 1 << 30
    assert (created.huge_pages["2MB"], resized.huge_pages["2MB"]) == (4 << 20, 0)


@pytest.mark.parametrize(("version", "unlimited"), [(1, (1 << 63) - 4096), (2, (1 << 63) - 1)])
def test_the_resources_of_a_resized_pod(version: int, unlimited: int) -> None:
    """``ResourceConfigForPod``, and the cgroup's current values for resources that are not declared."""
    node = Assumptions(cgroup_version=version)
    both = amounts("main-a", {"cpu": "1"}, {"cpu": "1", "memory": "1Gi"})
    one = amounts("main-b", {}, {"memory": "1Gi"})
    none = PodAmounts([both, one, amounts("main-c")]).resized_sandbox(node)
    assert (none.quota, none.period, none.memory_limit) == (-1, 100_000, unlimited)
    some = PodAmounts([both, one]).resized_sandbox(node)
    assert (some.shares, some.quota, some.memory_limit) == (1024, -1, 2 << 30)
    assert not some.unified
    own = PodAmounts([both, one], limits={"cpu": Quantity.parse("3")}, own=True)
    assert own.resized_sandbox(node).quota == 300_000


def test_the_work_is_linear_in_the_containers() -> None:
    containers = [amounts(f"main{number}", {"memory": "1Mi"}) for number in range(2000)]
    whole = pod(*containers, resources={"requests": {"memory": "4Gi"}})
    began = time.process_time()
    for container in containers:
        whole.container(container, NODE)
    assert time.process_time() - began < 10
