"""Specifications of CRI-O. tests/recorded/crio has the messages of a real CRI-O for many manifests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nri_sync.testing.manifests import Assumptions, ImageConfig, Workload, load
from tests.testing.manifests import container, mounts, only, spec_of

__all__: list[str] = []


def pod(
    spec: dict[str, Any] | None = None, own: dict[str, Any] | None = None, **facts: Any
) -> Workload:
    app = {"name": "app", "image": "busybox", "command": ["sh"], **(own or {})}
    manifest = {
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": "shop", "annotations": {"a": "1"}},
        "spec": {"containers": [app], **(spec or {})},
    }
    return only(load(json.dumps(manifest), assumptions=Assumptions(runtime="cri-o", **facts)))


def test_annotations_of_pods_and_containers() -> None:
    workload = pod()
    assert workload.pod.annotations["a"] == "1"
    assert not any(key.startswith("io.kubernetes.cri") for key in workload.pod.annotations)
    assert workload.pod.labels["io.kubernetes.container.name"] == "POD"
    found = container(workload).container.annotations
    # The container also has the pod's annotations, and the labels.
    assert (found["a"], found["io.kubernetes.pod.namespace"]) == ("1", "shop")
    assert found["io.kubernetes.cri-o.SandboxID"] == workload.pod.id
    labels = json.loads(found["io.kubernetes.cri-o.Labels"])
    assert labels["io.kubernetes.container.name"] == "app"


@pytest.mark.parametrize(
    ("systemd", "end"), [(True, ".slice:crio:{}"), (False, "/crio-{}")], ids=["systemd", "cgroupfs"]
)
def test_cgroups(systemd: bool, end: str) -> None:
    workload = pod(systemd_cgroups=systemd)
    item = container(workload).container
    assert item.linux.cgroups_path.endswith(end.format(item.id))
    assert workload.pod.linux.cgroups_path.endswith(end.format(workload.pod.id))


def test_variables() -> None:
    image = ImageConfig(env=["PATH=/image", "A=image", "B=image"])
    workload = pod(own={"env": [{"name": "A", "value": "own"}], "tty": True}, images={"*": image})
    env = list(container(workload).container.env)
    assert env[0].startswith("PATH=/usr/local/sbin:")
    # CRI-O's own defaults stay in addition to later values. Other variables occur once.
    assert [entry for entry in env if entry.startswith("TERM=")] == ["TERM=xterm"] * 2
    assert [entry for entry in env if entry[:2] in ("A=", "B=")] == ["A=own", "B=image"]
    assert env[-2:] == ["PATH=/image", "B=image"]


def test_resources() -> None:
    resources = spec_of(pod())["linux"]["resources"]
    assert resources["cpu"] == {"shares": 2, "quota": 0, "period": 100_000}
    assert "memory" not in resources
    limited = {"resources": {"limits": {"memory": "1Gi"}}}
    assert spec_of(pod(own=limited))["linux"]["resources"]["memory"]["limit"] == 1 << 30


def test_namespaces() -> None:
    def kinds(workload: Workload) -> tuple[list[str], list[str]]:
        items = (workload.pod.linux.namespaces, container(workload).container.linux.namespaces)
        own, inner = ([item.type for item in found] for found in items)
        return own, inner

    everything = ["pid", "network", "ipc", "uts", "mount"]
    assert kinds(pod()) == (everything, [*everything, "cgroup"])
    host = {"hostNetwork": True, "hostPID": True, "hostIPC": True}
    # CRI-O also pins the host's namespaces. Containers do not join the network namespace.
    assert kinds(pod(host)) == (everything[1:], ["ipc", "uts", "mount", "cgroup"])


def test_mounts() -> None:
    volumes = [{"name": "srv", "hostPath": {"path": "/srv/"}}]
    own = {"volumeMounts": [{"name": "srv", "mountPath": "/srv"}]}
    found = mounts(pod({"volumes": volumes}, own))
    # CRI-O normalizes paths of the host.
    assert found["/srv"] == ("/srv", ["rbind", "rprivate", "rw", "bind"])
    assert found["/etc/resolv.conf"][1] == ["rw", "bind", "nodev", "nosuid", "noexec"]
    assert found["/run/.containerenv"][0].startswith("/var/lib/containers/storage/")
    shm = {"volumes": [{"name": "shm", "emptyDir": {}}]}
    own = {"volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}]}
    assert "empty-dir" in mounts(pod(shm, own))["/dev/shm"][0]


def test_seccomp() -> None:
    def profile(**security: Any) -> str:
        found = container(pod(own={"securityContext": security})).container.annotations
        return found["io.kubernetes.cri-o.SeccompProfilePath"]

    assert profile() == "Unconfined"
    assert profile(seccompProfile={"type": "RuntimeDefault"}) == "RuntimeDefault"
    assert profile(seccompProfile={"type": "RuntimeDefault"}, privileged=True) == "Unconfined"
    local = {"type": "Localhost", "localhostProfile": "a.json"}
    assert profile(seccompProfile=local) == "/var/lib/kubelet/seccomp/a.json"
