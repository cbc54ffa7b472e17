"""The results of the mapping of manifests, and its assumptions."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nri_sync.api.nri_pb2 import Container, LinuxResources, PodSandbox
from nri_sync.text import printable

__all__ = [
    "Assumptions",
    "ImageConfig",
    "Kind",
    "ManifestError",
    "Sizes",
    "Workload",
    "WorkloadContainer",
]


# The maximum length of each part of an error, in characters: keys and values come from documents.
_LONGEST = 300


class ManifestError(ValueError):
    """A manifest cannot be read or mapped: one line with the place, the problem, and the remedy.

    ``source`` is the file (or ``<text>``), with the number of the document if the file has several. ``path`` leads
    to the value, for example ``spec.containers[0].image``, or is empty.
    """

    def __init__(self, source: str, path: str, problem: str) -> None:
        parts = (source, path, problem)
        super().__init__(": ".join(printable(part, _LONGEST) for part in parts if part))
        self.source = source
        self.path = path
        self.problem = problem


class Kind(str, enum.Enum):
    """The role of a container in its pod's lifecycle."""

    #: Runs to its end before the next one starts.
    INIT = "init"
    #: An init container with ``restartPolicy: Always``: it keeps running, and is stopped after the ordinary ones.
    SIDECAR = "sidecar"
    ORDINARY = "ordinary"
    #: Added to a running pod for debugging, and created last.
    EPHEMERAL = "ephemeral"


@dataclass(frozen=True)
class ImageConfig:
    """The configuration of an image: see ``Config`` in the OCI image specification."""

    entrypoint: Sequence[str] = ()
    cmd: Sequence[str] = ()
    #: Each entry is ``NAME=value``.
    env: Sequence[str] = ()
    #: In numbers: names would be looked up in the image's files, which are unavailable. Kubernetes ignores the
    #: group of ``uid:gid``, and uses the user's group in the image's /etc/passwd, or else 0.
    user: str = ""
    working_dir: str = ""
    volumes: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Assumptions:
    """The properties of the node, its cluster and the images, which no manifest has.

    The defaults are those of kubelet v1.36 and containerd v2.4 on a node that kubeadm has set up.
    """

    #: "containerd" or "cri-o", the name for plugins. Containers are those of v2.4 and v1.34.
    runtime: str = "containerd"
    node_name: str = "node"
    #: The node's hostname, which is HOSTNAME in containers on its network; "" for ``node_name``.
    hostname: str = ""
    node_ip: str = "192.0.2.10"
    #: The address of pods that do not use the host's network.
    pod_ip: str = "10.88.0.2"
    #: Memory of the node in bytes, and its CPUs: for OOM scores, and for references to limits that are not set.
    memory: int = 16 << 30
    cpus: int = 8
    #: The memory that the kubelet reserves, in bytes: ``evictionHard``. In a variable of a container without a
    #: limit, ``limits.memory`` is the remaining memory.
    reserved_memory: int = 100 << 20
    #: 1 or 2.
    cgroup_version: int = 2
    #: Whether systemd creates the cgroups; otherwise the kubelet does ("cgroupfs").
    systemd_cgroups: bool = True
    #: The sizes of huge pages in the node's kernel.
    huge_page_sizes: Sequence[str] = ("2MB", "1GB")
    #: ``disable_hugetlb_controller`` of containerd: it creates no container with limits of huge pages.
    disable_hugetlb_controller: bool = True
    #: Whether the kernel limits swap for cgroups.
    swap_limits: bool = True
    #: ``seccompDefault`` of the kubelet.
    seccomp_default: bool = False
    #: Pods come from files in a directory of the kubelet, not from an API server: other names, no services, no
    #: tokens.
    static_pods: bool = False
    #: The address of the cluster's ``kubernetes`` service.
    service_ip: str = "10.96.0.1"
    #: By the references in manifests; ``*`` stands for all others.
    images: Mapping[str, ImageConfig] = field(default_factory=dict)


@dataclass(frozen=True)
class Sizes:
    """Limits and requests of a container as the kubelet compares them for a resize: CPU in thousandths, memory in
    bytes, 0 for none. Without a limit of its own, a container has that of its pod.
    """

    cpu_limit: int
    cpu_request: int
    memory_limit: int
    memory_request: int


@dataclass(frozen=True)
class WorkloadContainer:
    """A container before any plugin has changed it."""

    #: The message that plugins receive in CreateContainer.
    container: Container
    kind: Kind
    #: The OCI runtime specification before adjustments, in the form of a config.json read by ``json.loads``.
    spec: Mapping[str, Any]
    #: The resources in UpdateContainer when the kubelet resizes the pod in place; None if unknown.
    resized: LinuxResources | None = None
    #: None if unknown.
    sizes: Sizes | None = None

    @property
    def name(self) -> str:
        return self.container.name


@dataclass(frozen=True)
class Workload:
    """A pod and its containers, in the order of their creation, before any plugin has changed them."""

    #: The source, as in a :class:`ManifestError`.
    source: str
    pod: PodSandbox
    containers: Sequence[WorkloadContainer]
    #: The resources in UpdatePodSandbox at a resize; None if unknown.
    resized: LinuxResources | None = None
    #: Assumptions, omissions and unknown properties, for people.
    notes: Sequence[str] = ()

    @property
    def name(self) -> str:
        """``namespace/name``."""
        return f"{self.pod.namespace}/{self.pod.name}"
