"""Finds the cgroups of containers and pods.

A runtime sends the path of a container's cgroup in one of two forms, which depend on its cgroup driver:
``/kubepods/burstable/pod<uid>/<id>`` (cgroupfs), or ``kubepods-burstable-pod<uid>.slice:cri-containerd:<id>``
(systemd). The functions of this module turn both into the path below the mount point, and ``CgroupRoot`` turns
that path into a directory. Only ``CgroupRoot`` and ``process_cgroup`` do I/O.
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
# The prefix of pods' cgroups. The kubelet puts each pod ("pod" and its UID) below its node and QoS levels.
_POD = "pod"
# The path of a longer one would be quadratic in its length.
_NAME_MAX = 255


def expand_slice(name: str) -> str:
    """Return the path of a systemd slice: "/a.slice/a-b.slice" for "a-b.slice", and the root "/" for "-.slice".

    Follows ``ExpandSlice`` in github.com/opencontainers/cgroups and systemd.slice(5). Raises ValueError for a text
    that is not the name of a slice. The name of a unit has at most 255 characters (systemd.unit(5)).
    """
    stem = name[: -len(_SLICE)]
    if stem == "-" and name.endswith(_SLICE):
        return "/"
    parts = stem.split("-")
    if not name.endswith(_SLICE) or "/" in name or not all(parts) or len(name) > _NAME_MAX:
        raise ValueError(
            f'{quoted(name)} is not the name of a systemd slice such as "kubepods-burstable.slice"'
        )
    return "".join(f"/{'-'.join(parts[: count + 1])}{_SLICE}" for count in range(len(parts)))


def cgroup_path(cgroups_path: str) -> str:
    """Return the path below the mount point for ``linux.cgroupsPath`` of an OCI specification.

    "slice:prefix:name" is for systemd, which puts the container into the scope prefix-name.scope of the slice. An
    empty slice means system.slice (runc, ``docs/systemd.md``). Absolute paths stay unchanged. Raises ValueError
    for a
    relative or empty path: that is below the cgroup of the OCI runtime, see ``process_cgroup``.
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
            f"the cgroup path {quoted(cgroups_path)} is neither absolute nor slice:prefix:name; only the runtime"
            " knows its place; read it from /proc/PID/cgroup of the running container"
        )
    return _clean(cgroups_path)


def pod_cgroup(pod: api.PodSandbox) -> str | None:
    """Return the path of the cgroup that holds all containers of a pod; None if the pod has no cgroup parent.

    containerd sends the whole path of a slice, CRI-O only its name.
    """
    parent = pod.linux.cgroup_parent
    if not parent:
        return None
    base = posixpath.basename(parent.rstrip("/"))
    return expand_slice(base) if base.endswith(_SLICE) else _clean(f"/{parent}")


def container_cgroup(container: api.Container, pod: api.PodSandbox | None = None) -> str | None:
    """Return the path of a container's cgroup; None if the runtime has not sent it.

    If the runtime leaves the path out, the container is beside the sandbox; with ``pod`` the path is derived from
    the sandbox's. With crun on cgroup v2, the processes are in a cgroup "container" below this one
    (``run.oci.systemd.subgroup`` in crun(1)); this cgroup has the limits.
    """
    path = container.linux.cgroups_path
    if not path and pod is not None and pod.id and pod.id in pod.linux.cgroups_path:
        head, _, tail = pod.linux.cgroups_path.rpartition(pod.id)
        path = f"{head}{container.id}{tail}"
    return cgroup_path(path) if path else None


def cgroup_name(path: str) -> tuple[str, ...]:
    """Return the kubelet's name of a cgroup, for any driver: ("kubepods", "burstable", "pod<uid>").

    For systemd "_" means "-" (``ParseSystemdToCgroupName`` and ``ParseCgroupfsToCgroupName``
    in Kubernetes, ``pkg/kubelet/cm/cgroup_manager_linux.go``).
    """
    base = posixpath.basename(path.rstrip("/"))
    if base.endswith(_SLICE):
        return tuple(part.replace("_", "-") for part in base[: -len(_SLICE)].split("-"))
    return tuple(part for part in path.split("/") if part)


def pod_uid_of_cgroup(path: str) -> str | None:
    """Return the UID of the pod that a cgroup path belongs to; None if no part of the path is a pod of the
    kubelet.

    Paths below the pod's cgroup work, too, for example a line of /proc/PID/cgroup.
    """
    names: list[str] = []
    # Start at the outermost part: a process may be allowed to make cgroups of any name below its own.
    for part in path.split("/"):
        names += cgroup_name(part)
        if "kubepods" in names[:-1] and names[-1].startswith(_POD) and len(names[-1]) > len(_POD):
            return names[-1][len(_POD) :]
    return None


def process_cgroup(pid: int, controller: str = "", proc: str = "/proc") -> str:
    """Return the path of a process's cgroup: for a controller of cgroup v1, or without one for cgroup v2.

    The path is the caller's view: a plugin needs the host's PID namespace and its cgroup namespace.
    Raises FileNotFoundError if the process does not exist, and ValueError if it is not in such a hierarchy.
    """
    text = Path(proc, str(pid), "cgroup").read_text(encoding="utf-8")
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    raise ValueError(f"process {pid} has no cgroup of {controller or 'cgroup v2'}: {quoted(text)}")


@dataclass(frozen=True)
class CgroupRoot:
    """The mount point of cgroups: /sys/fs/cgroup, or the mount point of the host's in a plugin's container.

    cgroup v2 has one hierarchy at ``root``. cgroup v1 has one for each controller, in a directory of the
    controller's name. A hybrid also has v2 in the directory "unified", without controllers.
    """

    root: str = "/sys/fs/cgroup"

    @property
    def version(self) -> int:
        """2, or 1 for cgroup v1 and hybrids; read at each access. Raises FileNotFoundError if there is neither."""
        if Path(self.root, "cgroup.controllers").exists():
            return 2
        if any(Path(self.root, name).is_dir() for name in ("memory", "cpu", "cpuset")):
            return 1
        raise FileNotFoundError(f"no cgroup hierarchy is mounted at {self.root}")

    def directory(self, path: str, controller: str) -> Path:
        """Return the directory of a cgroup with the files of a controller ("cpu", "memory", "cpuset", ...).

        The directory may not exist yet: the runtime makes a container's after the handler create_container.
        """
        inside = _clean(f"/{path}").lstrip("/")
        if self.version == 2:
            return Path(self.root, inside)
        return Path(self.root, controller, inside)


def _clean(path: str) -> str:
    """Return an absolute path without double slashes, and without "..", which could leave the hierarchy."""
    return posixpath.normpath("/" + path.lstrip("/"))
