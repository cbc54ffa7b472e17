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

# As `runc spec` makes it, shortened.
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


def test_what_is_one() -> None:
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
def test_what_is_wrong(change: Any, text: str) -> None:
    with pytest.raises(ManifestError, match=text) as raised:
        load(json.dumps({**SPEC, **change}))
    assert "\n" not in str(raised.value)
