"""Specifications of containers and sandboxes."""

from __future__ import annotations

import re
from typing import Any

import pytest

from nri_sync.api import User
from nri_sync.testing.manifests.containerd import (
    ALL_CAPABILITIES,
    cgroups_path,
    container_spec,
    sandbox_spec,
)
from nri_sync.testing.manifests.cri import (
    ContainerConfig,
    IDMapping,
    MountConfig,
    Resources,
    SandboxConfig,
    Security,
)
from nri_sync.testing.manifests.model import Assumptions

__all__: list[str] = []

SANDBOXES = "io.containerd.grpc.v1.cri/sandboxes/sandbox"


def sandbox(**more: Any) -> SandboxConfig:
    values = {"hostname": "pod", "cgroup_parent": "/kubepods/podu", **more}
    return SandboxConfig("sandbox", "pod", "shop", "u", 77, ["10.0.0.1"], **values)


def spec(
    assumptions: Assumptions | None = None, of: SandboxConfig | None = None, **more: Any
) -> Any:
    values = {"args": ["sh"], "env": {}, **more}
    config = ContainerConfig(
        "ctr", "app", "busybox", "docker.io/library/busybox", "d", "i", **values
    )
    return container_spec(config, of or sandbox(), assumptions or Assumptions())


def destinations(found: Any) -> list[str]:
    return [mount["destination"] for mount in found["mounts"]]


def test_process() -> None:
    found = spec(
        env={"A": "1", "PATH": "/bin"},
        image_env=["PATH=/image", "B=2", "A=0"],
        cwd="/srv",
        security=Security(user=User(uid=5, gid=6), supplemental_groups=[9, 7]),
        resources=Resources(oom_score_adj=999),
    )["process"]
    assert found["args"] == ["sh"]
    assert found["cwd"] == "/srv"
    # Variables replace defaults only. A variable of both the image and the manifest appears twice.
    assert found["env"] == ["PATH=/bin", "HOSTNAME=pod", "B=2", "A=0", "A=1"]
    assert found["user"] == {"uid": 5, "gid": 6, "additionalGids": [6, 7, 9]}
    assert found["oomScoreAdj"] == 999
    assert not {"terminal", "noNewPrivileges", "apparmorProfile", "rlimits"} & found.keys()


@pytest.mark.parametrize(
    ("image", "own", "env"),
    [
        (["HOSTNAME=image"], {}, ["PATH=default", "HOSTNAME=image"]),
        (["HOSTNAME=image"], {"HOSTNAME": "own"}, ["PATH=default", "HOSTNAME=own"]),
        (["PATH"], {}, ["HOSTNAME=pod"]),
        (["A", "B="], {}, ["PATH=default", "HOSTNAME=pod", "B="]),
        (["A=1", "A=2"], {"A": ""}, ["PATH=default", "HOSTNAME=pod", "A=1", "A=2", "A="]),
    ],
)
def test_variables(image: list[str], own: dict[str, str], env: list[str]) -> None:
    """``replaceOrAppendEnvValues`` in containerd, ``pkg/oci``."""
    path = spec()["process"]["env"][0]
    found = spec(env=own, image_env=image)["process"]["env"]
    assert found == [path if entry == "PATH=default" else entry for entry in env]


@pytest.mark.parametrize("disabled", [True, False])
def test_the_configuration_decides_on_limits_of_huge_pages(disabled: bool) -> None:
    resources = Resources(huge_pages={"2MB": 5})
    found = spec(Assumptions(disable_hugetlb_controller=disabled), resources=resources)
    limits = found["linux"]["resources"].get("hugepageLimits")
    assert limits == (None if disabled else [{"pageSize": "2MB", "limit": 5}])


def test_a_process_namespace_of_another_container() -> None:
    found = spec(target_pid=4711)["linux"]["namespaces"]
    assert found[0] == {"type": "pid", "path": "/proc/4711/ns/pid"}


def test_a_capability_that_has_its_prefix_already() -> None:
    security = Security(add_capabilities=["CAP_NET_ADMIN"], drop_capabilities=["CAP_CHOWN"])
    bounding = spec(security=security)["process"]["capabilities"]["bounding"]
    assert "CAP_CAP_NET_ADMIN" in bounding
    assert "CAP_NET_ADMIN" not in bounding
    assert "CAP_CHOWN" in bounding


def test_optional_fields_of_the_process() -> None:
    found = spec(tty=True, security=Security(no_new_privileges=True, apparmor="mine"))["process"]
    assert found["terminal"]
    assert found["noNewPrivileges"]
    assert found["apparmorProfile"] == "mine"
    assert found["env"][1:] == ["TERM=xterm", "HOSTNAME=pod"]


def test_on_the_host_s_network_the_name_is_the_node_s() -> None:
    found = spec(Assumptions(node_name="worker"), sandbox(hostname=""))
    assert "HOSTNAME=worker" in found["process"]["env"]


