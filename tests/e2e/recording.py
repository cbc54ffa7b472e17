"""The messages of a runtime about pods that crictl makes, as a kubelet would for manifests."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nri_sync
from nri_sync.testing.manifests import Kind
from nri_sync.testing.manifests.cri import MountConfig
from nri_sync.testing.simulation.resize import resize
from tests.e2e.build_crio import build_crictl
from tests.e2e.crictl import Crictl, container_config, requested, sandbox_config
from tests.e2e.inside import CGROUP2, CGROUPS
from tests.e2e.node import Node
from tests.recorded import scenarios
from tests.recorded.messages import Event, plain
from tests.recorded.recorder import MessageRecorder, Request
from tests.recorded.rules import substituted

__all__ = ["Recorded", "node_of", "places_of", "record"]

_KUBELET = "/var/lib/kubelet"


@dataclass
class Recorded:
    """The events of a pod, and the output of crictl while its containers ran."""

    events: list[list[Event]]
    outputs: list[Any]


def node_of(node: Node) -> dict[str, Any]:
    """The node, for a simulation."""
    return {
        "runtime": node.name,
        "hostname": socket.gethostname(),
        "pod_ip": "10.99.0.2",  # of tests.e2e.node.NETWORK_PLUGIN
        "cgroup_version": 2 if CGROUP2 else 1,
        "systemd_cgroups": False,
        "disable_hugetlb_controller": getattr(node, "disable_hugetlb_controller", False),
        # runc fails with any where there is no such cgroup.
        "huge_page_sizes": [],
        "swap_limits": CGROUP2 or (CGROUPS / "memory" / "memory.memsw.limit_in_bytes").exists(),
    }


def places_of(node: Node) -> dict[str, str]:
    """The directories of this node, and those of a simulated one."""
    root = str(node.root)
    found = {
        f"{root}/kubelet": _KUBELET,
        f"{root}/logs": "/var/log/pods",
        f"{node.cgroup}/kubepods": "/kubepods",
    }
    if node.name == "cri-o":
        found[f"{root}/ns/"] = "/var/run/"
        found[f"{root}/runroot"] = "/run/containers/storage"
        found[f"{root}/root"] = "/var/lib/containers/storage"
    else:
        state = f"{root}/state/io.containerd.grpc.v1.cri"
        found[f"{state}/netns/"] = "/var/run/netns/"
        found[f"{root}/state"] = "/run/containerd"
        found[f"{root}/root"] = "/var/lib/containerd"
    return found


def record(node: Node, name: str) -> Recorded:
    """The messages about the pod of a manifest. Blocks until it is removed."""
    return _Recording(node, name).recorded()


class _Recording:
    def __init__(self, node: Node, name: str) -> None:
        self.node = node
        directory = node.root / "crictl"
        directory.mkdir(exist_ok=True)
        self.crictl = Crictl(build_crictl(), node.root / "c.sock", directory)
        self.name = name
        self.recorder = MessageRecorder()
        self.facts = node_of(node)
        assumptions = scenarios.assumptions(self.facts)
        self.sandbox, self.containers = requested(scenarios.manifest(name), assumptions)

    def recorded(self) -> Recorded:
        recorder = self.recorder
        path = str(self.node.nri_socket)
        with nri_sync.Stub(recorder, name="recorder", idx="99", socket_path=path):
            outputs = self._live()
        places = places_of(self.node)
        return Recorded(plain(recorder.requests, places), substituted(outputs, places))

    def _live(self) -> list[Any]:
        run, root = self.crictl.run, self.node.root
        pod = sandbox_config(self.sandbox)
        logs = Path(self.sandbox.log_directory).name
        pod["log_directory"] = f"{root}/logs/{logs}"
        privileged = any(container.security.privileged for container in self.containers)
        pod["linux"]["security_context"]["privileged"] = privileged
        pod["linux"]["cgroup_parent"] = f"{self.node.cgroup}{self.sandbox.cgroup_parent}"
        Path(pod["log_directory"]).mkdir(parents=True, exist_ok=True)
        pod_file = self.crictl.file("pod.json", pod)
        handler = self.sandbox.runtime_handler
        pod_id = run("runp", *(["--runtime", handler] if handler else []), pod_file)
        [workload] = scenarios.workloads(scenarios.manifest(self.name), self.facts)
        kinds = {item.name: item.kind for item in workload.containers}
        ids: list[str] = []
        for container in self.containers:
            config = container_config(container, self.sandbox)
            for mount, made in zip(container.mounts, config["mounts"]):
                made["host_path"] = self._source(mount)
            (Path(pod["log_directory"]) / container.name).mkdir(exist_ok=True)
            ids.append(run("create", pod_id, self.crictl.file("container.json", config), pod_file))
            run("start", ids[-1])
            if kinds[container.name] is Kind.INIT:
                self._wait_stopped(ids[-1])
        outputs = [self.crictl.inspect("inspectp", pod_id)]
        outputs += [self.crictl.inspect("inspect", id) for id in ids]
        self._resize(ids)
        for id in ids:
            run("stop", "--timeout=5", id)
        run("stopp", pod_id)
        for id in ids:
            run("rm", id)
        run("rmp", pod_id)
        return outputs

    def _wait_stopped(self, id: str) -> None:
        def seen(requests: Sequence[Request]) -> bool:
            stops = [item for item in requests if item.event == "StopContainer"]
            return any(item.container is not None and item.container.id == id for item in stops)

        assert self.recorder.wait(seen)

    def _resize(self, ids: Sequence[str]) -> None:
        """The requests of a kubelet about containers: CRI-O's NRI knows none about pods."""
        target = scenarios.resized(self.name)
        if target is None:
            return
        files = scenarios.manifest(self.name), target
        before, after = (scenarios.workloads(file, self.facts)[0] for file in files)
        by_name = {item.name: id for item, id in zip(before.containers, ids)}
        for step in resize(before, after, before.containers):
            cpu, memory = step.resources.cpu, step.resources.memory
            if step.container is not None:
                options: dict[str, Any] = {
                    "cpu-period": cpu.period, "cpu-quota": cpu.quota, "cpu-share": cpu.shares,
                    "memory": memory.limit,
                }  # fmt: skip
                arguments = [f"--{key}={value.value}" for key, value in options.items()]
                self.crictl.run("update", *arguments, by_name[step.container.name])

    def _source(self, mount: MountConfig) -> str:
        """A file or directory of the kubelet's, made below the directory of the node."""
        if not mount.source.startswith(_KUBELET):
            return mount.source
        path = self.node.root / "kubelet" / Path(mount.source).relative_to(_KUBELET)
        path.parent.mkdir(parents=True, exist_ok=True)
        if mount.destination in ("/etc/hosts", "/dev/termination-log"):
            path.touch()
        else:
            path.mkdir(exist_ok=True)
        return str(path)
