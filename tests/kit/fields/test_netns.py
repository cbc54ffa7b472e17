from __future__ import annotations

import os
from pathlib import Path

import pytest

from nri_sync.api import Container, LinuxContainer, LinuxNamespace, LinuxPodSandbox, PodSandbox
from nri_sync.kit.fields.netns import network_namespace

__all__: list[str] = []

PATH = "/var/run/netns/cni-2f6b0a3e"
HOST = [("pid", ""), ("mount", "")]


def namespaces(pairs: list[tuple[str, str]]) -> list[LinuxNamespace]:
    return [LinuxNamespace(type=kind, path=path) for kind, path in pairs]


def a_pod(pairs: list[tuple[str, str]], pid: int = 0) -> PodSandbox:
    return PodSandbox(pid=pid, linux=LinuxPodSandbox(namespaces=namespaces(pairs)))


def a_container(pairs: list[tuple[str, str]]) -> Container:
    return Container(linux=LinuxContainer(namespaces=namespaces(pairs)))


@pytest.mark.parametrize(
    ("pod", "path"),
    [
        (a_pod([("pid", ""), ("network", PATH)], pid=7), PATH),
        (a_pod(HOST, pid=7), None),
        (a_pod([("network", "")], pid=7), "/proc/7/ns/net"),
        (a_pod([("network", "")]), None),
        (a_pod([], pid=7), None),
        (PodSandbox(), None),
    ],
)
def test_paths(pod: PodSandbox, path: str | None) -> None:
    assert network_namespace(pod, proc="/nowhere") == (path and path.replace("/proc", "/nowhere"))


def test_containers_name_the_namespace_if_the_pod_does_not() -> None:
    inside = a_container([("network", "/nowhere/7/ns/net")])
    assert network_namespace(PodSandbox(), [Container(), inside]) == "/nowhere/7/ns/net"
    assert network_namespace(PodSandbox(), [a_container(HOST), inside]) is None
    assert network_namespace(a_pod(HOST), [inside]) is None
    assert network_namespace(a_pod([("network", PATH)]), [inside]) == PATH


def test_proc_of_the_host() -> None:
    assert (
        network_namespace(a_pod([("network", "")], 7), proc="/host/proc") == "/host/proc/7/ns/net"
    )


@pytest.mark.parametrize("process", ["1", "self"])
def test_a_path_to_the_namespace_of_the_host(process: str, tmp_path: Path) -> None:
    # CRI-O pins the host's namespaces for a pod that uses them.
    host, own, pinned = tmp_path / process / "ns" / "net", tmp_path / "own", tmp_path / "pinned"
    host.parent.mkdir(parents=True)
    host.touch()
    own.touch()
    os.link(host, pinned)
    proc = str(tmp_path)
    assert network_namespace(a_pod([("network", str(pinned))]), proc=proc) is None
    assert network_namespace(a_pod([("network", str(own))]), proc=proc) == str(own)
    gone = str(tmp_path / "gone")
    assert network_namespace(a_pod([("network", gone)]), proc=proc) == gone