@pytest.mark.parametrize(
    ("add", "drop", "there", "not_there"),
    [
        ([], [], {"CAP_CHOWN", "CAP_NET_RAW"}, {"CAP_SYS_ADMIN"}),
        (["SYS_ADMIN", "chown"], ["NET_RAW"], {"CAP_CHOWN", "CAP_SYS_ADMIN"}, {"CAP_NET_RAW"}),
        (["NET_BIND_SERVICE"], ["ALL"], {"CAP_NET_BIND_SERVICE"}, {"CAP_CHOWN"}),
        (["ALL"], ["SYS_TIME"], set(ALL_CAPABILITIES) - {"CAP_SYS_TIME"}, {"CAP_SYS_TIME"}),
    ],
)
def test_capabilities(add: Any, drop: Any, there: set[str], not_there: set[str]) -> None:
    security = Security(add_capabilities=add, drop_capabilities=drop)
    found = spec(security=security)["process"]["capabilities"]
    assert found.keys() == {"bounding", "effective", "permitted"}
    for names in found.values():
        assert there <= set(names)
        assert not not_there & set(names)
        assert len(set(names)) == len(names)


def test_namespaces() -> None:
    assert spec()["linux"]["namespaces"] == [
        {"type": "pid"},
        {"type": "ipc", "path": "/proc/77/ns/ipc"},
        {"type": "uts", "path": "/proc/77/ns/uts"},
        {"type": "mount"},
        {"type": "network", "path": "/proc/77/ns/net"},
        {"type": "cgroup"},
    ]


@pytest.mark.parametrize("shared", ["host_pid", "share_processes"])
def test_processes_that_are_shared(shared: str) -> None:
    found = spec(of=sandbox(**{shared: True}))["linux"]["namespaces"]
    assert found[0] == {"type": "pid", "path": "/proc/77/ns/pid"}


def test_no_cgroup_namespace_with_cgroup_v1_or_privileges() -> None:
    cgroup = {"type": "cgroup"}
    assert cgroup not in spec(Assumptions(cgroup_version=1))["linux"]["namespaces"]
    assert cgroup not in spec(security=Security(privileged=True))["linux"]["namespaces"]


def test_a_user_namespace() -> None:
    found = spec(
        of=sandbox(id_mappings=[IDMapping(0, 65536, 65536)], host_network=True),
        mounts=[MountConfig("/m", "/srv")],
    )
    mapping = [{"containerID": 0, "hostID": 65536, "size": 65536}]
    path = f"/proc/{sandbox().pid}/ns/user"
    assert found["linux"]["namespaces"][-1] == {"type": "user", "path": path}
    assert found["linux"]["uidMappings"] == found["linux"]["gidMappings"] == mapping
    mounted = {mount["destination"]: mount for mount in found["mounts"]}
    assert mounted["/m"]["uidMappings"] == mapping
    assert "uidMappings" not in mounted["/dev/shm"]
    # A container cannot mount the sysfs of a network namespace that does not belong to it.
    assert (mounted["/sys"]["type"], mounted["/sys"]["source"]) == ("bind", "/sys")


@pytest.mark.parametrize("host_network", [True, False])
def test_the_user_namespace_of_a_sandbox_owns_its_network(host_network: bool) -> None:
    config = sandbox(id_mappings=[IDMapping(0, 65536, 65536)], host_network=host_network)
    path = f"/run/containerd/{SANDBOXES}/pinned-namespaces/user"
    last = sandbox_spec(config)["linux"]["namespaces"][-1]
    assert last == {"type": "user", **({} if host_network else {"path": path})}


