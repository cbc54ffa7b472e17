"""Plugins that record their calls, and messages for requests."""

from __future__ import annotations

import queue
import threading
from typing import Any

from google.protobuf import json_format

from nri_sync import api
from nri_sync.api import nri_pb2
from tests.interop.goruntime import Release

__all__ = [
    "CONTAINER", "FULL_ADJUSTMENT", "POD", "PROMPTLY", "RESOURCES", "Recorder", "Slow", "Validator", "known_to",
    "padded", "padding", "update_of", "without_empty",
]  # fmt: skip

# A time limit in seconds, longer than any step takes, and shorter than a test may last.
PROMPTLY = 15.0

POD = nri_pb2.PodSandbox(
    id="pod0",
    name="pod",
    uid="uid0",
    namespace="default",
    labels={"app": "test"},
    annotations={"a": "b"},
    runtime_handler="runc",
)
CONTAINER = nri_pb2.Container(
    id="ctr0",
    pod_sandbox_id="pod0",
    name="ctr",
    state=nri_pb2.CONTAINER_CREATED,
    args=["sh", "-c", "true"],
    env=["A=B"],
    labels={"l": "m"},
)
RESOURCES = nri_pb2.LinuxResources(
    memory=nri_pb2.LinuxMemory(limit=nri_pb2.OptionalInt64(value=1 << 30)),
    cpu=nri_pb2.LinuxCPU(shares=nri_pb2.OptionalUInt64(value=2), cpus="0-1"),
)


class Recorder:
    """A plugin with every handler. It records each call, and gives the answer in `answers`.

    An answer may be a value, an exception to raise, or a function of the arguments.
    """

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.calls: queue.SimpleQueue[tuple[str, tuple[Any, ...]]] = queue.SimpleQueue()

    def next_call(self) -> tuple[str, tuple[Any, ...]]:
        return self.calls.get(timeout=PROMPTLY)

    def expect(self, name: str) -> tuple[Any, ...]:
        """The arguments of the next call, which has to be of that handler."""
        called, args = self.next_call()
        assert called == name
        return args

    def _handle(self, name: str, *args: Any) -> Any:
        self.calls.put((name, args))
        answer = self.answers.get(name)
        if isinstance(answer, Exception):
            raise answer
        return answer(*args) if callable(answer) else answer

    def configure(self, config: str, runtime: str, version: str) -> Any:
        return self._handle("configure", config, runtime, version)

    def synchronize(self, pods: Any, containers: Any) -> Any:
        return self._handle("synchronize", pods, containers)

    def run_pod_sandbox(self, pod: Any) -> Any:
        return self._handle("run_pod_sandbox", pod)

    def update_pod_sandbox(self, pod: Any, overhead: Any, resources: Any) -> Any:
        return self._handle("update_pod_sandbox", pod, overhead, resources)

    def post_update_pod_sandbox(self, pod: Any) -> Any:
        return self._handle("post_update_pod_sandbox", pod)

    def stop_pod_sandbox(self, pod: Any) -> Any:
        return self._handle("stop_pod_sandbox", pod)

    def remove_pod_sandbox(self, pod: Any) -> Any:
        return self._handle("remove_pod_sandbox", pod)

    def create_container(self, pod: Any, container: Any) -> Any:
        return self._handle("create_container", pod, container)

    def post_create_container(self, pod: Any, container: Any) -> Any:
        return self._handle("post_create_container", pod, container)

    def start_container(self, pod: Any, container: Any) -> Any:
        return self._handle("start_container", pod, container)

    def post_start_container(self, pod: Any, container: Any) -> Any:
        return self._handle("post_start_container", pod, container)

    def update_container(self, pod: Any, container: Any, resources: Any) -> Any:
        return self._handle("update_container", pod, container, resources)

    def post_update_container(self, pod: Any, container: Any) -> Any:
        return self._handle("post_update_container", pod, container)

    def stop_container(self, pod: Any, container: Any) -> Any:
        return self._handle("stop_container", pod, container)

    def remove_container(self, pod: Any, container: Any) -> Any:
        return self._handle("remove_container", pod, container)


class Slow(Recorder):
    """A plugin whose creation of a container waits until the test releases it."""

    def __init__(self) -> None:
        super().__init__(create_container=self._wait)
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def _wait(self, pod: object, container: object) -> nri_pb2.ContainerAdjustment:
        self.entered.set()
        self.go_on.wait(PROMPTLY)
        return padded(10)


