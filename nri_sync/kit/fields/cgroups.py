"""Where containers and pods are in the cgroup hierarchy.

A runtime has the path of a container's cgroup in one of two forms, after the driver that it is
configured with: ``/kubepods/burstable/pod<uid>/<id>`` (cgroupfs), or
``kubepods-burstable-pod<uid>.slice:cri-containerd:<id>`` (systemd). The functions here turn both
into the path below the mount point, which ``CgroupRoot`` turns into a directory. Only
``CgroupRoot`` and ``process_cgroup`` read anything.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from pathlib import Path

from nri_sync import api
from nri_sync.text import quoted

__all__ = [
    "CgroupRoot",
    "cgroup_name",
    "cgroup_path",
    "container_cgroup",
    "expand_slice",
    "pod_cgroup",
    "pod_uid_of_cgroup",
    "process_cgroup",
]

_SLICE = ".slice"
# What the kubelet's own node and QoS levels are called, below which it puts each pod ("pod" and its UID).
_POD = "pod"


def expand_slice(name: str) -> str:
    """The path of a systemd slice: "a-b.slice" is "/a.slice/a-b.slice", and "-.slice" the root,
    "/".

    As ``ExpandSlice`` in github.com/opencontainers/cgroups does, after systemd.slice(5). Raises
    ValueError for what is no name of a slice.
    """
    stem = name[: -len(_SLICE)]
    if stem == "-" and name.endswith(_SLICE):
        return "/"
    parts = stem.split("-")
    if not name.endswith(_SLICE) or "/" in name or not all(parts):
        raise ValueError(
            f'{quoted(name)} is no name of a systemd slice, such as "kubepods-burstable.slice"'
        )
    return "".join(f"/{'-'.join(parts[: count + 1])}{_SLICE}" for count in range(len(parts)))


def cgroup_path(cgroups_path: str) -> str:
    """The path below the mount point for ``linux.cgroupsPath`` of an OCI specification.

    "slice:prefix:name" is for systemd, which has the container in the scope prefix-name.scope of
    the slice; no slice means system.slice (runc, ``docs/systemd.md``). Other paths are taken as
    they are. Raises ValueError for a relative one, and none: these are below the cgroup of the OCI
    runtime, see ``process_cgroup``.
    """
    parts = cgroups_path.split(":")
    if len(parts) == 3:
        parent, prefix, name = parts
        unit = (
            name
            if name.endswith(_SLICE)
            else f"{prefix}-{name}.scope"
            if prefix
            else f"{name}.scope"
        )
        return posixpath.join(expand_slice(parent or "system.slice"), unit)
    if not cgroups_path.startswith("/"):
        raise ValueError(
            f"the cgroup path {quoted(cgroups_path)} is neither absolute nor slice:prefix:name; only the runtime,"
            " and /proc/PID/cgroup of the running container, can tell where it is"
        )
    return _clean(cgroups_path)


def pod_cgroup(pod: api.PodSandbox) -> str | None:
    """The path of the cgroup that holds all containers of a pod, or None if it has no parent of its
    own.

    containerd gives the whole path of a slice, CRI-O its name alone.
    """
    parent = pod.linux.cgroup_parent
    if not parent:
        return None
    base = posixpath.basename(parent.rstrip("/"))
    return expand_slice(base) if base.endswith(_SLICE) else _clean(f"/{parent}")


def container_cgroup(container: api.Container, pod: api.PodSandbox | None = None) -> str | None:
    """The path of a container's cgroup, or None if the runtime has not told it.

    A runtime that leaves it out has the container beside the sandbox, whose path tells when the pod
    is given. With crun on cgroup v2, the processes are in a cgroup below this one, named
    "container" (``run.oci.systemd.subgroup`` in crun(1)); the limits are here.
    """
    path = container.linux.cgroups_path
    if not path and pod is not None and pod.id and pod.id in pod.linux.cgroups_path:
        head, _, tail = pod.linux.cgroups_path.rpartition(pod.id)
        path = f"{head}{container.id}{tail}"
    return cgroup_path(path) if path else None


def cgroup_name(path: str) -> tuple[str, ...]:
    """What the kubelet calls a cgroup of its own, whatever the driver: ("kubepods", "burstable",
    "pod<uid>").

    For systemd "_" stands for "-" (``ParseSystemdToCgroupName`` and ``ParseCgroupfsToCgroupName``
    in Kubernetes, ``pkg/kubelet/cm/cgroup_manager_linux.go``).
    """
    base = posixpath.basename(path.rstrip("/"))
    if base.endswith(_SLICE):
        return tuple(part.replace("_", "-") for part in base[: -len(_SLICE)].split("-"))
    return tuple(part for part in path.split("/") if part)


def pod_uid_of_cgroup(path: str) -> str | None:
    """The UID of the pod that a cgroup path belongs to, or None if no part of it is a pod of the
    kubelet.

    For any path below the pod's too, such as a line of /proc/PID/cgroup.
    """
    names: list[str] = []
    # From the outside: a process may be allowed to make cgroups of any name below its own.
    for part in path.split("/"):
        names += cgroup_name(part)
        if "kubepods" in names[:-1] and names[-1].startswith(_POD) and len(names[-1]) > len(_POD):
            return names[-1][len(_POD) :]
    return None


def process_cgroup(pid: int, controller: str = "", proc: str = "/proc") -> str:
    """The path of a process's cgroup: for a controller of cgroup v1, and without one for cgroup v2.

    As the caller sees it: a plugin needs the host's PID namespace, and its cgroup namespace, too.
    Raises FileNotFoundError if there is no such process, and ValueError if it is in no such
    hierarchy.
    """
    text = Path(proc, str(pid), "cgroup").read_text(encoding="utf-8")
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    raise ValueError(f"process {pid} has no cgroup of {controller or 'cgroup v2'}: {quoted(text)}")


@dataclass(frozen=True)
class CgroupRoot:
    """Where cgroups are mounted: /sys/fs/cgroup, or where a plugin's own container has the host's.

    cgroup v2 has one hierarchy at ``root``. cgroup v1 has one for each controller, in a directory
    of its name; a hybrid has v2 beside them, in "unified", without controllers.
    """

    root: str = "/sys/fs/cgroup"

    @property
    def version(self) -> int:
        """2, or 1 for cgroup v1 and hybrids; looked up each time. Raises FileNotFoundError where
        neither is."""
        if Path(self.root, "cgroup.controllers").exists():
            return 2
        if any(Path(self.root, name).is_dir() for name in ("memory", "cpu", "cpuset")):
            return 1
        raise FileNotFoundError(f"no cgroup hierarchy is mounted at {self.root}")

    def directory(self, path: str, controller: str) -> Path:
        """The directory of a cgroup path, with the files of a controller ("cpu", "memory",
        "cpuset", ...).

        It need not exist: a container's is made when it is created, after the handler
        create_container.
        """
        inside = _clean(f"/{path}").lstrip("/")
        if self.version == 2:
            return Path(self.root, inside)
        return Path(self.root, controller, inside)


def _clean(path: str) -> str:
    """An absolute path without "..", which must not lead out of the hierarchy, and double
    slashes."""
    return posixpath.normpath("/" + path.lstrip("/"))
