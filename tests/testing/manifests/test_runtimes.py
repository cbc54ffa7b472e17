"""The pods and containers that runtimes make for a kubelet. tests/recorded has those of real runtimes."""

from __future__ import annotations

import pytest

from nri_sync.testing.manifests.cri import Resources, SandboxConfig
from nri_sync.testing.manifests.model import Assumptions
from nri_sync.testing.manifests.runtimes import model_of

__all__: list[str] = []

NODE = Assumptions()


def test_a_sandbox() -> None:
    config = SandboxConfig(
        "p", "web", "shop", "u", 77, ["10.0.0.1"],
        labels={"app": "web"}, annotations={"a": "1"}, cgroup_parent="/kubepods/podu",
        resources=Resources(shares=512), runtime_handler="kata",
    )  # fmt: skip
    pod = model_of("containerd").pod(config, NODE)
    assert (pod.id, pod.name, pod.namespace, pod.uid, pod.pid) == ("p", "web", "shop", "u", 77)
    assert pod.labels["app"] == "web"
    assert pod.labels["io.cri-containerd.kind"] == "sandbox"
    assert pod.annotations["a"] == "1"
    assert pod.annotations["io.kubernetes.cri.sandbox-cpu-shares"] == "512"
    assert (pod.runtime_handler, list(pod.ips)) == ("kata", ["10.0.0.1"])
    assert pod.linux.cgroup_parent == "/kubepods/podu"
    assert pod.linux.cgroups_path == "/kubepods/podu/p"
    assert pod.linux.pod_resources.cpu.shares.value == 512
    assert pod.linux.pod_overhead.cpu.shares.value == 0
    # The sandbox's own process gets the minimum.
    assert pod.linux.resources.cpu.shares.value == 2


def test_unknown_runtimes() -> None:
    with pytest.raises(ValueError, match="must be containerd or cri-o, not 'docker'"):
        model_of("docker")
