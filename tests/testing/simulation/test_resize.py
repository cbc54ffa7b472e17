"""Resizes in place. tests/recorded has the order of a real kubelet."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nri_sync.testing.manifests import Workload, load
from nri_sync.testing.simulation.resize import resize

__all__: list[str] = []

MIB = 1 << 20
# CPU in thousandths and memory in MiB: the limits, and the requests.
Amounts = tuple[int, int, int, int]


def pod(own: dict[str, Any] | None = None, **containers: Amounts) -> Workload:
    def container(name: str, amounts: Amounts) -> dict[str, Any]:
        return {"name": name, "image": "busybox", "resources": resources(*amounts)}

    spec: dict[str, Any] = {"containers": [container(*item) for item in containers.items()]}
    if own:
        spec["resources"] = own
    return load(json.dumps({"kind": "Pod", "metadata": {"name": "p"}, "spec": spec}))[0]


def resources(cpu_limit: int, memory_limit: int, cpu: int, memory: int) -> dict[str, Any]:
    """The resources of a container. A value of 0 is left out."""

    def of(cpu: int, memory: int) -> dict[str, str]:
        amounts = {"cpu": f"{cpu}m" if cpu else "", "memory": f"{memory}Mi" if memory else ""}
        return {name: amount for name, amount in amounts.items() if amount}

    return {"limits": of(cpu_limit, memory_limit), "requests": of(cpu, memory)}


def steps(before: Workload, after: Workload) -> list[tuple[str, int, int, int]]:
    """The requests: the container or "pod", the quota, the shares, and the memory in MiB."""
    found = []
    for step in resize(before, after, before.containers):
        cpu, memory = step.resources.cpu, step.resources.memory.limit.value
        name = "pod" if step.container is None else step.container.name
        found.append((name, cpu.quota.value, cpu.shares.value, memory // MIB))
    return found


UNLIMITED = ((1 << 63) - 1) // MIB


def test_growing_limits_are_set_on_the_pod_first() -> None:
    found = steps(pod(a=(100, 64, 50, 32)), pod(a=(200, 128, 100, 48)))
    assert found == [
        ("pod", 10000, 51, 128), ("a", 10000, 51, 128),
        ("pod", 20000, 51, 128), ("pod", 20000, 102, 128), ("a", 20000, 102, 128),
    ]  # fmt: skip


def test_shrinking_limits_are_set_on_the_pod_last() -> None:
    found = steps(pod(a=(200, 128, 100, 48)), pod(a=(100, 64, 50, 32)))
    assert found == [
        ("a", 20000, 102, 64), ("pod", 20000, 102, 64),
        ("a", 10000, 51, 64), ("pod", 20000, 51, 64), ("pod", 10000, 51, 64),
    ]  # fmt: skip


def test_memory_and_cpu_have_directions_of_their_own() -> None:
    found = steps(pod(a=(200, 64, 100, 48)), pod(a=(100, 128, 100, 48)))
    assert found == [
        ("pod", 20000, 102, 128), ("a", 20000, 102, 128),
        ("a", 10000, 102, 128), ("pod", 10000, 102, 128),
    ]  # fmt: skip


def test_containers_that_shrink_come_first_and_others_are_left_out() -> None:
    before = pod(up=(0, 64, 0, 0), same=(0, 64, 0, 0), down=(0, 64, 0, 0), less=(0, 64, 0, 0))
    after = pod(up=(0, 96, 0, 0), same=(0, 64, 0, 0), down=(0, 48, 0, 0), less=(0, 32, 0, 0))
    assert [name for name, *_ in steps(before, after)] == ["less", "down", "up", "pod"]


def test_a_request_of_memory_is_a_resize_without_the_pod() -> None:
    assert steps(pod(a=(0, 0, 0, 64)), pod(a=(0, 0, 0, 32))) == [("a", 0, 2, 0)]


def test_a_limit_that_a_container_lacks_is_none_of_the_pod() -> None:
    before, after = pod(a=(100, 64, 50, 32), b=(0, 0, 0, 0)), pod(a=(50, 64, 50, 32), b=(0,) * 4)
    assert steps(before, after) == [("a", 5000, 51, 64)]


def test_resources_of_the_pod_itself() -> None:
    has, wanted = resources(200, 128, 100, 64), resources(100, 128, 100, 64)
    found = steps(pod(has, a=(0, 0, 0, 0)), pod(wanted, a=(0, 0, 0, 0)))
    assert found == [("a", 10000, 2, 128), ("pod", 10000, 102, 128)]


def test_nothing_changes() -> None:
    assert steps(pod(a=(100, 64, 50, 32)), pod(a=(100, 64, 50, 32))) == []


@pytest.mark.parametrize(
    ("after", "text"),
    [
        (pod(b=(100, 64, 50, 32)), "cannot add or remove containers: a"),
        (pod(a=(100, 64, 0, 0)), "from Burstable to Guaranteed, which Kubernetes refuses"),
    ],
)
def test_refused(after: Workload, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        steps(pod(a=(100, 64, 50, 32)), after)
