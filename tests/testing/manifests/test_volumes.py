"""The host paths of volumes, and the mounts of containers."""

from __future__ import annotations

from typing import Any

import pytest

from nri_sync.testing.manifests.cri import MountConfig
from nri_sync.testing.manifests.defaults import defaulted
from nri_sync.testing.manifests.ids import uid
from nri_sync.testing.manifests.model import ManifestError
from nri_sync.testing.manifests.volumes import Volumes
from tests.testing.manifests import fields

__all__: list[str] = []

POD = "/var/lib/kubelet/pods/uid"


ROOT = f"{POD}/volumes/kubernetes.io"


def volumes(*sources: Any, notes: list[str] | None = None) -> Volumes:
    collected = [] if notes is None else notes
    return Volumes(
        defaulted(fields({"volumes": list(sources)}))[0],
        uid="uid",
        namespace="shop",
        pod_name="web-0",
        sandbox_id="sandbox",
        note=collected.append,
    )


def mount(held: Volumes, entry: Any, **container: Any) -> MountConfig:
    data = {"name": "app", "volumeMounts": [{"mountPath": "/m", **entry}], **container}
    return held.mounts(fields(data), {"POD": "web-0"}, hosts=False, termination_log="log")[0]


@pytest.mark.parametrize(
    ("source", "path", "readonly"),
    [
        ({"hostPath": {"path": "/srv"}}, "/srv", False),
        ({"emptyDir": {}}, f"{ROOT}~empty-dir/v", False),
        ({}, f"{ROOT}~empty-dir/v", False),
        ({"configMap": {"name": "c"}}, f"{ROOT}~configmap/v", True),
        ({"secret": {"secretName": "s"}}, f"{ROOT}~secret/v", True),
        ({"projected": {"sources": []}}, f"{ROOT}~projected/v", True),
        ({"downwardAPI": {"items": []}}, f"{ROOT}~downward-api/v", True),
        ({"nfs": {"server": "s", "path": "/", "readOnly": True}}, f"{ROOT}~nfs/v", True),
        ({"csi": {"driver": "d"}}, f"{ROOT}~csi/v/mount", False),
        ({"csi": {"driver": "d", "readOnly": True}}, f"{ROOT}~csi/v/mount", True),
    ],
)  # fmt: skip
def test_the_source_of_a_volume(source: Any, path: str, readonly: bool) -> None:
    notes: list[str] = []
    found = mount(volumes({"name": "v", **source}, notes=notes), {"name": "v"})
    assert (found.source, found.readonly) == (path, readonly)
    assert not notes


@pytest.mark.parametrize(
    ("source", "note"),
    [
        ({"persistentVolumeClaim": {"claimName": "data"}}, "claim data: assumed to be bound"),
        ({"ephemeral": {"volumeClaimTemplate": {}}}, "claim web-0-v: assumed to be bound"),
        ({"image": {"reference": "x"}}, "volume v: the digest of its image is made up"),
        ({"cephfs": {"monitors": []}}, "volume v (cephfs): its path on the node"),
    ],
)
def test_an_assumed_source_of_a_volume_is_noted(source: Any, note: str) -> None:
    notes: list[str] = []
    first = mount(volumes({"name": "v", **source}, notes=notes), {"name": "v"})
    assert [text.startswith(note) for text in notes] == [True]
    assert mount(volumes({"name": "v", **source}), {"name": "v"}) == first


def test_claims_of_a_stateful_set() -> None:
    held = volumes({"name": "other", "emptyDir": {}})
    held.claim("data")
    direct = volumes({"name": "v", "persistentVolumeClaim": {"claimName": "data-web-0"}})
    assert mount(held, {"name": "data"}).source == mount(direct, {"name": "v"}).source


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({}, MountConfig("/m", "/srv")),
        ({"mountPath": "m"}, MountConfig("/m", "/srv")),
        ({"readOnly": True}, MountConfig("/m", "/srv", readonly=True)),
        ({"mountPropagation": "HostToContainer"}, MountConfig("/m", "/srv", propagation="rslave")),
        ({"mountPropagation": "Bidirectional"}, MountConfig("/m", "/srv", propagation="rshared")),
        ({"mountPropagation": "None"}, MountConfig("/m", "/srv", propagation="rprivate")),
        ({"subPath": "a/b"}, MountConfig("/m", f"{POD}/volume-subpaths/v/app/0")),
        ({"subPathExpr": "$(POD)"}, MountConfig("/m", f"{POD}/volume-subpaths/v/app/0")),
        (
            {"readOnly": True, "recursiveReadOnly": "Enabled"},
            MountConfig("/m", "/srv", readonly=True, recursive_readonly=True),
        ),
        ({"recursiveReadOnly": "Disabled"}, MountConfig("/m", "/srv")),
    ],
)
def test_the_options_of_a_mount(entry: Any, expected: MountConfig) -> None:
    assert (
        mount(volumes({"name": "v", "hostPath": {"path": "/srv"}}), {"name": "v", **entry})
        == expected
    )


