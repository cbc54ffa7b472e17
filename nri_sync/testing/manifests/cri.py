"""The relevant parts of ``PodSandboxConfig`` and ``ContainerConfig``, which a kubelet sends to a runtime.

As in ``k8s.io/cri-api``, ``pkg/apis/runtime/v1/api.proto``. Other modules of this package fill them in from a
manifest, and :mod:`.containerd` makes OCI specifications and NRI messages from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nri_sync.api.nri_pb2 import HugepageLimit, LinuxResources, SecurityProfile, User

__all__ = ["ContainerConfig", "IDMapping", "MountConfig", "Resources", "SandboxConfig", "Security"]


@dataclass
class Resources:
    """``LinuxContainerResources``: 0 means not set, except for the OOM score."""

    shares: int = 0
    quota: int = 0
    period: int = 0
    memory_limit: int = 0
    swap_limit: int = 0
    oom_score_adj: int = 0
    #: Sizes in the notation of the cgroup, "2MB"; amounts in bytes.
    huge_pages: dict[str, int] = field(default_factory=dict)
    unified: dict[str, str] = field(default_factory=dict)

    def message(self) -> LinuxResources:
        """The message for a pod, whose resources do not come from an OCI specification.

        ``fromCRILinuxResources`` in containerd, ``internal/cri/nri``: an unset value is 0 in it, not absent.
        """
        message = LinuxResources(unified=self.unified)
        message.cpu.shares.value = self.shares
        message.cpu.quota.value = self.quota
        message.cpu.period.value = self.period
        message.memory.limit.value = self.memory_limit
        for size, limit in self.huge_pages.items():
            message.hugepage_limits.append(HugepageLimit(page_size=size, limit=limit))
        return message

    def oci(self, swap_limits: bool) -> dict[str, Any]:
        """The same in ``linux.resources`` (``WithResources`` in containerd, ``internal/cri/opts``)."""
        cpu = {"shares": self.shares, "quota": self.quota, "period": self.period}
        memory: dict[str, int] = {}
        if self.memory_limit:
            memory["limit"] = self.memory_limit
        swap = self.swap_limit or self.memory_limit
        if swap and swap_limits:
            # The limit of memory and swap equals that of memory, so the container cannot swap.
            memory["swap"] = swap
        resources: dict[str, Any] = {
            "memory": memory,
            "cpu": {name: value for name, value in cpu.items() if value},
        }
        if self.huge_pages:
            resources["hugepageLimits"] = [
                {"pageSize": size, "limit": limit} for size, limit in self.huge_pages.items()
            ]
        if self.unified:
            resources["unified"] = dict(self.unified)
        return resources


@dataclass(frozen=True)
class MountConfig:
    """``Mount`` of the CRI."""

    destination: str
    source: str
    readonly: bool = False
    recursive_readonly: bool = False
    #: "rprivate", "rslave" or "rshared".
    propagation: str = "rprivate"


@dataclass(frozen=True)
class IDMapping:
    """A range of ids of a user namespace, used for both users and groups."""

    container: int
    host: int
    size: int


@dataclass
class Security:
    """``LinuxContainerSecurityContext``, without the fields of the pod."""

    user: User = field(default_factory=User)
    supplemental_groups: list[int] = field(default_factory=list)
    add_capabilities: list[str] = field(default_factory=list)
    drop_capabilities: list[str] = field(default_factory=list)
    privileged: bool = False
    readonly_root: bool = False
    no_new_privileges: bool = False
    seccomp: SecurityProfile = field(default_factory=SecurityProfile)
    apparmor: str = ""
    masked_paths: list[str] = field(default_factory=list)
    readonly_paths: list[str] = field(default_factory=list)


@dataclass
class SandboxConfig:
    """``PodSandboxConfig``, with the id, process and addresses that containerd chooses."""

    id: str
    name: str
    namespace: str
    uid: str
    pid: int
    ips: Sequence[str]
    #: Empty for the host's network.
    hostname: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    log_directory: str = ""
    cgroup_parent: str = ""
    resources: Resources = field(default_factory=Resources)
    overhead: Resources = field(default_factory=Resources)
    runtime_handler: str = ""
    host_network: bool = False
    host_pid: bool = False
    host_ipc: bool = False
    #: Whether the containers share a PID namespace.
    share_processes: bool = False
    id_mappings: Sequence[IDMapping] = ()

    @property
    def identity(self) -> dict[str, str]:
        """The labels by which the kubelet finds the containers of the pod."""
        prefix = "io.kubernetes.pod"
        return {
            f"{prefix}.name": self.name,
            f"{prefix}.namespace": self.namespace,
            f"{prefix}.uid": self.uid,
        }


@dataclass
class ContainerConfig:
    """``ContainerConfig``, with the properties of the image."""

    id: str
    name: str
    #: The image in the notations of the manifest and of containerd.
    image: str
    image_name: str
    image_digest: str
    image_id: str
    args: list[str]
    env: dict[str, str]
    cwd: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    image_labels: Mapping[str, str] = field(default_factory=dict)
    image_env: Sequence[str] = ()
    image_volumes: Sequence[str] = ()
    mounts: list[MountConfig] = field(default_factory=list)
    resources: Resources = field(default_factory=Resources)
    security: Security = field(default_factory=Security)
    tty: bool = False
    #: The process whose PID namespace the container joins; 0 for none.
    target_pid: int = 0
