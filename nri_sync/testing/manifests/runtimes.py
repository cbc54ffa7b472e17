"""The pods and containers that a runtime makes from a kubelet's requests: one model for each runtime."""

from __future__ import annotations

from typing import Any, Protocol

from nri_sync.api.nri_pb2 import Container, Image, PodSandbox
from nri_sync.testing.manifests import containerd, crio
from nri_sync.testing.manifests.cri import ContainerConfig, SandboxConfig
from nri_sync.testing.manifests.messages import container_message, pod_message
from nri_sync.testing.manifests.model import Assumptions

__all__ = ["MODELS", "RuntimeModel", "model_of"]


class RuntimeModel(Protocol):
    """The behaviour that depends on the runtime."""

    def pod(self, config: SandboxConfig, assumptions: Assumptions) -> PodSandbox:
        """The message of a created sandbox."""

    def container(
        self, config: ContainerConfig, sandbox: SandboxConfig, assumptions: Assumptions
    ) -> tuple[Container, dict[str, Any]]:
        """The message of CreateContainer, and the specification from which the runtime makes it."""


def _pod(config: SandboxConfig, spec: dict[str, Any], **of_runtime: Any) -> PodSandbox:
    return pod_message(
        spec,
        id=config.id,
        name=config.name,
        namespace=config.namespace,
        uid=config.uid,
        annotations=config.annotations,
        cgroup_parent=config.cgroup_parent,
        runtime_handler=config.runtime_handler,
        pid=config.pid,
        ips=config.ips,
        pod_resources=config.resources.message(),
        pod_overhead=config.overhead.message(),
        **of_runtime,
    )


class _Containerd:
    def pod(self, config: SandboxConfig, assumptions: Assumptions) -> PodSandbox:
        return _pod(
            config,
            containerd.sandbox_spec(config),
            # Besides the labels of the user and the kubelet, those of containerd itself.
            labels={
                **config.labels,
                "io.cri-containerd.kind": "sandbox",
                "oci_runtime_type": "io.containerd.runc.v2",
            },
        )

    def container(
        self, config: ContainerConfig, sandbox: SandboxConfig, assumptions: Assumptions
    ) -> tuple[Container, dict[str, Any]]:
        spec = containerd.container_spec(config, sandbox, assumptions)
        message = container_message(
            spec,
            id=config.id,
            pod_id=sandbox.id,
            name=config.name,
            labels={
                **config.image_labels,
                **config.labels,
                "io.cri-containerd.kind": "container",
            },
            annotations=config.annotations,
            image=Image(
                name=config.image_name,
                digest=config.image_digest,
                config_digest=config.image_id,
            ),
            seccomp_profile=config.security.seccomp,
        )
        return message, spec


class _Crio:
    def pod(self, config: SandboxConfig, assumptions: Assumptions) -> PodSandbox:
        return _pod(
            config,
            crio.sandbox_spec(config, assumptions),
            labels=crio.sandbox_labels(config),
            own_annotations=False,
        )

    def container(
        self, config: ContainerConfig, sandbox: SandboxConfig, assumptions: Assumptions
    ) -> tuple[Container, dict[str, Any]]:
        spec = crio.container_spec(config, sandbox, assumptions)
        message = container_message(
            spec,
            id=config.id,
            pod_id=sandbox.id,
            name=config.labels.get("io.kubernetes.container.name", ""),
            labels=config.labels,
        )
        return message, spec


#: The models by the names that runtimes send to plugins.
MODELS: dict[str, RuntimeModel] = {"containerd": _Containerd(), "cri-o": _Crio()}


def model_of(runtime: str) -> RuntimeModel:
    """The model of a runtime, by the name that it sends to plugins. Raises ValueError for other names."""
    if runtime not in MODELS:
        raise ValueError(f"the runtime must be {' or '.join(MODELS)}, not {runtime!r}")
    return MODELS[runtime]
