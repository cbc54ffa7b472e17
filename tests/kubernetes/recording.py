"""The messages of a real node about the pods of many manifests, from their creation to their removal."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

import nri_sync
from nri_sync.testing.manifests import Assumptions, Kind
from tests.e2e.inside import CGROUP2, CGROUPS
from tests.kubernetes.cluster import NAME, PATIENCE, Cluster, address
from tests.recorded import scenarios
from tests.recorded.messages import Event, plain
from tests.recorded.recorder import MessageRecorder, Request
from tests.recorded.scenarios import NAMES

__all__ = ["node_of", "places_of", "record"]

_POD_IP = "10.99.0.2"  # of tests.e2e.node.NETWORK_PLUGIN
_PAGES = Path("/sys/kernel/mm/hugepages")


def node_of(cluster: Cluster) -> dict[str, Any]:
    """The node, for a simulation."""
    capacity = cluster.get("node", NAME)["status"]["capacity"]
    pages = sorted(int(path.name.split("-")[1][:-2]) for path in _PAGES.glob("hugepages-*"))
    swap = CGROUP2 or (CGROUPS / "memory" / "memory.memsw.limit_in_bytes").exists()
    return {
        "node_name": NAME,
        "hostname": socket.gethostname(),
        "node_ip": Assumptions.node_ip,
        "pod_ip": _POD_IP,
        "memory": int(capacity["memory"].removesuffix("Ki")) << 10,
        "cpus": int(capacity["cpu"]),
        "reserved_memory": 0,
        "cgroup_version": 2 if CGROUP2 else 1,
        "systemd_cgroups": False,
        "huge_page_sizes": [f"{size >> 10}MB" if size < 1 << 20 else f"{size >> 20}GB" for size in pages],
        "swap_limits": swap,
    }  # fmt: skip


def places_of(cluster: Cluster) -> dict[str, str]:
    """The directories and the address of this node, and those of a simulated one."""
    root = cluster.root
    return {
        f"{root}/kubelet": "/var/lib/kubelet",
        f"{root}/root": "/var/lib/containerd",
        f"{root}/state": "/run/containerd",
        f"{root}/pod-logs": "/var/log/pods",
        f"/{root.name}/kubepods": "/kubepods",
        # By ``netns_mounts_under_state_dir``, so that it is in a directory of the tests.
        "/run/containerd/io.containerd.grpc.v1.cri/netns/": "/var/run/netns/",
        address(): Assumptions.node_ip,
    }


def record(cluster: Cluster, names: Sequence[str] = NAMES) -> dict[str, list[list[Event]]]:
    """The events of the pods of each manifest. Blocks until all pods are removed."""
    node = _Node(cluster, node_of(cluster))
    recorder = node.recorder
    path = str(cluster.nri_socket)
    with nri_sync.Stub(recorder, name="recorder", idx="99", socket_path=path):
        node.create(names)
        for name in names:
            node.change(name)
        node.remove(names)
    places = places_of(cluster)
    return {
        name: plain(
            of_namespace(recorder.requests, name), places, generated=scenarios.is_generated(name)
        )
        for name in names
    }


def of_namespace(requests: Sequence[Request], name: str) -> list[Request]:
    return [request for request in requests if request.pod.namespace == name]


class _Node:
    def __init__(self, cluster: Cluster, node: dict[str, Any]) -> None:
        self.cluster = cluster
        self.node = node
        self.recorder = MessageRecorder()

    def create(self, names: Sequence[str]) -> None:
        """Blocks until all containers have been started."""
        spaces = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in names
        ]
        self._create(spaces)
        for name in names:
            self.cluster.wait_for_account(name)
        for name in names:
            self._create(
                [_without_ephemeral(item) for item in _documents(scenarios.manifest(name))]
            )
        for name in names:
            self._wait_started(name, ephemeral=False)

    def _create(self, documents: Sequence[Any]) -> None:
        self.cluster.kubectl("create", "-f", "-", input=yaml.safe_dump_all(documents))

    def _wait_started(self, name: str, *, ephemeral: bool) -> None:
        wanted = sum(
            ephemeral or item.kind is not Kind.EPHEMERAL
            for workload in scenarios.workloads(scenarios.manifest(name), self.node)
            for item in workload.containers
        )
        self._wait(name, "PostStartContainer", wanted)

    def _wait(self, name: str, event: str, wanted: int) -> None:
        def seen(requests: Sequence[Request]) -> bool:
            found = [item.event for item in of_namespace(requests, name)]
            return found.count(event) >= wanted

        assert self.recorder.wait(seen, PATIENCE), f"{name}: no {wanted} of {event}"

    def change(self, name: str) -> None:
        """Add ephemeral containers, or resize the pod, if the manifest has that."""
        for document in _documents(scenarios.manifest(name)):
            if document["kind"] == "Pod" and "ephemeralContainers" in document["spec"]:
                self._add_ephemeral(document)
                self._wait_started(name, ephemeral=True)
        target = scenarios.resized(name)
        for document in _documents(target) if target else ():
            self._resize(document)

    def _add_ephemeral(self, document: Any) -> None:
        namespace, name = document["metadata"]["namespace"], document["metadata"]["name"]
        pod = self.cluster.get("pod", name, "-n", namespace)
        pod["spec"]["ephemeralContainers"] = document["spec"]["ephemeralContainers"]
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/ephemeralcontainers"
        self.cluster.kubectl("replace", "--raw", path, "-f", "-", input=json.dumps(pod))

    def _resize(self, document: Any) -> None:
        namespace, name = document["metadata"]["namespace"], document["metadata"]["name"]
        spec = {
            key: [
                {"name": item["name"], "resources": item["resources"]}
                for item in document["spec"].get(key, ())
                if "resources" in item
            ]
            for key in ("initContainers", "containers")
        }
        patch = json.dumps({"spec": {key: items for key, items in spec.items() if items}})
        chosen = (name, "-n", namespace)
        self.cluster.kubectl("patch", "pod", *chosen, "--subresource=resize", "-p", patch)
        self.cluster.wait(lambda: _is_resized(self.cluster.get("pod", *chosen)), f"{namespace}")

    def remove(self, names: Sequence[str]) -> None:
        """Blocks until the pods are removed, which the kubelet does once a minute."""
        self.cluster.kubectl("delete", "namespace", *names, "--wait=false")
        for name in names:
            pods = {item.pod.id for item in of_namespace(self.recorder.requests, name)}
            self._wait(name, "RemovePodSandbox", len(pods))


def _documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def _without_ephemeral(document: Any) -> Any:
    """They can only be added to a pod that is there."""
    if document["kind"] == "Pod":
        document["spec"].pop("ephemeralContainers", None)
    return document


def _is_resized(pod: Any) -> bool:
    """Whether the kubelet has seen the new resources, and is through with them."""
    status = pod["status"]
    if status.get("observedGeneration") != pod["metadata"]["generation"]:
        return False
    conditions = [item["type"] for item in status["conditions"]]
    return not any(kind.startswith("PodResize") for kind in conditions)