class TestMounts:
    def test_the_mounts_of_a_container_without_volumes(self) -> None:
        found = spec()
        assert destinations(found) == [
            "/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/sys/fs/cgroup",
            "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/dev/shm",
        ]  # fmt: skip
        sources = {mount["destination"]: mount["source"] for mount in found["mounts"]}
        assert sources["/etc/resolv.conf"] == f"/var/lib/containerd/{SANDBOXES}/resolv.conf"
        assert sources["/dev/shm"] == f"/run/containerd/{SANDBOXES}/shm"
        assert "rootfsPropagation" not in found["linux"]

    def test_mounts_of_the_container_replace_the_default_ones(self) -> None:
        found = spec(mounts=[MountConfig("/dev", "/dev"), MountConfig("/etc/hosts", "/h")])
        assert destinations(found) == [
            "/proc", "/sys", "/sys/fs/cgroup",
            "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/shm",
        ]  # fmt: skip

    def test_deeper_mounts_come_later(self) -> None:
        mounts = [MountConfig("/a/b/c", "/1"), MountConfig("/a/", "/2"), MountConfig("/a/b", "/3")]
        found = [d for d in destinations(spec(mounts=mounts)) if d.startswith("/a")]
        assert found == ["/a/", "/a/b", "/a/b/c"]

    @pytest.mark.parametrize(
        ("mount", "options", "rootfs"),
        [
            (MountConfig("/m", "/s"), "rbind rprivate rw", None),
            (MountConfig("/m", "/s", readonly=True), "rbind rprivate ro", None),
            (MountConfig("/m", "/s", readonly=True, recursive_readonly=True), "rbind rprivate rro", None),
            (MountConfig("/m", "/s", propagation="rslave"), "rbind rslave rw", "rslave"),
            (MountConfig("/m", "/s", propagation="rshared"), "rbind rshared rw", "rshared"),
        ],
    )  # fmt: skip
    def test_options(self, mount: MountConfig, options: str, rootfs: str | None) -> None:
        found = spec(mounts=[mount])
        [bind] = [item for item in found["mounts"] if item["destination"] == "/m"]
        assert bind["options"] == options.split()
        assert found["linux"].get("rootfsPropagation") == rootfs

    def test_files_are_read_only_where_the_root_is(self) -> None:
        found = spec(security=Security(readonly_root=True))
        assert found["root"] == {"path": "rootfs", "readonly": True}
        readonly = [m["destination"] for m in found["mounts"] if m["options"][-1] == "ro"]
        assert readonly[-3:] == ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"]

    def test_the_host_s_ipc(self) -> None:
        found = spec(of=sandbox(host_ipc=True))
        assert found["mounts"][-1]["source"] == "/dev/shm"

    def test_volumes_of_the_image(self) -> None:
        """``volumeMounts``: the paths of the image, each with a separate directory."""
        found = spec(
            image_volumes=["/cache/", "data", "/m/", "/etc/hosts"],
            mounts=[MountConfig("/m", "/srv")],
        )
        assert {"/cache/", "/data", "/etc/hosts"} <= set(destinations(found))
        assert "/m/" not in destinations(found)
        sources = {mount["destination"]: mount["source"] for mount in found["mounts"]}
        assert re.fullmatch(
            "/var/lib/containerd/io.containerd.grpc.v1.cri/containers/[^/]+/volumes/[0-9a-f]{64}",
            sources["/cache/"],
        )
        assert sources["/cache/"] != sources["/data"]


def test_privileged() -> None:
    found = spec(security=Security(privileged=True, masked_paths=["/proc/kcore"]))
    assert found["process"]["capabilities"]["effective"] == ALL_CAPABILITIES
    assert found["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert not {"maskedPaths", "readonlyPaths"} & found["linux"].keys()
    options = {m["destination"]: m["options"] for m in found["mounts"]}
    assert options["/sys"][-1] == options["/sys/fs/cgroup"][-1] == "rw"


def test_resources_and_paths() -> None:
    security = Security(masked_paths=["/proc/kcore"], readonly_paths=["/proc/sys"])
    linux = spec(resources=Resources(shares=2), security=security)["linux"]
    assert linux["resources"]["devices"] == [{"allow": False, "access": "rwm"}]
    assert linux["resources"]["cpu"] == {"shares": 2}
    assert (linux["maskedPaths"], linux["readonlyPaths"]) == (["/proc/kcore"], ["/proc/sys"])


@pytest.mark.parametrize(
    ("parent", "path"),
    [
        ("/kubepods/besteffort/podu", "/kubepods/besteffort/podu/id"),
        ("/kubepods.slice/kubepods-podu.slice", "kubepods-podu.slice:cri-containerd:id"),
    ],
)
def test_paths_of_cgroups(parent: str, path: str) -> None:
    assert cgroups_path(parent, "id") == path


def test_annotations() -> None:
    assert spec()["annotations"] == {
        "io.kubernetes.cri.container-name": "app",
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.image-name": "busybox",
        "io.kubernetes.cri.sandbox-id": "sandbox",
        "io.kubernetes.cri.sandbox-name": "pod",
        "io.kubernetes.cri.sandbox-namespace": "shop",
        "io.kubernetes.cri.sandbox-uid": "u",
    }


class TestSandbox:
    def test_annotations(self) -> None:
        resources = Resources(shares=512, quota=50_000, period=100_000, memory_limit=9)
        found = sandbox_spec(sandbox(resources=resources, log_directory="/var/log/pods/x"))
        told = {key.rpartition(".")[2]: value for key, value in found["annotations"].items()}
        assert told["container-type"] == "sandbox"
        assert told["sandbox-log-directory"] == "/var/log/pods/x"
        assert [told[f"sandbox-{name}"] for name in ("cpu-shares", "cpu-quota", "cpu-period")] == [
            "512", "50000", "100000",
        ]  # fmt: skip
        assert told["sandbox-memory"] == "9"

    def test_namespaces(self) -> None:
        def types(**more: Any) -> list[str]:
            found = sandbox_spec(sandbox(**more))["linux"]["namespaces"]
            return [item["type"] for item in found]

        assert types() == ["pid", "ipc", "uts", "mount", "network"]
        assert types(host_network=True) == ["pid", "ipc", "mount"]
        assert types(host_pid=True, host_ipc=True) == ["uts", "mount", "network"]
        assert types(id_mappings=[IDMapping(0, 1, 1)])[-1] == "user"
