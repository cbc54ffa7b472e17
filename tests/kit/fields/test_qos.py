from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nri_sync.api import Container, LinuxPodSandbox, PodSandbox, optional
from nri_sync.kit.fields.qos import (
    QoS,
    container_qos,
    estimate_memory_request,
    kubelet_cgroup_parent,
    memory_high,
    oom_score_adj,
    pod_qos,
    qos_of_resources,
)

__all__: list[str] = []

GiB = 1 << 30
STATIC = "3c1a2bb6c3ecd97dc1a34c1bd2f4e1f0"
UID = "f0a2cb1e-52a8-4f8c-9d1f-6d3d9c1c7e11"
ESCAPED = UID.replace("-", "_")


def pod_in(parent: str) -> PodSandbox:
    return PodSandbox(linux=LinuxPodSandbox(cgroup_parent=parent))


def with_score(score: int | None) -> Container:
    container = Container()
    optional.put(container.linux, "oom_score_adj", score)
    return container


@pytest.mark.parametrize(
    ("parent", "qos"),
    [
        (f"/kubepods/burstable/pod{STATIC}", QoS.BURSTABLE),
        (f"/kubepods/besteffort/pod{STATIC}", QoS.BEST_EFFORT),
        (f"/kubepods/pod{STATIC}", QoS.GUARANTEED),
        (
            f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{ESCAPED}.slice",
            QoS.BURSTABLE,
        ),
        # The path in CRI-O, and on a node in a container (kind).
        (f"kubepods-besteffort-pod{ESCAPED}.slice", QoS.BEST_EFFORT),
        (
            f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{ESCAPED}.slice",
            QoS.GUARANTEED,
        ),
        ("", None),
        ("/", None),
        ("/default", None),
        ("/podx", None),
        ("/machine/podx", None),
        ("/kubepods/burstable", None),
    ],
)
def test_the_class_of_a_pod(parent: str, qos: QoS | None) -> None:
    assert pod_qos(pod_in(parent)) is qos


@pytest.mark.parametrize(
    ("score", "qos"),
    [
        (-997, QoS.GUARANTEED),
        (1000, QoS.BEST_EFFORT),
        (999, QoS.BURSTABLE),
        (3, QoS.BURSTABLE),
        (2, None),
        (0, None),
        (-998, None),
        (None, None),
    ],
)
def test_the_class_by_oom_score(score: int | None, qos: QoS | None) -> None:
    assert container_qos(PodSandbox(), with_score(score)) is qos


def test_the_parent_comes_before_the_score() -> None:
    # A node-critical pod of any class.
    assert container_qos(pod_in("/kubepods/burstable/podx"), with_score(-997)) is QoS.BURSTABLE


def test_names() -> None:
    assert [qos.value for qos in QoS] == ["Guaranteed", "Burstable", "BestEffort"]
    assert QoS("BestEffort") is QoS.BEST_EFFORT


BOTH = {"cpu": "500m", "memory": "1Gi"}


@pytest.mark.parametrize(
    ("containers", "qos"),
    [
        ([], QoS.BEST_EFFORT),
        ([({}, {})], QoS.BEST_EFFORT),
        ([({"cpu": 0, "memory": "0"}, {})], QoS.BEST_EFFORT),
        ([({"ephemeral-storage": "1Gi"}, {"nvidia.com/gpu": 1})], QoS.BEST_EFFORT),
        ([(BOTH, BOTH)], QoS.GUARANTEED),
        ([({}, BOTH)], QoS.GUARANTEED),
        ([({"cpu": 0.5, "memory": "1024Mi"}, BOTH)], QoS.GUARANTEED),
        ([(BOTH, BOTH), ({}, {})], QoS.BURSTABLE),
        ([({"cpu": "100m"}, BOTH)], QoS.BURSTABLE),
        ([({}, {"memory": "1Gi"})], QoS.BURSTABLE),
        ([({"memory": "1Gi"}, {})], QoS.BURSTABLE),
    ],
)
def test_the_class_of_resources(
    containers: list[tuple[dict[str, str], dict[str, str]]], qos: QoS
) -> None:
    assert qos_of_resources(containers) is qos


def test_a_request_of_nothing_is_not_left_out() -> None:
    """Only a missing request defaults to the limit (``SetDefaults_Pod``)."""
    limits = {"cpu": "1500m", "memory": "1.5Gi"}
    assert qos_of_resources([({}, limits)]) is QoS.GUARANTEED
    for request in ({"cpu": "0"}, {"memory": 0}, {"cpu": "0", "memory": "0"}):
        assert qos_of_resources([(request, limits)]) is QoS.BURSTABLE
    assert qos_of_resources([({"cpu": "0"}, {})]) is QoS.BEST_EFFORT


@pytest.mark.parametrize(
    ("qos", "request_", "critical", "score"),
    [
        (QoS.GUARANTEED, 4 * GiB, False, -997),
        (QoS.BEST_EFFORT, 0, False, 1000),
        (QoS.BEST_EFFORT, 0, True, -997),
        # Kubernetes, pkg/kubelet/qos/policy_test.go: a tenth, nearly none, all of the memory.
        (QoS.BURSTABLE, GiB, False, 900),
        (QoS.BURSTABLE, 1, False, 999),
        (QoS.BURSTABLE, 0, False, 999),
        (QoS.BURSTABLE, 10 * GiB, False, 3),
        (QoS.BURSTABLE, 20 * GiB, False, 3),
    ],
)
def test_oom_scores(qos: QoS, request_: int, critical: bool, score: int) -> None:
    assert oom_score_adj(qos, request_, 10 * GiB, node_critical=critical) == score


@given(st.integers(0, 63 * GiB))
def test_the_request_behind_a_score(request: int) -> None:
    capacity = 64 * GiB
    score = oom_score_adj(QoS.BURSTABLE, request, capacity)
    estimate = estimate_memory_request(score, capacity)
    assert estimate is not None
    assert estimate <= request
    if score > 3:
        assert request - estimate < capacity / 1000 * (2 if score == 999 else 1)


@pytest.mark.parametrize("score", [-997, 0, 2, 1000])
def test_no_request_behind_other_scores(score: int) -> None:
    assert estimate_memory_request(score, GiB) is None


@pytest.mark.parametrize(
    ("request_", "limit", "high"),
    [
        # Kubernetes, pkg/kubelet/kuberuntime/kuberuntime_container_linux_test.go: 128Mi to 256Mi.
        (128 << 20, 256 << 20, (128 << 20) + int(0.9 * (128 << 20)) // 4096 * 4096),
        (GiB, GiB, None),
        (0, GiB, 966365184),
        (4096, 4097, None),
    ],
)
def test_memory_high(request_: int, limit: int, high: int | None) -> None:
    assert memory_high(request_, limit) == high


def test_memory_high_of_other_pages() -> None:
    assert memory_high(0, 10 << 20, throttling_factor=0.5, page_size=65536) == 5 << 20


@pytest.mark.parametrize("systemd", [False, True])
@pytest.mark.parametrize("root", [(), ("kubelet",)])
@pytest.mark.parametrize("qos", QoS)
def test_the_parent_that_the_kubelet_gives(qos: QoS, root: tuple[str, ...], systemd: bool) -> None:
    assert pod_qos(pod_in(kubelet_cgroup_parent(qos, UID, systemd=systemd, root=root))) is qos


def test_parents() -> None:
    assert kubelet_cgroup_parent(QoS.GUARANTEED, "1") == "/kubepods/pod1"
    assert kubelet_cgroup_parent(QoS.BURSTABLE, "1-2", systemd=True) == (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice"
    )
