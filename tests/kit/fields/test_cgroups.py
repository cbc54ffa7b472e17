from __future__ import annotations

import os
from pathlib import Path

import pytest

from nri_sync.api import Container, LinuxContainer, LinuxPodSandbox, PodSandbox
from nri_sync.kit.fields.cgroups import (
    CgroupRoot,
    cgroup_name,
    cgroup_path,
    container_cgroup,
    expand_slice,
    pod_cgroup,
    pod_uid_of_cgroup,
    process_cgroup,
)

__all__: list[str] = []

UID = "f0a2cb1e-52a8-4f8c-9d1f-6d3d9c1c7e11"
SLICE = f"kubepods-burstable-pod{UID.replace('-', '_')}.slice"
EXPANDED = f"/kubepods.slice/kubepods-burstable.slice/{SLICE}"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("-.slice", "/"),
        ("system.slice", "/system.slice"),
        ("test-a-b.slice", "/test.slice/test-a.slice/test-a-b.slice"),
        (SLICE, EXPANDED),
    ],
)
def test_slices(name: str, path: str) -> None:
    assert expand_slice(name) == path


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".slice",
        "a",
        "a.scope",
        "a--b.slice",
        "-a.slice",
        "a-.slice",
        "/a.slice",
        "a-" * 125 + ".slice",
        "kubepods-" * 20000 + "pod.slice",
    ],
)
def test_an_invalid_slice_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a systemd slice"):
        expand_slice(name)


def test_the_longest_slice() -> None:
    name = f"{'a-' * 124}b.slice"
    assert len(name) == 255
    assert expand_slice(name).endswith(f"/{name}")
    for path in (f"{name}b.slice:x:y", f"a{name}:x:y"):
        with pytest.raises(ValueError, match="is not the name"):
            cgroup_path(path)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        (f"{SLICE}:cri-containerd:8c3d", f"{EXPANDED}/cri-containerd-8c3d.scope"),
        (f"{SLICE}:crio:8c3d", f"{EXPANDED}/crio-8c3d.scope"),
        (":cri-containerd:8c3d", "/system.slice/cri-containerd-8c3d.scope"),
        ("a.slice::8c3d", "/a.slice/8c3d.scope"),
        ("a.slice:x:b.slice", "/a.slice/b.slice"),
        ("/kubepods/burstable/podx/8c3d", "/kubepods/burstable/podx/8c3d"),
        ("//a/./b/", "/a/b"),
        ("/../../etc", "/etc"),
    ],
)
def test_paths(given: str, path: str) -> None:
    assert cgroup_path(given) == path


@pytest.mark.parametrize("given", ["", "8c3d", "a/b", "a:b"])
def test_only_the_runtime_knows_relative_paths(given: str) -> None:
    with pytest.raises(ValueError, match="neither absolute"):
        cgroup_path(given)


@pytest.mark.parametrize(
    ("parent", "path"),
    [
        (EXPANDED, EXPANDED),
        (SLICE, EXPANDED),
        ("/kubepods/podx", "/kubepods/podx"),
        ("k8s.io", "/k8s.io"),
        ("", None),
    ],
)
def test_pods(parent: str, path: str | None) -> None:
    assert pod_cgroup(PodSandbox(linux=LinuxPodSandbox(cgroup_parent=parent))) == path


def test_containers() -> None:
    container = Container(
        id="8c3d", linux=LinuxContainer(cgroups_path=f"{SLICE}:cri-containerd:8c3d")
    )
    assert container_cgroup(container) == f"{EXPANDED}/cri-containerd-8c3d.scope"
    assert container_cgroup(Container(id="8c3d")) is None


@pytest.mark.parametrize(
    ("sandbox", "path"),
    [
        (f"{SLICE}:crio:1f0a", f"{EXPANDED}/crio-8c3d.scope"),
        ("/kubepods/podx/crio-1f0a", "/kubepods/podx/crio-8c3d"),
        ("/kubepods/podx/other", None),
        ("", None),
    ],
)
def test_a_container_is_beside_its_sandbox(sandbox: str, path: str | None) -> None:
    pod = PodSandbox(id="1f0a", linux=LinuxPodSandbox(cgroups_path=sandbox))
    assert container_cgroup(Container(id="8c3d"), pod) == path


def test_a_path_becomes_the_cgroup_name_of_the_kubelet() -> None:
    assert cgroup_name(EXPANDED) == ("kubepods", "burstable", f"pod{UID}")
    assert cgroup_name("/kubepods/podx/") == ("kubepods", "podx")
    assert cgroup_name("/") == cgroup_name("") == ()


@pytest.mark.parametrize(
    ("path", "uid"),
    [
        (f"{EXPANDED}/cri-containerd-8c3d.scope", UID),
        (f"/kubepods/besteffort/pod{UID}/8c3d", UID),
        (f"/kubepods/pod{UID}", UID),
        ("/kubepods/burstable", None),
        ("/user.slice/user-podman.slice", None),
        ("/machine/podman", None),
        # A cgroup above those of the kubelet, and one that a process has made below its own.
        (f"/podman/kubepods/besteffort/pod{UID}", UID),
        (f"/kubepods/besteffort/pod{UID}/8c3d/kubepods/podforged", UID),
        (f"{EXPANDED}/cri-containerd-8c3d.scope/kubepods-podforged.slice", UID),
        ("/", None),
    ],
)
def test_the_pod_of_a_path(path: str, uid: str | None) -> None:
    assert pod_uid_of_cgroup(path) == uid


def test_the_cgroup_of_a_process(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text(
        "5:cpu,cpuacct:/kubepods/podx/8c3d\n1:name=systemd:/a:b\n0::/system.slice\n",
        encoding="utf-8",
    )
    proc = str(tmp_path)
    assert process_cgroup(7, "cpu", proc) == "/kubepods/podx/8c3d"
    assert process_cgroup(7, proc=proc) == "/system.slice"
    assert process_cgroup(7, "name=systemd", proc) == "/a:b"
    with pytest.raises(ValueError, match="process 7 has no cgroup of memory"):
        process_cgroup(7, "memory", proc)
    with pytest.raises(FileNotFoundError):
        process_cgroup(8, "memory", proc)


def test_this_process_is_in_the_directory_of_its_cgroup() -> None:
    root = CgroupRoot()
    path = process_cgroup(os.getpid(), "" if root.version == 2 else "memory")
    directory = root.directory(path, "memory")
    # In a cgroup namespace, or a container without one, the path need not be below the mount.
    if directory.exists():
        assert str(os.getpid()) in (directory / "cgroup.procs").read_text().split()


def test_directories_of_v2(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    root = CgroupRoot(str(tmp_path))
    assert root.version == 2
    assert root.directory(EXPANDED, "cpu") == tmp_path / EXPANDED[1:]
    assert root.directory("/../../x", "cpu") == tmp_path / "x", "never outside"


def test_directories_of_v1(tmp_path: Path) -> None:
    root = CgroupRoot(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        root.directory("/x", "memory")
    (tmp_path / "memory").mkdir()
    (tmp_path / "unified").mkdir()
    assert root.version == 1
    assert root.directory("/kubepods/podx", "memory") == tmp_path / "memory" / "kubepods" / "podx"
