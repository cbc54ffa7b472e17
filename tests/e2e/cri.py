"""The Container Runtime Interface, called like the kubelet does: a grpcio client, with its pods and containers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tests.e2e.build import IMAGE

__all__ = ["Container", "Cri", "Pod"]

TIMEOUT = 60.0
# A value of the namespace options: the host's network.
NODE = 2


class Cri:
    """Calls methods by name, with the fields of the request as arguments."""

    def __init__(self, schema: Path, socket_path: Path, cgroup_parent: str, logs: Path) -> None:
        self.cgroup_parent = cgroup_parent
        self.logs = logs
        self._numbers = itertools.count()
        pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(schema.read_bytes()).file:
            pool.Add(file)
        self._services = [
            pool.FindServiceByName(f"runtime.v1.{name}Service") for name in ("Runtime", "Image")
        ]
        self._channel = grpc.insecure_channel(f"unix://{socket_path}")

    def call(self, name: str, /, timeout: float = TIMEOUT, **fields: Any) -> Any:
        """The response. If the runtime is not up yet, waits for it."""
        for service in self._services:
            method = service.methods_by_name.get(name)
            if method is not None:
                break
        else:
            raise ValueError(f"CRI has no method {name}")
        request = message_factory.GetMessageClass(method.input_type)(**fields)
        response = message_factory.GetMessageClass(method.output_type)
        stub: Any = self._channel.unary_unary(
            f"/{service.full_name}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        return stub(request, timeout=timeout, wait_for_ready=True)

    def close(self) -> None:
        self._channel.close()

    def run_pod(
        self,
        *,
        annotations: Mapping[str, str] | None = None,
        own_network: bool = False,
    ) -> Pod:
        """Run a pod with the next number, on the host's network, or with ``own_network`` on its own."""
        name = f"pod{next(self._numbers)}"
        logs = self.logs / name
        logs.mkdir(parents=True)
        config = {
            "metadata": {"name": name, "namespace": "e2e", "uid": f"uid-{name}"},
            "annotations": dict(annotations or {}),
            "log_directory": str(logs),
            "linux": {
                "cgroup_parent": self.cgroup_parent,
                "security_context": {"namespace_options": {} if own_network else {"network": NODE}},
            },
        }
        return Pod(self, self.call("RunPodSandbox", config=config).pod_sandbox_id, config)

    def remove_all(self) -> None:
        for pod in self.call("ListPodSandbox").items:
            self.call("StopPodSandbox", pod_sandbox_id=pod.id)
            self.call("RemovePodSandbox", pod_sandbox_id=pod.id)


class Pod:
    """A pod sandbox."""

    def __init__(self, cri: Cri, id: str, config: dict[str, Any]) -> None:
        self.cri = cri
        self.id = id
        self.config = config
        self.name = config["metadata"]["name"]
        self._numbers = itertools.count()

    @property
    def pid(self) -> int:
        status = self.cri.call("PodSandboxStatus", pod_sandbox_id=self.id, verbose=True)
        return int(json.loads(status.info["info"])["pid"])

    def create(
        self,
        *,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        resources: Mapping[str, Any] | None = None,
    ) -> Container:
        """Create a container with the next number."""
        name = f"ctr{next(self._numbers)}"
        config: dict[str, Any] = {
            "metadata": {"name": name},
            "image": {"image": IMAGE, "user_specified_image": IMAGE},
            # A label of the kubelet, from which CRI-O takes the name for plugins.
            "labels": {"io.kubernetes.container.name": name},
            "args": list(args),
            "envs": [{"key": key, "value": value.encode()} for key, value in (env or {}).items()],
            "log_path": f"{name}.log",
            "linux": {"resources": dict(resources or {})},
        }
        response = self.cri.call(
            "CreateContainer", pod_sandbox_id=self.id, config=config, sandbox_config=self.config
        )
        return Container(self.cri, response.container_id, name)

    def run(self, **options: Any) -> Container:
        """Create a container and start it."""
        container = self.create(**options)
        container.start()
        return container

    def stop(self) -> None:
        self.cri.call("StopPodSandbox", pod_sandbox_id=self.id)

    def remove(self) -> None:
        """Stop and remove the pod, with its containers."""
        self.stop()
        self.cri.call("RemovePodSandbox", pod_sandbox_id=self.id)


class Container:
    """A container of a pod."""

    def __init__(self, cri: Cri, id: str, name: str) -> None:
        self.cri = cri
        self.id = id
        self.name = name

    def start(self) -> None:
        self.cri.call("StartContainer", container_id=self.id)

    def stop(self, timeout: int = 5) -> None:
        """Stop the container, and kill it after ``timeout`` seconds. Blocks until it has ended."""
        self.cri.call("StopContainer", container_id=self.id, timeout=timeout)

    def remove(self) -> None:
        self.cri.call("RemoveContainer", container_id=self.id)

    def update(self, **resources: Any) -> None:
        self.cri.call("UpdateContainerResources", container_id=self.id, linux=resources)

    def execute(self, *command: str) -> Any:
        """Run the probe program in the container; the response has exit_code, stdout and stderr."""
        return self.cri.call("ExecSync", container_id=self.id, cmd=["/probe", *command], timeout=20)

    @property
    def running(self) -> bool:
        status = self.cri.call("ContainerStatus", container_id=self.id).status
        return bool(status.state == 1)

    @property
    def info(self) -> Any:
        """The runtime's information about the container: its pid, and its OCI specification."""
        status = self.cri.call("ContainerStatus", container_id=self.id, verbose=True)
        return json.loads(status.info["info"])

    @property
    def pid(self) -> int:
        return int(self.info["pid"])
