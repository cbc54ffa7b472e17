"""Pods that request an adjustment of the plugin, and a check of the results."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from tests.e2e.build import IMAGE
from tests.e2e.machine import wait_for
from tests.kubernetes.cluster import PATIENCE, Cluster

__all__ = ["HARD", "SOFT", "Count", "Pods"]

#: The request of each pod: a limit of open files.
HARD, SOFT = 4096, 2048
_ANNOTATION = f"""
- type: RLIMIT_NOFILE
  hard: {HARD}
  soft: {SOFT}
"""

_IN_DEFAULT = {"io.kubernetes.pod.namespace": "default"}
_POD_NAME = "io.kubernetes.pod.name"
_RUNNING = 1  # CONTAINER_RUNNING of CRI


@dataclass
class Count:
    """For some pods, the number of their containers, and those that the plugin has not adjusted."""

    containers: int = 0
    unadjusted: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{len(self.unadjusted)} of {self.containers} unadjusted"


class Pods:
    """Creates pods with a common prefix, each with a container of the test image, on the node's network."""

    def __init__(self, cluster: Cluster, prefix: str) -> None:
        self.cluster = cluster
        self.prefix = prefix
        self.names: list[str] = []

    def create(self, count: int = 1, **fields: Any) -> None:
        for _ in range(count):
            name = f"{self.prefix}-{len(self.names)}"
            self.cluster.create_pod(self._manifest(name, fields))
            self.names.append(name)

    def _manifest(self, name: str, fields: dict[str, Any]) -> dict[str, Any]:
        container = {
            "name": "main",
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "resources": fields.pop("resources", {}),
        }
        annotations = {"ulimits.noderesource.dev/container.main": _ANNOTATION}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": {"app": self.prefix},
                "annotations": {**annotations, **fields.pop("annotations", {})},
            },
            "spec": {
                "hostNetwork": True,
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "containers": [container],
                **fields,
            },
        }

    @contextlib.contextmanager
    def steadily(self, each: float, count: int) -> Iterator[None]:
        """Create a pod every ``each`` seconds, beginning before the block. Blocks until all are created."""
        begun = threading.Event()
        failures: list[BaseException] = []

        def work() -> None:
            try:
                due = time.monotonic()
                for number in range(count):
                    time.sleep(max(0.0, due - time.monotonic()))
                    self.create()
                    due += each
                    if number >= count // 10:
                        begun.set()
            except BaseException as error:
                failures.append(error)
            finally:
                begun.set()

        thread = threading.Thread(target=work, name="pods")
        thread.start()
        assert begun.wait(PATIENCE)
        try:
            yield
        finally:
            thread.join(PATIENCE)
        assert failures == []

    def wait_running(self) -> None:
        self.cluster.wait(lambda: self.running() == len(self.names), f"all pods of {self.prefix}")

    def running(self) -> int:
        path = "{.items[*].status.containerStatuses[*].state.running.startedAt}"
        return len(
            self.cluster.kubectl("get", "pods", *self._chosen, "-o", f"jsonpath={path}").split()
        )

    @property
    def _chosen(self) -> list[str]:
        return ["-l", f"app={self.prefix}"]

    def count(self) -> Count:
        """Check the specification with which each container was created."""
        count = Count()
        call = self.cluster.cri.call
        chosen = {"label_selector": _IN_DEFAULT}
        for container in call("ListContainers", filter=chosen).containers:
            name = container.labels[_POD_NAME]
            if name not in self.names:
                continue
            try:
                status = call("ContainerStatus", container_id=container.id, verbose=True)
            except grpc.RpcError:
                continue  # its creation has failed, and it is gone
            limits = json.loads(status.info["info"])["runtimeSpec"]["process"].get("rlimits", [])
            count.containers += 1
            if {"type": "RLIMIT_NOFILE", "hard": HARD, "soft": SOFT} not in limits:
                count.unadjusted.append(name)
        return count

    def remove(self) -> None:
        """Remove the pods. Blocks until none of their containers runs."""
        command = ("delete", "pods", *self._chosen, "--grace-period=0", "--force")
        self.cluster.kubectl(*command)
        wait_for(lambda: not self._running_containers(), PATIENCE)
        self.names = []

    def _running_containers(self) -> list[str]:
        chosen = {"state": {"state": _RUNNING}, "label_selector": _IN_DEFAULT}
        found = self.cluster.cri.call("ListContainers", filter=chosen).containers
        return [item.id for item in found if item.labels[_POD_NAME] in self.names]
