"""Pods and containers for tests: their default values, and that every value can be set."""

from __future__ import annotations

import inspect
import re
from typing import Any, Callable

import pytest

from nri_sync import api
from nri_sync.api import optional
from nri_sync.testing.builders import make_container, make_pod, new_pid

__all__: list[str] = []

ID = re.compile(r"[0-9a-f]{64}")
# Linux assigns no process id above this.
PID_MAX = 4 * 1024 * 1024

MESSAGE_FIELDS = [
    *((make_pod, api.PodSandbox, field.name) for field in api.PodSandbox.DESCRIPTOR.fields),
    *((make_pod, api.LinuxPodSandbox, f.name) for f in api.LinuxPodSandbox.DESCRIPTOR.fields),
    *((make_container, api.Container, field.name) for field in api.Container.DESCRIPTOR.fields),
    *((make_container, api.LinuxContainer, f.name) for f in api.LinuxContainer.DESCRIPTOR.fields),
]


@pytest.mark.parametrize(
    ("build", "message", "field"),
    [item for item in MESSAGE_FIELDS if item[2] != "linux"],
    ids=lambda item: getattr(item, "__name__", item),
)
def test_every_field_can_be_chosen(build: Callable[..., Any], message: Any, field: str) -> None:
    assert field.lower() in inspect.signature(build).parameters


def test_chosen_values_of_a_pod() -> None:
    namespaces = [api.LinuxNamespace(type="network", path="/proc/1/ns/net")]
    pod_values: dict[str, Any] = {
        "name": "web", "namespace": "shop", "uid": "u", "id": "p", "runtime_handler": "kata", "pid": 7,
        "ips": ["10.0.0.1", "fd00::1"],
    }  # fmt: skip
    linux_values: dict[str, Any] = {
        "cgroup_parent": "/parent", "cgroups_path": "/path", "namespaces": namespaces,
        "pod_overhead": api.LinuxResources(cpu=api.LinuxCPU(cpus="1")),
        "pod_resources": api.LinuxResources(cpu=api.LinuxCPU(cpus="2")),
        "resources": api.LinuxResources(cpu=api.LinuxCPU(cpus="3")),
    }  # fmt: skip
    pod = make_pod(**pod_values, **linux_values)
    for name, value in pod_values.items():
        assert getattr(pod, name) == value
    for name, value in linux_values.items():
        assert getattr(pod.linux, name) == value


def test_chosen_values_of_a_container() -> None:
    values: dict[str, Any] = {
        "id": "c", "pod_sandbox_id": "other", "name": "app", "state": api.ContainerState.CONTAINER_RUNNING,
        "args": ["run"], "hooks": api.Hooks(poststop=[api.Hook(path="/h")]), "pid": 9,
        "rlimits": [api.POSIXRlimit(type="RLIMIT_CORE", hard=1)], "created_at": 1, "started_at": 2,
        "finished_at": 3, "exit_code": 4, "status_reason": "r", "status_message": "m",
        "user": api.User(uid=5), "image": api.Image(name="i"),
    }  # fmt: skip
    linux_values: dict[str, Any] = {
        "namespaces": [api.LinuxNamespace(type="pid")],
        "devices": [api.LinuxDevice(path="/dev/fuse", type="c", major=10, minor=229)],
        "resources": api.LinuxResources(cpu=api.LinuxCPU(cpus="3")),
        "cgroups_path": "/path",
        "io_priority": api.LinuxIOPriority(priority=1),
        "seccomp_profile": api.SecurityProfile(localhost_ref="l"),
        "seccomp_policy": api.LinuxSeccomp(default_action="SCMP_ACT_ALLOW"),
        "sysctl": {"a": "b"},
        "scheduler": api.LinuxScheduler(priority=2),
        "rdt": api.LinuxRdt(remove=True),
    }
    devices = [api.CDIDevice(name="vendor.com/class=device")]
    container = make_container(
        make_pod(), oom_score_adj=-5, cdi_devices=devices,
        net_devices={"eth0": api.LinuxNetDevice(name="n")}, **values, **linux_values,
    )  # fmt: skip
    for name, value in values.items():
        assert getattr(container, name) == value
    for name, value in linux_values.items():
        assert getattr(container.linux, name) == value
    assert container.CDI_devices == devices
    assert container.linux.net_devices["eth0"].name == "n"
    assert optional.get(container.linux, "oom_score_adj") == -5


