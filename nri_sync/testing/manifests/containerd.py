"""The OCI specifications that containerd makes for a kubelet.

After containerd v2.4.2, ``internal/cri/server/container_create.go`` (``buildLinuxSpec``),
``internal/cri/opts`` and ``pkg/oci``, in its default configuration. The module does not inspect the machine.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from typing import Any

from nri_sync.testing.builders import SYSTEM_MOUNTS
from nri_sync.testing.manifests.cri import ContainerConfig, MountConfig, SandboxConfig
from nri_sync.testing.manifests.ids import container_id, uid
from nri_sync.testing.manifests.model import Assumptions

__all__ = ["ALL_CAPABILITIES", "STATE", "cgroups_path", "container_spec", "sandbox_spec"]

_OCI_VERSION = "1.3.0"
#: The directory for state that is lost when the node restarts.
STATE = "/run/containerd/io.containerd.grpc.v1.cri"
_ROOT = "/var/lib/containerd/io.containerd.grpc.v1.cri"
_PAUSE = "registry.k8s.io/pause:3.10.1"
# For a sandbox's own process (``DefaultSandboxCPUshares``, ``defaultSandboxOOMAdj``).
_SANDBOX_SHARES, _SANDBOX_SCORE = 2, -998
_ANNOTATION = "io.kubernetes.cri"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SYSTEM_MOUNTS = (
    *SYSTEM_MOUNTS[:3],
    ("/dev/shm", "tmpfs", "shm", "nosuid noexec nodev mode=1777 size=65536k"),
    *SYSTEM_MOUNTS[3:],
)
_DEFAULT_CAPABILITIES = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
]
#: The capabilities of capabilities(7), in the order of their numbers.
ALL_CAPABILITIES = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
]


def cgroups_path(parent: str, id: str) -> str:
    """``linux.cgroupsPath`` below a cgroup parent, in the notation of the cgroup driver."""
    base = posixpath.basename(parent)
    if base.endswith(".slice"):
        return f"{base}:cri-containerd:{id}"
    return posixpath.join(parent, id)


def container_spec(
    config: ContainerConfig, sandbox: SandboxConfig, assumptions: Assumptions
) -> dict[str, Any]:
    """The specification of a container, in the state in which plugins receive the container."""
    security = config.security
    mounts, rootfs_propagation = _mounts(config, sandbox)
    resources = config.resources.oci(assumptions.swap_limits)
    if assumptions.disable_hugetlb_controller:
        # ``WithResources``. Updates have such limits nevertheless.
        resources.pop("hugepageLimits", None)
    linux: dict[str, Any] = {
        "resources": {"devices": [{"allow": security.privileged, "access": "rwm"}], **resources},
        "cgroupsPath": cgroups_path(sandbox.cgroup_parent, config.id),
        "namespaces": _namespaces(config, sandbox, assumptions),
    }
    if sandbox.id_mappings:
        mappings = [
            {"containerID": item.container, "hostID": item.host, "size": item.size}
            for item in sandbox.id_mappings
        ]
        linux["uidMappings"] = linux["gidMappings"] = mappings
    if rootfs_propagation:
        linux["rootfsPropagation"] = rootfs_propagation
    if not security.privileged:
        linux["maskedPaths"] = list(security.masked_paths)
        linux["readonlyPaths"] = list(security.readonly_paths)
    root: dict[str, Any] = {"path": "rootfs"}
    if security.readonly_root:
        root["readonly"] = True
    return {
        "ociVersion": _OCI_VERSION,
        "process": _process(config, sandbox, assumptions),
        "root": root,
        "mounts": mounts,
        "annotations": _annotations(config, sandbox),
        "linux": linux,
    }


def _process(
    config: ContainerConfig, sandbox: SandboxConfig, assumptions: Assumptions
) -> dict[str, Any]:
    security = config.security
    hostname = sandbox.hostname or assumptions.hostname or assumptions.node_name
    defaults = [f"PATH={_PATH}", *(["TERM=xterm"] if config.tty else []), f"HOSTNAME={hostname}"]
    own = [f"{name}={value}" for name, value in config.env.items()]
    # The additional groups contain the group itself. The groups in the image's files are unknown.
    groups = sorted({security.user.gid, *security.supplemental_groups})
    process: dict[str, Any] = {
        "user": {"uid": security.user.uid, "gid": security.user.gid, "additionalGids": groups},
        "args": list(config.args),
        "env": _env(defaults, [*config.image_env, *own]),
        "cwd": config.cwd or "/",
        "capabilities": _capabilities(config),
        "oomScoreAdj": config.resources.oom_score_adj,
    }
    if config.tty:
        process["terminal"] = True
    if security.no_new_privileges:
        process["noNewPrivileges"] = True
    if security.apparmor:
        process["apparmorProfile"] = security.apparmor
    return process


def _env(defaults: Sequence[str], more: Iterable[str]) -> list[str]:
    """``replaceOrAppendEnvValues`` in ``pkg/oci``.

    It replaces defaults only: a variable of both the image and the manifest occurs twice, the image's entry first.
    A name without a value removes a default.
    """
    places = {entry.partition("=")[0]: number for number, entry in enumerate(defaults)}
    env = list(defaults)
    for entry in more:
        name, equals, _ = entry.partition("=")
        if name in places:
            env[places[name]] = entry if equals else ""
        elif equals:
            env.append(entry)
    return [entry for entry in env if entry]


def _capabilities(config: ContainerConfig) -> dict[str, list[str]]:
    security = config.security
    if security.privileged:
        present = list(ALL_CAPABILITIES)
    else:
        add = [name.upper() for name in security.add_capabilities]
        drop = [name.upper() for name in security.drop_capabilities]
        present = list(ALL_CAPABILITIES if "ALL" in add else _DEFAULT_CAPABILITIES)
        if "ALL" in drop:
            present = []
        added = [_capability(name) for name in add if name != "ALL"]
        present += [name for name in dict.fromkeys(added) if name not in present]
        gone = {_capability(name) for name in drop}
        present = [name for name in present if name not in gone]
    return {kind: list(present) for kind in ("bounding", "effective", "permitted")}


def _capability(name: str) -> str:
    # Even if it has the prefix already (``WithCapabilities`` in ``internal/cri/opts``).
    return f"CAP_{name}"


def _namespaces(
    config: ContainerConfig, sandbox: SandboxConfig, assumptions: Assumptions
) -> list[dict[str, str]]:
    of_sandbox = f"/proc/{sandbox.pid}/ns"
    processes = {"type": "pid"}
    if config.target_pid:
        processes["path"] = f"/proc/{config.target_pid}/ns/pid"
    elif sandbox.host_pid or sandbox.share_processes:
        processes["path"] = f"{of_sandbox}/pid"
    namespaces = [
        processes,
        {"type": "ipc", "path": f"{of_sandbox}/ipc"},
        {"type": "uts", "path": f"{of_sandbox}/uts"},
        {"type": "mount"},
        {"type": "network", "path": f"{of_sandbox}/net"},
    ]
    if assumptions.cgroup_version == 2 and not config.security.privileged:
        namespaces.append({"type": "cgroup"})
    if sandbox.id_mappings:
        namespaces.append({"type": "user", "path": f"{of_sandbox}/user"})
    return namespaces


def _annotations(config: ContainerConfig, sandbox: SandboxConfig) -> dict[str, str]:
    return {
        f"{_ANNOTATION}.container-name": config.name,
        f"{_ANNOTATION}.container-type": "container",
        f"{_ANNOTATION}.image-name": config.image,
        **_sandbox_annotations(sandbox),
    }


def _sandbox_annotations(sandbox: SandboxConfig) -> dict[str, str]:
    return {
        f"{_ANNOTATION}.sandbox-id": sandbox.id,
        f"{_ANNOTATION}.sandbox-name": sandbox.name,
        f"{_ANNOTATION}.sandbox-namespace": sandbox.namespace,
        f"{_ANNOTATION}.sandbox-uid": sandbox.uid,
    }


def sandbox_spec(sandbox: SandboxConfig) -> dict[str, Any]:
    """The part of a sandbox's specification that plugins see (``sandboxContainerSpec``)."""
    resources = sandbox.resources
    return {
        "ociVersion": _OCI_VERSION,
        "process": {"oomScoreAdj": _SANDBOX_SCORE},
        "annotations": {
            f"{_ANNOTATION}.container-type": "sandbox",
            f"{_ANNOTATION}.podsandbox.image-name": _PAUSE,
            **_sandbox_annotations(sandbox),
            f"{_ANNOTATION}.sandbox-cpu-period": str(resources.period),
            f"{_ANNOTATION}.sandbox-cpu-quota": str(resources.quota),
            f"{_ANNOTATION}.sandbox-cpu-shares": str(resources.shares),
            f"{_ANNOTATION}.sandbox-log-directory": sandbox.log_directory,
            f"{_ANNOTATION}.sandbox-memory": str(resources.memory_limit),
        },
        "linux": {
            "cgroupsPath": cgroups_path(sandbox.cgroup_parent, sandbox.id),
            "namespaces": list(_sandbox_namespaces(sandbox)),
            "resources": {
                "devices": [{"allow": False, "access": "rwm"}],
                "cpu": {"shares": _SANDBOX_SHARES},
            },
        },
    }


