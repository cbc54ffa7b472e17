"""Messages of pods and containers for tests, as containerd sends them on a Kubernetes node.

Every value is realistic, and every field of the messages is a keyword argument. The messages also have the labels,
annotations, environment and mounts that Kubernetes and containerd add; an entry of the caller with the same key
replaces such an entry. Each call creates new ids, which are the same in each run of a program.

Process ids are larger than any id that Linux assigns, so that a plugin finds no such process in /proc.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import TypeVar, Union

from google.protobuf.message import Message

from nri_sync.api import (
    CDIDevice,
    Container,
    ContainerState,
    Hooks,
    Image,
    LinuxContainer,
    LinuxCPU,
    LinuxDevice,
    LinuxIOPriority,
    LinuxNamespace,
    LinuxNetDevice,
    LinuxPodSandbox,
    LinuxRdt,
    LinuxResources,
    LinuxScheduler,
    LinuxSeccomp,
    Mount,
    OptionalUInt64,
    PodSandbox,
    POSIXRlimit,
    SecurityProfile,
    User,
    optional,
)
from nri_sync.api.nri_pb2 import CONTAINER_CREATED

__all__ = ["SYSTEM_MOUNTS", "Env", "make_container", "make_pod", "new_pid"]

#: An environment in either form: a mapping by name, or texts ``NAME=value``.
Env = Union[Mapping[str, str], Iterable[str]]

_M = TypeVar("_M", bound=Message)

_numbers = itertools.count(1)
# Linux assigns no id above 4,194,304.
_pids = itertools.count(5_000_001)

_IMAGE_ID = re.compile("(sha256:)?[0-9a-f]{64}")

_KUBELET = "/var/lib/kubelet/pods"
_STATE = "/run/containerd/io.containerd.grpc.v1.cri/sandboxes"
_ROOT = "/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes"

#: The mounts that both containerd and CRI-O add to each container: destination, type, source, options.
SYSTEM_MOUNTS = (
    ("/proc", "proc", "proc", "nosuid noexec nodev"),
    ("/dev", "tmpfs", "tmpfs", "nosuid strictatime mode=755 size=65536k"),
    ("/dev/pts", "devpts", "devpts", "nosuid noexec newinstance ptmxmode=0666 mode=0620 gid=5"),
    ("/dev/mqueue", "mqueue", "mqueue", "nosuid noexec nodev"),
    ("/sys", "sysfs", "sysfs", "nosuid noexec nodev ro"),
    ("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid noexec nodev relatime ro"),
)


def make_pod(
    name: str = "pod",
    *,
    namespace: str = "default",
    uid: str | None = None,
    id: str | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    runtime_handler: str = "",
    pid: int | None = None,
    ips: Iterable[str] = ("10.88.0.2",),
    cgroup_parent: str | None = None,
    cgroups_path: str | None = None,
    namespaces: Iterable[LinuxNamespace] | None = None,
    pod_overhead: LinuxResources | None = None,
    pod_resources: LinuxResources | None = None,
    resources: LinuxResources | None = None,
) -> PodSandbox:
    """A pod of the BestEffort class, in the state after the creation of its sandbox.

    Args:
        labels: added to those of Kubernetes.
        annotations: added to those of the kubelet and containerd.
        pid: of the sandbox process.
        cgroup_parent: default ``/kubepods/besteffort/pod<uid>``.
        namespaces: default those of a pod that has a network namespace.
        pod_overhead, pod_resources: of the whole pod, from its specification.
        resources: of the sandbox itself.
    """
    id = _new_id() if id is None else id
    uid = str(uuid.uuid5(uuid.NAMESPACE_OID, id)) if uid is None else uid
    pid = next(_pids) if pid is None else pid
    parent = f"/kubepods/besteffort/pod{uid}" if cgroup_parent is None else cgroup_parent
    network = f"/var/run/netns/cni-{uuid.uuid5(uuid.NAMESPACE_URL, id)}"
    if namespaces is None:
        namespaces = _namespaces(pid="", ipc="", uts="", mount="", network=network)
    pod = PodSandbox(
        id=id,
        name=name,
        uid=uid,
        namespace=namespace,
        labels={
            **_identity_labels(name, namespace, uid),
            "io.cri-containerd.kind": "sandbox",
            **(labels or {}),
        },
        annotations={
            "kubernetes.io/config.seen": "2025-01-01T00:00:00.000000000Z",
            "kubernetes.io/config.source": "api",
            **_cri_annotations("sandbox", id, name, namespace, uid),
            "io.kubernetes.cri.sandbox-log-directory": f"/var/log/pods/{namespace}_{name}_{uid}",
            **(annotations or {}),
        },
        runtime_handler=runtime_handler,
        pid=pid,
        ips=ips,
    )
    pod.linux.CopyFrom(
        LinuxPodSandbox(
            pod_overhead=pod_overhead,
            pod_resources=pod_resources,
            cgroup_parent=parent,
            cgroups_path=f"{parent}/{id}" if cgroups_path is None else cgroups_path,
            namespaces=namespaces,
            resources=resources,
        )
    )
    return pod


def make_container(
    pod: PodSandbox,
    name: str = "container",
    *,
    id: str | None = None,
    pod_sandbox_id: str | None = None,
    state: ContainerState = CONTAINER_CREATED,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    args: Iterable[str] = ("sleep", "infinity"),
    env: Env = (),
    mounts: Iterable[Mount] = (),
    hooks: Hooks | None = None,
    pid: int = 0,
    rlimits: Iterable[POSIXRlimit] = (),
    created_at: int = 0,
    started_at: int = 0,
    finished_at: int = 0,
    exit_code: int = 0,
    status_reason: str = "",
    status_message: str = "",
    cdi_devices: Iterable[CDIDevice] = (),
    user: User | None = None,
    image: Image | str = "docker.io/library/busybox:1.36",
    namespaces: Iterable[LinuxNamespace] | None = None,
    devices: Iterable[LinuxDevice] = (),
    resources: LinuxResources | None = None,
    oom_score_adj: int | None = 1000,
    cgroups_path: str | None = None,
    io_priority: LinuxIOPriority | None = None,
    seccomp_profile: SecurityProfile | None = None,
    seccomp_policy: LinuxSeccomp | None = None,
    sysctl: Mapping[str, str] | None = None,
    net_devices: Mapping[str, LinuxNetDevice] | None = None,
    scheduler: LinuxScheduler | None = None,
    rdt: LinuxRdt | None = None,
) -> Container:
    """A container of the pod, in the state before its creation, without requests or limits.

    Args:
        labels, annotations: added to those of the kubelet and containerd.
        env: added to that of Kubernetes, ``{"NAME": "value"}`` or ``["NAME=value"]``.
        mounts: added to those of the kubelet and containerd.
        image: a reference, whose digest (if it has one) becomes the image's digest; or an Image.
        namespaces: default those of the pod, with the container's PID and mount namespaces.
        resources: default the CPU shares of BestEffort.
        oom_score_adj: default that of BestEffort; None for none.
        cgroups_path: default the pod's cgroup and the container's id.
    """
    id = _new_id() if id is None else id
    if isinstance(image, str):
        image = _image(image)
    container = Container(
        id=id,
        pod_sandbox_id=pod.id if pod_sandbox_id is None else pod_sandbox_id,
        name=name,
        state=state,
        labels={
            **_identity_labels(pod.name, pod.namespace, pod.uid),
            "io.cri-containerd.kind": "container",
            "io.kubernetes.container.name": name,
            **(labels or {}),
        },
        annotations={**_container_annotations(pod, name, image.name), **(annotations or {})},
        args=args,
        env=_env(pod, env),
        mounts=_mounts(pod, name, mounts),
        hooks=hooks,
        pid=pid,
        rlimits=rlimits,
        created_at=created_at,
        started_at=started_at,
        finished_at=finished_at,
        exit_code=exit_code,
        status_reason=status_reason,
        status_message=status_message,
        CDI_devices=cdi_devices,
        user=User() if user is None else user,
        image=image,
    )
    container.linux.CopyFrom(
        LinuxContainer(
            namespaces=_shared_namespaces(pod) if namespaces is None else namespaces,
            devices=devices,
            resources=_best_effort() if resources is None else resources,
            cgroups_path=f"{pod.linux.cgroup_parent}/{id}"
            if cgroups_path is None
            else cgroups_path,
            io_priority=io_priority,
            seccomp_profile=seccomp_profile,
            seccomp_policy=seccomp_policy,
            sysctl=sysctl,
            net_devices=net_devices,
            scheduler=scheduler,
            rdt=rdt,
        )
    )
    optional.put(container.linux, "oom_score_adj", oom_score_adj)
    return container


def _image(name: str) -> Image:
    """An image of that name, with the digest or id that the name contains. Other digests are invented."""
    if _IMAGE_ID.fullmatch(name):
        return Image(
            name=name, config_digest=f"sha256:{name[-64:]}", digest=f"sha256:{_digest(name)}"
        )
    _, at, digest = name.partition("@")
    digest = digest if at else f"sha256:{_digest(name)}"
    return Image(name=name, digest=digest, config_digest=f"sha256:{_digest(digest[-64:])}")


def new_pid() -> int:
    """A process id that belongs to no process."""
    return next(_pids)


def _new_id() -> str:
    return _digest(f"nri_sync {next(_numbers)}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _identity_labels(name: str, namespace: str, uid: str) -> dict[str, str]:
    prefix = "io.kubernetes.pod"
    return {f"{prefix}.name": name, f"{prefix}.namespace": namespace, f"{prefix}.uid": uid}


def _cri_annotations(kind: str, id: str, name: str, namespace: str, uid: str) -> dict[str, str]:
    prefix = "io.kubernetes.cri"
    return {
        f"{prefix}.container-type": kind,
        f"{prefix}.sandbox-id": id,
        f"{prefix}.sandbox-name": name,
        f"{prefix}.sandbox-namespace": namespace,
        f"{prefix}.sandbox-uid": uid,
    }


def _container_annotations(pod: PodSandbox, name: str, image: str) -> dict[str, str]:
    return {
        "io.kubernetes.container.hash": _digest(name)[:8],
        "io.kubernetes.container.restartCount": "0",
        "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
        "io.kubernetes.container.terminationMessagePolicy": "File",
        "io.kubernetes.pod.terminationGracePeriod": "30",
        **_cri_annotations("container", pod.id, pod.name, pod.namespace, pod.uid),
        "io.kubernetes.cri.container-name": name,
        "io.kubernetes.cri.image-name": image,
    }


def _namespaces(**paths: str) -> list[LinuxNamespace]:
    return [LinuxNamespace(type=type, path=path) for type, path in paths.items()]


def _shared_namespaces(pod: PodSandbox) -> list[LinuxNamespace]:
    shared = f"/proc/{pod.pid}/ns"
    return _namespaces(
        pid="", ipc=f"{shared}/ipc", uts=f"{shared}/uts", mount="", network=f"{shared}/net"
    )


def _best_effort() -> LinuxResources:
    cpu = LinuxCPU(shares=OptionalUInt64(value=2), period=OptionalUInt64(value=100_000))
    return LinuxResources(cpu=cpu)


def _env(pod: PodSandbox, given: Env) -> list[str]:
    entries = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME": pod.name,
        "KUBERNETES_SERVICE_HOST": "10.96.0.1",
        "KUBERNETES_SERVICE_PORT": "443",
    }
    if isinstance(given, Mapping):
        entries.update(given)
    else:
        entries.update((key, value) for key, _, value in (item.partition("=") for item in given))
    return [f"{key}={value}" for key, value in entries.items()]


def _mounts(pod: PodSandbox, name: str, given: Iterable[Mount]) -> list[Mount]:
    kubelet, state, root = (f"{_KUBELET}/{pod.uid}", f"{_STATE}/{pod.id}", f"{_ROOT}/{pod.id}")
    token = f"{kubelet}/volumes/kubernetes.io~projected/kube-api-access-{_digest(pod.uid)[:5]}"
    log = f"{kubelet}/containers/{name}/{_digest(name)[:8]}"
    mounts = [
        *(_mount(*mount) for mount in SYSTEM_MOUNTS),
        _bind("/etc/hosts", f"{kubelet}/etc-hosts"),
        _bind("/dev/termination-log", log),
        _bind("/etc/hostname", f"{root}/hostname"),
        _bind("/etc/resolv.conf", f"{root}/resolv.conf"),
        _bind("/dev/shm", f"{state}/shm"),
        _bind("/var/run/secrets/kubernetes.io/serviceaccount", token, "ro"),
        *given,
    ]
    # For one destination, the last mount wins.
    return list({mount.destination: mount for mount in mounts}.values())


def _mount(destination: str, type: str, source: str, options: str) -> Mount:
    return Mount(destination=destination, type=type, source=source, options=options.split())


def _bind(destination: str, source: str, access: str = "rw") -> Mount:
    return _mount(destination, "bind", source, f"rbind rprivate {access}")
