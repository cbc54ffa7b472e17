"""The OCI specifications that CRI-O makes for a kubelet.

After CRI-O v1.34.0, ``server/container_create.go``, ``server/sandbox_run_linux.go``, ``internal/factory`` and the
defaults of ``runtime-tools/generate``, in its default configuration. The module does not inspect the machine.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from typing import Any

from nri_sync.api.nri_pb2 import SecurityProfile
from nri_sync.testing.builders import SYSTEM_MOUNTS
from nri_sync.testing.manifests.cri import ContainerConfig, MountConfig, SandboxConfig
from nri_sync.testing.manifests.ids import container_id, uid
from nri_sync.testing.manifests.lifecycle import go_json
from nri_sync.testing.manifests.model import Assumptions

__all__ = ["container_spec", "sandbox_labels", "sandbox_spec"]

_OCI_VERSION = "1.2.1"
_ANNOTATION = "io.kubernetes.cri-o"
_RUN = "/run/containers/storage/overlay-containers"
_LIB = "/var/lib/containers/storage"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAMESPACES = "/var/run"
# For a sandbox's own process.
_SANDBOX_SHARES = 2


def _cgroups_path(parent: str, id: str) -> str:
    """``ContainerCgroupPath``, in the notation of the cgroup driver."""
    base = posixpath.basename(parent)
    if base.endswith(".slice"):
        return f"{base}:crio:{id}"
    return posixpath.join(parent, f"crio-{id}")


def sandbox_labels(config: SandboxConfig) -> dict[str, str]:
    """The user's labels, and the label of the container that holds the namespaces."""
    return {**config.labels, "io.kubernetes.container.name": "POD"}


def sandbox_spec(config: SandboxConfig, assumptions: Assumptions) -> dict[str, Any]:
    """The part of the specification of the sandbox's own container that plugins receive."""
    return {
        "ociVersion": _OCI_VERSION,
        "linux": {
            "cgroupsPath": _cgroups_path(config.cgroup_parent, config.id),
            "namespaces": _sandbox_namespaces(config),
            "resources": {
                "devices": [{"allow": False, "access": "rwm"}],
                "cpu": {"shares": _SANDBOX_SHARES},
            },
        },
    }


def container_spec(
    config: ContainerConfig, sandbox: SandboxConfig, assumptions: Assumptions
) -> dict[str, Any]:
    """The specification of a container, in the state in which plugins receive the container."""
    return {
        "ociVersion": _OCI_VERSION,
        "process": _process(config, sandbox, assumptions),
        "root": {"path": _rootfs(config)},
        "mounts": _mounts(config, sandbox),
        "annotations": _annotations(config, sandbox),
        "linux": {
            "resources": _resources(config, assumptions),
            "cgroupsPath": _cgroups_path(sandbox.cgroup_parent, config.id),
            "namespaces": _namespaces(config, sandbox, assumptions),
        },
    }


def _resources(config: ContainerConfig, assumptions: Assumptions) -> dict[str, Any]:
    """``SpecSetLinuxContainerResources``: a quota of 0 is set; without a limit, no field of memory is set."""
    wanted = config.resources
    resources: dict[str, Any] = {
        "devices": [{"allow": config.security.privileged, "access": "rwm"}],
        **wanted.oci(assumptions.swap_limits),
        "cpu": {"shares": wanted.shares, "quota": wanted.quota, "period": wanted.period},
        "pids": {"limit": -1},
    }
    if not wanted.memory_limit:
        del resources["memory"]
    return resources


def _rootfs(config: ContainerConfig) -> str:
    """The root file system. The name of its layer is random on a node."""
    return f"{_LIB}/overlay/{container_id('layer', config.id)}/merged"


def _process(
    config: ContainerConfig, sandbox: SandboxConfig, assumptions: Assumptions
) -> dict[str, Any]:
    security = config.security
    groups = sorted({security.user.gid, *security.supplemental_groups})
    return {
        "user": {"uid": security.user.uid, "gid": security.user.gid, "additionalGids": groups},
        "args": list(config.args),
        "env": _env(config, sandbox.hostname or assumptions.hostname or assumptions.node_name),
        "cwd": config.cwd or "/",
        "oomScoreAdj": config.resources.oom_score_adj,
    }


def _env(config: ContainerConfig, hostname: str) -> list[str]:
    """``mergeEnvs``: the manifest's variables replace the image's. Each occurs once, besides the two defaults."""
    env = {**({"TERM": "xterm"} if config.tty else {}), "HOSTNAME": hostname, **config.env}
    for entry in config.image_env:
        name, equals, value = entry.partition("=")
        if name and equals and name not in config.env:
            env[name] = value
    return [f"PATH={_PATH}", "TERM=xterm", *(f"{name}={value}" for name, value in env.items())]


def _namespaces(
    config: ContainerConfig, sandbox: SandboxConfig, assumptions: Assumptions
) -> list[dict[str, str]]:
    """``SpecAddNamespaces``."""
    found = _sandbox_namespaces(sandbox)
    if sandbox.host_network:
        found = [item for item in found if item["type"] != "network"]
    if sandbox.share_processes:
        found[0]["path"] = f"/proc/{sandbox.pid}/ns/pid"
    if assumptions.cgroup_version == 2 and not config.security.privileged:
        found.append({"type": "cgroup"})
    return found


