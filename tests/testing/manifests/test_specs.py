"""OCI ``config.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nri_sync.testing.manifests import Kind, ManifestError, load
from nri_sync.testing.manifests.specs import cgroup_parent, is_spec
from tests.testing.manifests import container, fields, only

__all__: list[str] = []

# The output of `runc spec`, shortened.
SPEC: dict[str, Any] = {
    "ociVersion": "1.2.1",
    "process": {
        "terminal": True,
        "user": {"uid": 0, "gid": 0},
        "args": ["sh"],
        "env": ["PATH=/bin", "TERM=xterm"],
        "cwd": "/",
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
    },
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "runc",
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
    "linux": {
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}],
    },
}


def test_of_runc(tmp_path: Path) -> None:
    path = tmp_path / "bundle" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(SPEC))
    workload = only(load(path))
    item = container(workload)
    assert item.name == "bundle"
    assert item.kind is Kind.ORDINARY
    assert item.spec == SPEC
    assert list(item.container.args) == ["sh"]
    assert item.container.pod_sandbox_id == workload.pod.id
    assert workload.name == "default/pod"
    assert workload.pod.uid
    assert [ns.type for ns in workload.pod.linux.namespaces] == ["network", "ipc"]
    assert workload.notes
    assert only(load(path)).containers[0].container == item.container


def test_of_containerd() -> None:
    prefix = "io.kubernetes.cri"
    annotations = {
        f"{prefix}.sandbox-id": "s" * 64, f"{prefix}.sandbox-name": "web",
        f"{prefix}.sandbox-namespace": "shop", f"{prefix}.sandbox-uid": "u",
        f"{prefix}.container-name": "app",
    }  # fmt: skip
    path = f"kubepods-podu.slice:cri-containerd:{'a' * 64}"
    spec = {**SPEC, "annotations": annotations, "linux": {"cgroupsPath": path}}
    workload = only(load(json.dumps(spec)))
    assert (workload.name, workload.pod.uid, workload.pod.id) == ("shop/web", "u", "s" * 64)
    item = container(workload)
    assert (item.name, item.container.id) == ("app", "a" * 64)
    assert workload.pod.linux.cgroup_parent == "kubepods-podu.slice"


@pytest.mark.parametrize(
    ("path", "parent"),
    [("", ""), ("/a/b/c", "/a/b"), ("x.slice:runc:id", "x.slice"), (":runc:id", "")],
)
def test_cgroup_parents(path: str, parent: str) -> None:
    assert cgroup_parent(fields({"linux": {"cgroupsPath": path}})) == parent


def test_an_oci_specification_is_recognized() -> None:
    assert is_spec(fields(SPEC))
    assert not is_spec(fields({"kind": "Pod"}))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"process": None}, "<text>: process: is missing"),
        ({"windows": {}}, "is not for Linux containers"),
        ({"mounts": 3}, "<text>: is no OCI specification: mounts must be an array"),
        ({"process": {"args": "sh", "user": 3}}, "is no OCI specification: "),
        ({"linux": {"namespaces": [3]}}, r"linux.namespaces\[0\]: must be an object"),
        ({"linux": {"namespaces": 3}}, "linux.namespaces: must be a list"),
        ({"linux": 3}, "<text>: linux: must be an object"),
        ({"annotations": {"a": 1}}, "<text>: annotations.a: must be a text"),
    ],
)
def test_an_invalid_specification_is_refused(change: Any, text: str) -> None:
    with pytest.raises(ManifestError, match=text) as raised:
        load(json.dumps({**SPEC, **change}))
    assert "\n" not in str(raised.value)


def annotated(*, path: str = "", **annotations: str) -> dict[str, Any]:
    return {**SPEC, "annotations": annotations, "linux": {"cgroupsPath": path}}


CONTAINERD = {
    "io.kubernetes.cri.sandbox-id": "5" * 64,
    "io.kubernetes.cri.sandbox-name": "web",
    "io.kubernetes.cri.sandbox-namespace": "shop",
    "io.kubernetes.cri.sandbox-uid": "u1",
}
CRIO = {
    "io.kubernetes.cri-o.SandboxID": "5" * 64,
    "io.kubernetes.pod.name": "web",
    "io.kubernetes.pod.namespace": "shop",
    "io.kubernetes.pod.uid": "u1",
    "io.kubernetes.cri-o.Labels": '{"io.kubernetes.pod.name":"web","team":"x"}',
    "io.kubernetes.cri-o.Annotations": '{"io.kubernetes.container.hash":"abc"}',
}


@pytest.mark.parametrize(
    ("annotations", "kind"),
    [
        (CONTAINERD, "io.kubernetes.cri.container-type"),
        (CRIO, "io.kubernetes.cri-o.ContainerType"),
    ],
)
def test_a_sandbox_is_a_pod(annotations: dict[str, str], kind: str) -> None:
    path = f"kubepods-burstable-podu1.slice:cri-containerd:{'5' * 64}"
    sandbox = annotated(path=path, **annotations, **{kind: "sandbox"})
    workload = only(load(json.dumps(sandbox)))
    assert (workload.name, workload.pod.uid, workload.pod.id) == ("shop/web", "u1", "5" * 64)
    assert not workload.containers
    assert workload.pod.linux.cgroup_parent == "kubepods-burstable-podu1.slice"
    assert workload.pod.linux.cgroups_path == path
    assert "add the config.json of its containers" in workload.notes[-1]
    # The input also has the containers of the pod, in any order.
    names = ("io.kubernetes.cri.container-name", "io.kubernetes.container.name")
    members = [
        annotated(path=f"x:y:{id * 64}", **annotations, **dict.fromkeys(names, name), **{kind: "container"})
        for id, name in (("a", "one"), ("b", "two"))
    ]  # fmt: skip
    workload = only(load(json.dumps([members[0], sandbox, members[1]])))
    assert [item.name for item in workload.containers] == ["one", "two"]
    assert {item.container.pod_sandbox_id for item in workload.containers} == {"5" * 64}
    assert [item.name for item in only(load(json.dumps(members))).containers] == ["one", "two"]


def test_a_sandbox_of_crio_has_the_resources_of_its_pod() -> None:
    resources = '{"cpu_period":100000,"cpu_shares":20,"memory_limit_in_bytes":1048576}'
    annotations = {
        **CRIO,
        "io.kubernetes.cri-o.ContainerType": "sandbox",
        "io.kubernetes.cri-o.PodLinuxResources": resources,
        "io.kubernetes.cri-o.PodLinuxOverhead": "{}",
    }
    workload = only(
        load(json.dumps(annotated(path=f"/kubepods/podu1/crio-{'5' * 64}", **annotations)))
    )
    found = workload.pod.linux.pod_resources
    assert (found.cpu.shares.value, found.cpu.period.value) == (20, 100_000)
    assert found.memory.limit.value == 1 << 20
    assert not any("says nothing of the pod's resources" in note for note in workload.notes)
    # CRI-O's own annotations are not the pod's.
    assert set(workload.pod.annotations) == {"io.kubernetes.container.hash"}


def test_of_crio() -> None:
    spec = annotated(
        path=f"kubepods-podu1.slice:crio:{'a' * 64}",
        **CRIO,
        **{
            "io.kubernetes.container.name": "app",
            "io.kubernetes.cri-o.ContainerType": "container",
            "io.kubernetes.cri-o.ImageName": "quay.io/x/app:1",
            "io.kubernetes.cri-o.ImageRef": "f" * 64,
        },
    )
    workload = only(load(json.dumps(spec)))
    found = container(workload).container
    assert found.labels == {"io.kubernetes.pod.name": "web", "team": "x"}
    assert found.annotations["io.kubernetes.container.hash"] == "abc"
    assert (found.image.name, found.image.config_digest) == (
        "quay.io/x/app:1",
        f"sha256:{'f' * 64}",
    )
    assert (found.name, found.id) == ("app", "a" * 64)
    assert not any("labels" in note or "image" in note for note in workload.notes)


@pytest.mark.parametrize(
    ("ref", "digest", "config"),
    [
        (f"quay.io/x@sha256:{'d' * 64}", f"sha256:{'d' * 64}", ""),
        (f"sha256:{'f' * 64}", "", f"sha256:{'f' * 64}"),
        ("", "", ""),
    ],
)
def test_images_of_crio(ref: str, digest: str, config: str) -> None:
    names = {"io.kubernetes.cri-o.ImageName": "x:1", "io.kubernetes.cri-o.ImageRef": ref}
    found = container(only(load(json.dumps(annotated(**names))))).container.image
    assert (found.name, found.digest, found.config_digest) == ("x:1", digest, config)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("registry.example/x:2", "registry.example/x:2"),
        ("NOT AN IMAGE", ""),
    ],
)
def test_the_image_of_containerd(image: str, name: str) -> None:
    spec = annotated(**CONTAINERD, **{"io.kubernetes.cri.image-name": image})
    assert container(only(load(json.dumps(spec)))).container.image.name == name


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("{", "is not JSON: line 1"),
        ("[]", "must be an object, not a list"),
        ('{"a": 1}', "a: must be a text, not a whole number"),
        ("[" * 5000, "is not JSON: is nested too deeply"),
    ],
)
def test_annotations_of_crio_that_are_wrong(value: str, problem: str) -> None:
    with pytest.raises(ManifestError, match=problem) as raised:
        load(json.dumps(annotated(**{"io.kubernetes.cri-o.Labels": value})))
    assert "annotations[io.kubernetes.cri-o.Labels]" in str(raised.value)


def test_two_of_the_same_sandbox() -> None:
    sandbox = annotated(**CONTAINERD, **{"io.kubernetes.cri.container-type": "sandbox"})
    with pytest.raises(
        ManifestError, match="document 2: is of the same sandbox as <text>, document 1"
    ):
        load(json.dumps([sandbox, sandbox]))