class Validator(Recorder):
    def validate_container_adjustment(self, request: Any) -> Any:
        return self._handle("validate_container_adjustment", request)


def padding(reply: nri_pb2.CreateContainerResponse) -> str:
    return reply.adjust.annotations["padding"]


def padded(size: int) -> nri_pb2.ContainerAdjustment:
    return nri_pb2.ContainerAdjustment(annotations={"padding": "x" * size})


def update_of(container_id: str, shares: int = 5) -> nri_pb2.ContainerUpdate:
    update = nri_pb2.ContainerUpdate(container_id=container_id)
    update.linux.resources.cpu.shares.value = shares
    return update


def without_empty(message: Any) -> Any:
    """A message as JSON data without empty submessages, which the Go implementation sometimes adds."""

    def strip(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        stripped = {key: strip(item) for key, item in value.items()}
        return {key: item for key, item in stripped.items() if item not in ({}, [])}

    return strip(json_format.MessageToDict(message, preserving_proto_field_name=True))


def known_to(release: Release, adjustment: dict[str, Any]) -> dict[str, Any]:
    """The part of an adjustment that a release of the Go implementation passes on."""
    message = json_format.ParseDict(adjustment, nri_pb2.ContainerAdjustment())
    known: dict[str, Any] = without_empty(message)
    for path in api.unknown_fields(message, release.nri):
        *parents, last = path.split(".")
        holder = known
        for parent in parents:
            holder = holder[parent]
        del holder[last]
    if not release.has_pod_updates_and_validation:
        # These releases have the field, but drop its content from plugins.
        del known["linux"]["resources"]["devices"]
    return known


HOOK = {"path": "/bin/hook", "args": ["hook"], "env": ["X=Y"], "timeout": {"value": "3"}}
FULL_ADJUSTMENT: dict[str, Any] = {
    "annotations": {"key": "value"},
    "mounts": [
        {"destination": "/mnt", "type": "bind", "source": "/src", "options": ["ro", "rbind"]}
    ],
    "env": [{"key": "KEY", "value": "value"}],
    "hooks": {
        stage: [HOOK]
        for stage in (
            *("prestart", "create_runtime", "create_container"),
            *("start_container", "poststart", "poststop"),
        )
    },
    "rlimits": [{"type": "RLIMIT_NOFILE", "hard": "10", "soft": "5"}],
    "CDI_devices": [{"name": "vendor.com/device=one"}],
    "args": ["run", "this"],
    "linux": {
        "devices": [
            {
                "path": "/dev/one", "type": "c", "major": "10", "minor": "20",
                "file_mode": {"value": 438}, "uid": {"value": 1}, "gid": {"value": 2},
            }
        ],
        "cgroups_path": "/some/where",
        "oom_score_adj": {"value": "100"},
        "io_priority": {"class": "IOPRIO_CLASS_BE", "priority": 3},
        "seccomp_policy": {"default_action": "SCMP_ACT_ALLOW"},
        "namespaces": [{"type": "network", "path": "/run/netns/one"}],
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "net_devices": {"eth1": {"name": "net1"}},
        "scheduler": {"policy": "SCHED_FIFO", "priority": 5},
        "rdt": {"clos_id": {"value": "gold"}, "schemata": {"value": ["L3:0=f"]}},
        "memory_policy": {"mode": "MPOL_BIND", "nodes": "0"},
        "resources": {
            "memory": {
                "limit": {"value": "1000000"}, "reservation": {"value": "1000"},
                "swap": {"value": "2000000"}, "swappiness": {"value": "10"},
                "disable_oom_killer": {"value": True},
            },
            "cpu": {
                "shares": {"value": "100"}, "quota": {"value": "-1"}, "period": {"value": "100000"},
                "cpus": "0-3", "mems": "0",
            },
            "hugepage_limits": [{"page_size": "2MB", "limit": "4194304"}],
            "blockio_class": {"value": "slow"},
            "rdt_class": {"value": "silver"},
            "unified": {"memory.high": "1000"},
            "devices": [
                {
                    "allow": True, "type": "c", "major": {"value": "10"}, "minor": {"value": "20"},
                    "access": "rw",
                }
            ],
            "pids": {"limit": "100"},
        },
    },
}  # fmt: skip
