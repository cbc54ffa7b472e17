"""Copies of a workload."""

from __future__ import annotations

import json

from nri_sync import kit
from nri_sync.testing.manifests import Workload, load
from nri_sync.testing.simulation.copies import another, with_containers
from tests.testing.manifests import PODS

__all__: list[str] = []


def workload(name: str = "init-and-sidecar.yaml") -> Workload:
    [found] = load(PODS / name)
    return found


def text(found: Workload) -> str:
    specs = json.dumps([item.spec for item in found.containers])
    return f"{found.pod}{[item.container for item in found.containers]}{specs}"


def test_a_copy_has_new_ids_everywhere() -> None:
    first = workload()
    second, third = another(first, 1), another(first, 2)
    assert another(first, 1) == second
    assert second.name == first.name
    assert [item.name for item in second.containers] == [item.name for item in first.containers]
    old = [first.pod.id, first.pod.uid, *(item.container.id for item in first.containers)]
    for id in [*old, first.pod.uid.replace("-", "_")]:
        assert id in text(first)
        assert id not in text(second) + text(third)
    ids = [w.pod.id for w in (first, second, third)]
    ids += [item.container.id for w in (first, second, third) for item in w.containers]
    assert len(set(ids)) == len(ids)
    assert {len(id) for id in ids} == {64}


def test_the_ids_of_a_copy_agree_with_each_other() -> None:
    found = another(workload(), 7)
    assert kit.pod_uid_of_cgroup(kit.pod_cgroup(found.pod) or "") == found.pod.uid
    for item in found.containers:
        assert item.container.pod_sandbox_id == found.pod.id
        assert item.container.labels["io.kubernetes.pod.uid"] == found.pod.uid
        assert item.container.id in item.spec["linux"]["cgroupsPath"]


def test_more_containers() -> None:
    first = workload()
    found = with_containers(first, 3)
    assert [item.name for item in found.containers] == [
        "migrate", "logs", "warm-up", "app", "app-2", "app-3",
    ]  # fmt: skip
    copy = found.containers[-1]
    assert kit.container_name(copy.container) == "app-3"
    assert copy.container.labels["io.kubernetes.container.name"] == "app-3"
    assert copy.spec["annotations"]["io.kubernetes.cri.container-name"] == "app-3"
    assert copy.container.id in copy.spec["linux"]["cgroupsPath"]
    assert len({item.container.id for item in found.containers}) == 6
    assert with_containers(first, 1) == first
    assert first.containers[-1].spec["annotations"]["io.kubernetes.cri.container-name"] == "app"


def test_both() -> None:
    # The second round of the second copy must differ from the second copy of the second round.
    rounds = [another(with_containers(workload(), 4), number) for number in range(1, 5)]
    ids = [item.container.id for found in rounds for item in found.containers]
    assert len(set(ids)) == len(ids)