class TestOfTheKubelet:
    def mounts(self, *entries: Any, hosts: bool = True, **container: Any) -> dict[str, str]:
        held = volumes({"name": "v", "hostPath": {"path": "/srv"}})
        data = {"name": "app", "volumeMounts": entries and list(entries), **container}
        data["volumeMounts"] = list(entries)
        found = held.mounts(fields(data), {}, hosts=hosts, termination_log="log")
        return {mount.destination: mount.source for mount in found}

    def test_the_hosts_file_and_the_termination_message(self) -> None:
        log = f"{POD}/containers/app/log"
        found = self.mounts(terminationMessagePath="/dev/termination-log")
        assert found == {"/etc/hosts": f"{POD}/etc-hosts", "/dev/termination-log": log}
        assert self.mounts(hosts=False, terminationMessagePath="/tmp/words") == {"/tmp/words": log}

    def test_hosts_of_the_container_s_own(self) -> None:
        found = self.mounts({"name": "v", "mountPath": "/etc/hosts"})
        assert found["/etc/hosts"] == "/srv"


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"name": "w"}, "there is no volume 'w' in spec.volumes, which has: v"),
        ({"name": "v", "mountPath": ""}, "mountPath: is missing"),
        ({"name": "v", "subPath": "/etc"}, "subPath: '/etc' must be a path inside"),
        ({"name": "v", "subPath": "a/../../b"}, "must be a path inside"),
        ({"name": "v", "mountPropagation": "Shared"}, "'Shared' is none of None, HostToContainer"),
    ],
)
def test_a_mount_that_the_kubelet_refuses(entry: Any, text: str) -> None:
    with pytest.raises(ManifestError, match=text):
        mount(volumes({"name": "v", "emptyDir": {}}), entry)


def test_a_path_of_the_host_is_needed() -> None:
    with pytest.raises(ManifestError, match=r"hostPath\.path: is missing"):
        volumes({"name": "v", "hostPath": {"type": "Directory"}})


@pytest.mark.parametrize(
    "source", [{"emptyDir": None}, {"hostPath": None}, {"emptyDir": None, "csi": None, "nfs": None}]
)
def test_a_source_that_is_null_is_none(source: Any) -> None:
    notes: list[str] = []
    held = volumes({"name": "v", **source}, notes=notes)
    assert mount(held, {"name": "v"}).source == f"{ROOT}~empty-dir/v"
    assert not notes


@pytest.mark.parametrize(
    ("source", "claim"),
    [
        ({"persistentVolumeClaim": {"claimName": "db"}}, "db"),
        ({"ephemeral": {"volumeClaimTemplate": {}}}, "web-0-v"),
    ],
)
def test_sub_paths_of_claims_are_named_after_the_persistent_volume(source: Any, claim: str) -> None:
    """``ActualStateOfWorld.GetMountedVolumesForPod``: ``InnerVolumeSpecName``."""
    notes: list[str] = []
    held = volumes({"name": "v", **source}, notes=notes)
    whole = mount(held, {"name": "v"}).source
    name = whole.split("/")[-2]
    assert name.startswith("pvc-")
    assert name in notes[0]
    assert claim in notes[0]
    below = mount(held, {"name": "v", "subPath": "pg"}).source
    assert below == f"{POD}/volume-subpaths/{name}/app/0"


def test_sub_paths_of_other_volumes_are_named_after_the_volume() -> None:
    held = volumes({"name": "v", "emptyDir": {}})
    assert mount(held, {"name": "v", "subPath": "a"}).source == f"{POD}/volume-subpaths/v/app/0"


def test_claims_of_a_stateful_set_take_the_place_of_volumes_of_that_name() -> None:
    held = volumes({"name": "v", "emptyDir": {}})
    held.claim("v")
    assert "/kubernetes.io~csi/pvc-" in mount(held, {"name": "v"}).source


def test_volumes_of_images() -> None:
    """``mutateImageMount`` in containerd: one mount for each image and pod, with sub-paths below it."""
    digest = "1" * 64
    notes: list[str] = []
    held = volumes({"name": "v", "image": {"reference": f"x@sha256:{digest}"}}, notes=notes)
    root = f"/run/containerd/io.containerd.grpc.v1.cri/image-volumes/sandbox/{digest}"
    whole = mount(held, {"name": "v"})
    assert (whole.source, whole.readonly) == (root, True)
    assert mount(held, {"name": "v", "subPath": "a/b"}).source == f"{root}/a/b"
    assert not notes


@pytest.mark.parametrize(
    ("claim", "persistent", "path", "noted"),
    [
        ({}, {}, f"{ROOT}~csi/pvc-UID/mount", True),
        ({"metadata": {"uid": "u-1"}}, {}, f"{ROOT}~csi/pvc-u-1/mount", True),
        ({"spec": {"volumeName": "pv"}}, {}, f"{ROOT}~csi/pv/mount", True),
        ({"spec": {"volumeName": "pv"}}, {"csi": {"driver": "x"}}, f"{ROOT}~csi/pv/mount", False),
        ({"spec": {"volumeName": "pv"}}, {"nfs": {"server": "x"}}, f"{ROOT}~nfs/pv", False),
        ({"spec": {"volumeName": "pv"}}, {"local": {"path": "/d"}}, f"{ROOT}~local-volume/pv", False),
        ({"spec": {"volumeName": "pv"}}, {"hostPath": {"path": "/d"}}, "/d", False),
    ],
)  # fmt: skip
def test_claims_and_volumes_among_the_documents(
    claim: Any, persistent: Any, path: str, noted: bool
) -> None:
    notes: list[str] = []
    held = Volumes(
        fields({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "db"}}]}),
        uid="uid",
        namespace="shop",
        pod_name="web-0",
        note=notes.append,
        claims={("shop", "db"): fields(claim)},
        persistent={"pv": fields({"spec": persistent})},
    )
    made_up = uid("claim", "shop", "db")
    whole = mount(held, {"name": "v"}).source
    assert whole == path.replace("UID", made_up)
    assert bool(notes) is noted
    name = "pv" if "spec" in claim else f"pvc-{claim.get('metadata', {}).get('uid', made_up)}"
    assert mount(held, {"name": "v", "subPath": "a"}).source.endswith(
        f"/volume-subpaths/{name}/app/0"
    )