def _sandbox_namespaces(sandbox: SandboxConfig) -> Iterable[dict[str, str]]:
    if not sandbox.host_pid:
        yield {"type": "pid"}
    if not sandbox.host_ipc:
        yield {"type": "ipc"}
    if not sandbox.host_network:
        yield {"type": "uts"}
    yield {"type": "mount"}
    if not sandbox.host_network:
        path = f"/var/run/netns/cni-{uid('network', sandbox.id)}"
        yield {"type": "network", "path": path}
    if sandbox.id_mappings and sandbox.host_network:
        yield {"type": "user"}
    elif sandbox.id_mappings:
        # The sandbox owns the network namespace, which containerd creates before the sandbox's process.
        pinned = f"{STATE}/sandboxes/{sandbox.id}/pinned-namespaces"
        yield {"type": "user", "path": f"{pinned}/user"}


# Mounts


def _mounts(config: ContainerConfig, sandbox: SandboxConfig) -> tuple[list[dict[str, Any]], str]:
    """``mounts``, and ``linux.rootfsPropagation``."""
    taken = {posixpath.normpath(mount.destination) for mount in config.mounts}
    extra = [
        mount
        for mount in _runtime_mounts(config, sandbox)
        if posixpath.normpath(mount.destination) not in taken
    ]
    # The sort is stable. A deeper mount has to come later.
    wanted = sorted([*config.mounts, *extra], key=_depth)
    places = {posixpath.normpath(mount.destination) for mount in wanted}
    propagations = {mount.propagation for mount in wanted}
    mounts = list(
        _system_mounts(config, places, bool(sandbox.id_mappings and sandbox.host_network))
    )
    mounts += [_bind(mount, sandbox) for mount in wanted]
    return mounts, next((kind for kind in ("rshared", "rslave") if kind in propagations), "")