def test_a_pod_is_like_one_of_a_node() -> None:
    pod = make_pod("web", namespace="shop", labels={"app": "web"}, annotations={"a": "b"})
    assert ID.fullmatch(pod.id)
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", pod.uid)
    assert pod.labels["io.kubernetes.pod.name"] == "web"
    assert pod.labels["io.kubernetes.pod.namespace"] == "shop"
    assert pod.labels["io.kubernetes.pod.uid"] == pod.uid
    assert pod.labels["app"] == "web"
    assert pod.annotations["a"] == "b"
    assert pod.annotations["io.kubernetes.cri.sandbox-id"] == pod.id
    assert pod.linux.cgroup_parent == f"/kubepods/besteffort/pod{pod.uid}"
    paths = {item.type: item.path for item in pod.linux.namespaces}
    assert paths["network"].startswith("/var/run/netns/cni-")


def test_a_container_is_like_one_of_a_node() -> None:
    pod = make_pod("web")
    container = make_container(pod, "app")
    assert ID.fullmatch(container.id)
    assert container.pod_sandbox_id == pod.id
    assert container.labels["io.kubernetes.container.name"] == "app"
    assert container.annotations["io.kubernetes.cri.sandbox-name"] == "web"
    assert "HOSTNAME=web" in container.env
    assert container.linux.cgroups_path == f"{pod.linux.cgroup_parent}/{container.id}"
    assert {"/proc", "/etc/hosts", "/dev/termination-log"} <= {
        m.destination for m in container.mounts
    }
    assert container.image.digest.startswith("sha256:")
    assert optional.get(container.linux, "oom_score_adj") == 1000
    assert optional.get(container.linux.resources.cpu, "shares") == 2
    shared = {item.type: item.path for item in container.linux.namespaces}
    assert shared["network"] == f"/proc/{pod.pid}/ns/net"


def test_a_given_entry_replaces_the_default_one() -> None:
    pod = make_pod(labels={"io.kubernetes.pod.name": "other"})
    hosts = api.Mount(destination="/etc/hosts", type="bind", source="/mine")
    container = make_container(
        pod, mounts=[hosts], env={"HOSTNAME": "mine"}, annotations={"io.kubernetes.container.hash": "h"}
    )  # fmt: skip
    assert pod.labels["io.kubernetes.pod.name"] == "other"
    assert [m.source for m in container.mounts if m.destination == "/etc/hosts"] == ["/mine"]
    assert [entry for entry in container.env if entry.startswith("HOSTNAME=")] == ["HOSTNAME=mine"]
    assert container.annotations["io.kubernetes.container.hash"] == "h"


def test_env_in_both_forms() -> None:
    pod = make_pod()
    assert make_container(pod, env={"A": "b=c"}).env[-1] == "A=b=c"
    assert make_container(pod, env=["A=b=c"]).env[-1] == "A=b=c"


def test_no_two_pods_or_containers_have_the_same_id() -> None:
    pods = [make_pod() for _ in range(3)]
    containers = [make_container(pods[0]) for _ in range(3)]
    assert len({pod.id for pod in pods} | {container.id for container in containers}) == 6
    assert len({pod.uid for pod in pods}) == 3


def test_no_process_of_this_machine_has_their_process_ids() -> None:
    assert make_pod().pid > PID_MAX
    assert new_pid() > PID_MAX


def test_no_oom_score_is_possible() -> None:
    container = make_container(make_pod(), oom_score_adj=None)
    assert not container.linux.HasField("oom_score_adj")


def test_the_digest_of_an_image_is_the_one_in_its_name() -> None:
    digest, id = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
    for name in (f"x@{digest}", f"reg.example/x:1@{digest}"):
        image = make_container(make_pod(), image=name).image
        assert (image.name, image.digest) == (name, digest)
        assert image.config_digest not in ("", digest)
    for name in (id, id[len("sha256:") :]):
        image = make_container(make_pod(), image=name).image
        assert image.config_digest == id
        assert image.digest not in ("", id)
