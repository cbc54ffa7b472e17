"""The output of crictl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nri_sync import api, kit
from nri_sync.testing.manifests import Kind, ManifestError, load
from nri_sync.testing.manifests.crictl import is_crictl
from tests.testing.manifests import container, fields, only

__all__: list[str] = []

FILES = Path(__file__).parent / "crictl"
POD, CONTAINER = FILES / "inspectp.json", FILES / "inspect.json"


def output(path: Path, **status: Any) -> Any:
    document = json.loads(path.read_text())
    document["status"].update(status)
    return document


def test_a_pod_and_its_container() -> None:
    workload = only(load(CONTAINER, POD))
    pod, item = workload.pod, container(workload)
    assert (pod.name, pod.namespace, pod.pid) == ("web", "shop", 4242)
    assert workload.name == "shop/web"
    assert pod.linux.cgroup_parent.startswith("/kubepods/burstable/pod6a1cb38a")
    assert pod.linux.cgroups_path.endswith(pod.id)
    assert list(pod.ips) == ["10.244.0.5", "2001:db8::5"]
    assert pod.runtime_handler == "runc"
    assert kit.network_namespace(pod) == "/var/run/netns/cni-1"
    told = pod.linux.pod_resources
    assert (told.cpu.shares.value, told.memory.limit.value) == (256, 256 << 20)
    assert pod.labels["io.cri-containerd.kind"] == "sandbox"
    assert pod.labels["app"] == "web"
    assert pod.annotations["kubernetes.io/config.source"] == "api"
    assert pod.annotations["io.kubernetes.cri.sandbox-name"] == "web"
    found = item.container
    assert (item.name, item.kind, found.pod_sandbox_id) == ("app", Kind.ORDINARY, pod.id)
    assert found.id.startswith("7d41e9d1")
    assert list(found.args) == ["sleep", "inf"]
    assert found.linux.oom_score_adj.value == 985
    assert found.linux.seccomp_profile.profile_type == api.SecurityProfile.UNCONFINED
    assert [device.name for device in found.CDI_devices] == ["vendor.com/device=0"]
    assert found.annotations["io.kubernetes.container.hash"] == "a763184"
    image = kit.container_image(found)
    assert image.digest == "sha256:" + "2" * 64
    assert image.id == "sha256:" + "1" * 64
    assert item.spec["process"]["args"] == ["sleep", "inf"]


@pytest.mark.parametrize(
    ("seccomp", "kind"),
    [
        ({}, api.SecurityProfile.RUNTIME_DEFAULT),
        ({"profile_type": 1}, api.SecurityProfile.UNCONFINED),
        (None, None),
    ],
)
def test_seccomp_profiles(seccomp: dict[str, int] | None, kind: int | None) -> None:
    document = output(CONTAINER)
    document["info"]["config"]["linux"]["security_context"]["seccomp"] = seccomp
    linux = container(only(load(json.dumps(output(POD)), json.dumps(document)))).container.linux
    found = linux.seccomp_profile.profile_type if linux.HasField("seccomp_profile") else None
    assert found == kind


def test_both_in_one_text_and_containers_in_the_order_of_their_creation() -> None:
    later = output(CONTAINER, id="b" * 64, createdAt="2025-03-01T10:00:09Z")
    sooner = output(CONTAINER, id="a" * 64, state="CONTAINER_EXITED")
    text = json.dumps([output(POD), later, sooner])
    workload = only(load(text))
    assert [item.container.id[0] for item in workload.containers] == ["a", "b"]
    assert [item.kind for item in workload.containers] == [Kind.INIT, Kind.ORDINARY]
    assert "container app: it has exited: assumed to be an init container" in workload.notes


def test_a_container_alone() -> None:
    workload = only(load(CONTAINER))
    pod = workload.pod
    assert (pod.name, pod.namespace) == ("web", "shop")
    assert pod.id.startswith("0f6ad3b6")
    assert pod.uid == "6a1cb38a-0cd7-4d6b-9c1b-5be7de0b0b53"
    assert kit.pod_qos(pod) is kit.QoS.BURSTABLE
    assert [item.type for item in pod.linux.namespaces] == ["network", "ipc"]
    assert any("crictl inspectp" in note for note in workload.notes)


def test_a_pod_alone() -> None:
    workload = only(load(POD))
    assert not workload.containers
    assert any("crictl inspect" in note for note in workload.notes)


def test_of_cri_o() -> None:
    document = output(CONTAINER, imageRef="3" * 64, imageId="")
    document["info"] = {
        "pid": 1,
        "sandboxID": "d" * 64,
        "runtimeSpec": {
            "ociVersion": "1.2.0",
            "annotations": {"io.kubernetes.cri-o.SandboxID": "d" * 64},
            "process": {"args": ["sh"]},
            "linux": {"cgroupsPath": "kubepods-besteffort-podx.slice:crio:" + "7" * 64},
        },
    }
    workload = only(load(json.dumps(document)))
    assert workload.pod.id == "d" * 64
    assert workload.pod.linux.cgroup_parent == "kubepods-besteffort-podx.slice"
    found = container(workload).container
    assert found.image.config_digest == "3" * 64
    assert "io.cri-containerd.kind" not in found.labels
    assert not found.linux.HasField("seccomp_profile")


def test_the_output_of_crictl_is_recognized() -> None:
    assert is_crictl(fields(output(POD)))
    assert is_crictl(fields({"items": [output(POD)]}))
    assert not is_crictl(fields({"kind": "List", "items": []}))
    assert not is_crictl(fields({"ociVersion": "1.2.0"}))


def test_without_a_specification() -> None:
    document = output(CONTAINER)
    del document["info"]["runtimeSpec"]
    with pytest.raises(
        ManifestError, match=r"info\.runtimeSpec: is missing: .*crictl inspect -o json"
    ):
        load(json.dumps(document))


def test_an_invalid_specification_is_refused() -> None:
    document = output(CONTAINER)
    document["info"]["runtimeSpec"]["mounts"] = "none"
    with pytest.raises(
        ManifestError, match=r"info\.runtimeSpec: is no OCI specification: mounts must be"
    ):
        load(json.dumps(document))


def test_fields_that_crictl_does_not_show() -> None:
    """containerd's own label, hooks that are present but empty, and digests of local images."""
    workload = only(load(CONTAINER, POD))
    assert workload.pod.labels["oci_runtime_type"] == "io.containerd.runc.v2"
    assert container(workload).container.HasField("hooks")
    pod = output(POD)
    pod["info"]["runtimeType"] = "io.containerd.kata.v2"
    local = output(CONTAINER, imageRef=f"sha256:{'1' * 64}")
    workload = only(load(json.dumps([pod, local])))
    assert workload.pod.labels["oci_runtime_type"] == "io.containerd.kata.v2"
    note = "container app: the digest of its image is unknown: it is in no registry"
    assert note in workload.notes
    assert container(workload).container.image.config_digest == f"sha256:{'1' * 64}"