def _depth(mount: MountConfig) -> int:
    return posixpath.normpath(mount.destination).count("/")


def _runtime_mounts(config: ContainerConfig, sandbox: SandboxConfig) -> Iterable[MountConfig]:
    """The mounts that containerd adds (``linuxContainerMounts``), and the image's volumes."""
    readonly = config.security.readonly_root
    files = f"{_ROOT}/sandboxes/{sandbox.id}"
    for name in ("hostname", "hosts", "resolv.conf"):
        yield MountConfig(f"/etc/{name}", f"{files}/{name}", readonly=readonly)
    shm = "/dev/shm" if sandbox.host_ipc else f"{STATE}/sandboxes/{sandbox.id}/shm"
    yield MountConfig("/dev/shm", shm)
    for volume in config.image_volumes:
        source = f"{_ROOT}/containers/{config.id}/volumes"
        destination = volume if volume.startswith("/") else f"/{volume}"
        yield MountConfig(destination, f"{source}/{container_id('volume', config.id, volume)}")


def _system_mounts(
    config: ContainerConfig, places: set[str], bind_sysfs: bool
) -> Iterable[dict[str, Any]]:
    for destination, kind, source, options in _SYSTEM_MOUNTS:
        if destination in places or ("/dev" in places and destination.startswith("/dev/")):
            continue
        if destination == "/sys" and bind_sysfs:
            kind, source, options = "bind", "/sys", "rbind rro nosuid nodev noexec"
        elif config.security.privileged and kind in ("sysfs", "cgroup"):
            options = f"{options[:-2]}rw"
        yield {
            "destination": destination,
            "type": kind,
            "source": source,
            "options": options.split(),
        }


def _bind(mount: MountConfig, sandbox: SandboxConfig) -> dict[str, Any]:
    readonly = "rro" if mount.recursive_readonly else "ro"
    access = readonly if mount.readonly else "rw"
    bind: dict[str, Any] = {
        "destination": mount.destination,
        "type": "bind",
        "source": mount.source,
        "options": ["rbind", mount.propagation, access],
    }
    if sandbox.id_mappings and mount.destination != "/dev/shm":
        mappings = [
            {"containerID": item.container, "hostID": item.host, "size": item.size}
            for item in sandbox.id_mappings
        ]
        bind["uidMappings"] = bind["gidMappings"] = mappings
    return bind
