"""NRI messages about pods and containers, from OCI specifications and from CRI.

After containerd v2.4.2, ``internal/cri/nri/nri_api_linux.go``: most fields of a container come from its OCI
specification, of any origin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nri_sync.api import oci, optional
from nri_sync.api.nri_pb2 import (
    CDIDevice,
    Container,
    Image,
    LinuxContainer,
    LinuxPodSandbox,
    LinuxResources,
    PodSandbox,
    SecurityProfile,
    User,
)

__all__ = ["container_message", "pod_message"]


def container_message(
    spec: Mapping[str, Any],
    *,
    id: str,
    pod_id: str,
    name: str,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    image: Image | None = None,
    seccomp_profile: SecurityProfile | None = None,
    cdi_devices: Iterable[str] = (),
) -> Container:
    """The container of that specification. ``annotations`` are those that the kubelet has given.

    Raises TypeError or ValueError if ``spec`` is no valid specification.
    """
    process = spec.get("process") or {}
    linux = spec.get("linux") or {}
    user = process.get("user") or {}
    container = Container(
        id=id,
        pod_sandbox_id=pod_id,
        name=name,
        labels=labels,
        annotations={**(spec.get("annotations") or {}), **(annotations or {})},
        args=process.get("args") or (),
        env=process.get("env") or (),
        mounts=oci.mounts_from_oci(spec.get("mounts")),
        hooks=oci.hooks_from_oci(spec.get("hooks")),
        rlimits=oci.rlimits_from_oci(process.get("rlimits")),
        CDI_devices=[CDIDevice(name=device) for device in cdi_devices],
        user=User(
            uid=user.get("uid") or 0,
            gid=user.get("gid") or 0,
            additional_gids=user.get("additionalGids") or (),
        ),
        image=image,
    )
    container.linux.CopyFrom(
        LinuxContainer(
            namespaces=oci.namespaces_from_oci(linux.get("namespaces")),
            devices=oci.devices_from_oci(linux.get("devices")),
            resources=oci.resources_from_oci(linux.get("resources")),
            cgroups_path=linux.get("cgroupsPath"),
            io_priority=oci.io_priority_from_oci(process.get("ioPriority")),
            scheduler=oci.scheduler_from_oci(process.get("scheduler")),
            net_devices=oci.net_devices_from_oci(linux.get("netDevices")),
            rdt=oci.rdt_from_oci(linux.get("intelRdt")),
            seccomp_profile=seccomp_profile,
            sysctl=linux.get("sysctl"),
            seccomp_policy=oci.seccomp_from_oci(linux.get("seccomp")),
        )
    )
    # In CreateContainer, the hooks are present even if empty (``collectCreateContainerResult`` in NRI).
    container.hooks.SetInParent()
    optional.put(container.linux, "oom_score_adj", process.get("oomScoreAdj"))
    return container


def pod_message(
    spec: Mapping[str, Any],
    *,
    id: str,
    name: str,
    namespace: str,
    uid: str,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    cgroup_parent: str,
    runtime_handler: str = "",
    pid: int = 0,
    ips: Iterable[str] = (),
    pod_resources: LinuxResources | None = None,
    pod_overhead: LinuxResources | None = None,
    own_annotations: bool = True,
) -> PodSandbox:
    """The pod whose sandbox has that specification. Labels and annotations are those from the kubelet.

    ``own_annotations``: whether the annotations of the specification belong to the pod, too.

    Raises TypeError or ValueError if ``spec`` is no valid specification.
    """
    linux = spec.get("linux") or {}
    pod = PodSandbox(
        id=id,
        name=name,
        uid=uid,
        namespace=namespace,
        labels=labels,
        annotations={**annotations, **((own_annotations and spec.get("annotations")) or {})},
        runtime_handler=runtime_handler,
        pid=pid,
        ips=ips,
    )
    pod.linux.CopyFrom(
        LinuxPodSandbox(
            pod_overhead=pod_overhead,
            pod_resources=pod_resources,
            cgroup_parent=cgroup_parent,
            cgroups_path=linux.get("cgroupsPath"),
            namespaces=oci.namespaces_from_oci(linux.get("namespaces")),
            resources=oci.resources_from_oci(linux.get("resources")),
        )
    )
    return pod