def _sandbox_namespaces(sandbox: SandboxConfig) -> list[dict[str, str]]:
    """The pinned namespaces, including those of the host. CRI-O chooses the names of their files."""
    pinned = uid("namespaces", sandbox.id)
    found = [] if sandbox.host_pid else [{"type": "pid"}]
    for kind, directory in (("network", "netns"), ("ipc", "ipcns"), ("uts", "utsns")):
        found.append({"type": kind, "path": f"{_NAMESPACES}/{directory}/{pinned}"})
    return [*found, {"type": "mount"}]


# Mounts


def _mounts(config: ContainerConfig, sandbox: SandboxConfig) -> list[dict[str, Any]]:
    places = {posixpath.normpath(mount.destination) for mount in config.mounts}
    mounts = list(_system_mounts(config, places))
    mounts += _runtime_mounts(config, sandbox)
    mounts += [_bind(mount) for mount in sorted(config.mounts, key=_depth)]
    found: dict[str, dict[str, Any]] = {}
    for mount in mounts:
        # ``SpecAddMount`` removes the existing mount.
        found.pop(mount["destination"], None)
        found[mount["destination"]] = mount
    return list(found.values())


def _depth(mount: MountConfig) -> int:
    return posixpath.normpath(mount.destination).count("/")


def _system_mounts(config: ContainerConfig, places: set[str]) -> Iterable[dict[str, Any]]:
    for destination, kind, source, options in SYSTEM_MOUNTS:
        parent = next((p for p in ("/dev", "/sys") if destination.startswith(f"{p}/")), "")
        if destination in places or parent in places:
            continue
        yield _mount(destination, kind, source, options)


def _mount(destination: str, kind: str, source: str, options: str) -> dict[str, Any]:
    return {
        "destination": destination,
        "type": kind,
        "source": source,
        "options": options.split(),
    }


def _runtime_mounts(config: ContainerConfig, sandbox: SandboxConfig) -> Iterable[dict[str, Any]]:
    if config.security.privileged:
        yield _mount("/sys", "sysfs", "sysfs", "nosuid noexec nodev rw rslave")
        options = "nosuid noexec nodev rw relatime rslave"
        yield _mount("/sys/fs/cgroup", "cgroup", "cgroup", options)
    files = f"{_RUN}/{sandbox.id}/userdata"
    access = "ro" if config.security.readonly_root else "rw"
    shm = "/dev/shm" if sandbox.host_ipc else f"{files}/shm"
    yield _mount("/dev/shm", "bind", shm, "rw bind")
    options = f"{access} bind nodev nosuid noexec"
    yield _mount("/etc/resolv.conf", "bind", f"{files}/resolv.conf", options)
    yield _mount("/etc/hostname", "bind", f"{files}/hostname", f"{access} bind")
    source = f"{_LIB}/overlay-containers/{sandbox.id}/userdata/.containerenv"
    yield _mount("/run/.containerenv", "bind", source, f"{access} bind")


def _bind(mount: MountConfig) -> dict[str, Any]:
    readonly = "rro" if mount.recursive_readonly else "ro"
    access = readonly if mount.readonly else "rw"
    return {
        "destination": mount.destination,
        "type": "bind",
        "source": posixpath.normpath(mount.source),
        "options": ["rbind", mount.propagation, access, "bind"],
    }


# Annotations


def _annotations(config: ContainerConfig, sandbox: SandboxConfig) -> dict[str, str]:
    """``SpecAddAnnotations``: they include the pod's."""
    files = f"{_RUN}/{sandbox.id}/userdata"
    name = f"k8s_{config.name}_{sandbox.name}_{sandbox.namespace}_{sandbox.uid}_0"
    own = {
        "Annotations": go_json(dict(sorted(config.annotations.items()))),
        "ContainerID": config.id,
        "ContainerType": "container",
        "Created": "2025-01-01T00:00:00.000000000Z",
        "Image": config.image,
        "ImageName": config.image_name,
        "ImageRef": config.image_id.rpartition(":")[2],
        "Labels": go_json(dict(sorted(config.labels.items()))),
        "LogPath": f"{sandbox.log_directory}/{config.name}/0.log",
        "Metadata": go_json({"name": config.name}),
        "MountPoint": _rootfs(config),
        "Name": name,
        "PlatformRuntimePath": "",
        "ResolvPath": f"{files}/resolv.conf",
        "SandboxID": sandbox.id,
        "SandboxName": f"k8s_{sandbox.name}_{sandbox.namespace}_{sandbox.uid}_0",
        "SeccompProfilePath": _seccomp(config),
        "Stdin": "false",
        "StdinOnce": "false",
        "TTY": go_json(config.tty),
        "Volumes": go_json([_volume(mount) for mount in sorted(config.mounts, key=_depth)]),
        **{f"IP.{number}": ip for number, ip in enumerate(sandbox.ips)},
    }
    return {
        **sandbox.annotations,
        **{f"{_ANNOTATION}.{key}": value for key, value in own.items()},
        "io.container.manager": "cri-o",
        **config.annotations,
        **config.labels,
    }


def _seccomp(config: ContainerConfig) -> str:
    """``Setup`` in ``internal/config/seccomp``."""
    profile = config.security.seccomp
    if config.security.privileged or profile.profile_type == SecurityProfile.UNCONFINED:
        return "Unconfined"
    return profile.localhost_ref or "RuntimeDefault"


def _volume(mount: MountConfig) -> dict[str, Any]:
    """``ContainerVolume``, with the fields in Go's order."""
    return {
        "container_path": mount.destination,
        "host_path": posixpath.normpath(mount.source),
        "readonly": mount.readonly,
        "recursive_read_only": mount.recursive_readonly,
        "propagation": {"rprivate": 0, "rslave": 1, "rshared": 2}[mount.propagation],
        "selinux_relabel": False,
    }
