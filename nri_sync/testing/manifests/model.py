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


# The characters of each part of an error: keys and values come from documents.
_LONGEST = 300


class ManifestError(ValueError):
    """A manifest cannot be read or mapped: one line with the place, the problem, and the remedy.

    ``source`` is the file (or ``<text>``), with the number of the document where it has several; ``path`` leads
    to the value, such as ``spec.containers[0].image``, or is "".
    """

    def __init__(self, source: str, path: str, problem: str) -> None:
        parts = (source, path, problem)
        super().__init__(": ".join(printable(part, _LONGEST) for part in parts if part))
        self.source = source
        self.path = path
        self.problem = problem


class Kind(str, enum.Enum):
    """The part of a container in its pod's life."""

    #: Runs to its end before the next one starts.
    INIT = "init"
    #: An init container with ``restartPolicy: Always``: runs on, and is stopped after the ordinary ones.
    SIDECAR = "sidecar"
    ORDINARY = "ordinary"
    #: Added to a pod that runs, to debug it: created last.
    EPHEMERAL = "ephemeral"


@dataclass(frozen=True)
class ImageConfig:
    """The configuration of an image: see ``Config`` in the OCI image specification."""

    entrypoint: Sequence[str] = ()
    cmd: Sequence[str] = ()
    #: Each ``NAME=value``.
    env: Sequence[str] = ()
    #: In numbers: names are looked up in the image's files, which are not there. Of ``uid:gid``, the group does
    #: not count in Kubernetes, where it is that of the user in the image's /etc/passwd, or else 0.
    user: str = ""
    working_dir: str = ""
    volumes: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Assumptions:
    """The properties of the node, its cluster and the images, which no manifest has.

    The defaults are those of kubelet v1.36 and containerd v2.4 on a node that kubeadm has set up.
    """

    #: "containerd" or "cri-o", as it calls itself to plugins: as v2.4 and v1.34 make containers.
    runtime: str = "containerd"
    node_name: str = "node"
    #: The node's own name to its kernel, which containers on its network have for HOSTNAME; "" for ``node_name``.
    hostname: str = ""
    node_ip: str = "192.0.2.10"
    #: The address of pods that do not use the host's network.
    pod_ip: str = "10.88.0.2"
    #: Memory of the node, in bytes, and its CPUs: for OOM scores, and for limits that are asked for but not set.
    memory: int = 16 << 30
    cpus: int = 8
    #: The memory that the kubelet keeps from pods, in bytes: ``evictionHard``. ``limits.memory`` in a variable of
    #: a container without a limit is the rest.
    reserved_memory: int = 100 << 20
    #: 1 or 2.
    cgroup_version: int = 2
    #: Whether cgroups are made by systemd; otherwise by the kubelet ("cgroupfs").
    systemd_cgroups: bool = True
    #: The sizes of huge pages that the node's kernel has.
    huge_page_sizes: Sequence[str] = ("2MB", "1GB")
    #: ``disable_hugetlb_controller`` of containerd: no container is created with limits of huge pages.
    disable_hugetlb_controller: bool = True
    #: Whether the kernel limits swap for cgroups.
    swap_limits: bool = True
    #: ``seccompDefault`` of the kubelet.
    seccomp_default: bool = False
    #: From files in a directory of the kubelet instead of an API server: other names, no services, no tokens.
    static_pods: bool = False
    #: Where the cluster's ``kubernetes`` service is.
    service_ip: str = "10.96.0.1"
    #: By the references in manifests; ``*`` is for all others.
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
    """A container before any plugin."""

    #: As plugins are asked about it in CreateContainer.
    container: Container
    kind: Kind
    #: The OCI runtime specification that it would be created from, as ``json.loads`` returns a config.json.
    spec: Mapping[str, Any]
    #: The resources in UpdateContainer when the kubelet resizes the pod in place; None if they are unknown.
    resized: LinuxResources | None = None
    #: None if they are unknown.
    sizes: Sizes | None = None

    @property
    def name(self) -> str:
        return self.container.name


@dataclass(frozen=True)
class Workload:
    """A pod and its containers, in the order in which they are created, before any plugin."""

    #: Where it comes from, as in a :class:`ManifestError`.
    source: str
    pod: PodSandbox
    containers: Sequence[WorkloadContainer]
    #: The resources in UpdatePodSandbox then; None if they are unknown.
    resized: LinuxResources | None = None
    #: Assumptions, omissions and unknowns, for people to read.
    notes: Sequence[str] = ()

    @property
    def name(self) -> str:
        """``namespace/name``."""
        return f"{self.pod.namespace}/{self.pod.name}"
