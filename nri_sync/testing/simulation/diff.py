"""The changes between two OCI runtime specifications, with the plugin that made each change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable, NamedTuple

from nri_sync.api import Field, Owners, removal
from nri_sync.api.nri_pb2 import ContainerAdjustment
from nri_sync.api.oci import hooks_to_oci

__all__ = ["Change", "Place", "compare", "creation_owners"]


class Place(NamedTuple):
    """A place in a specification: a path of keys, and for an entry of a list or map the key of the entry.

    ``str()`` is ``process.env[LANG]``, ``mounts[/data]``, ``linux.resources.cpu.shares``.
    """

    path: str
    key: str | None = None

    def __str__(self) -> str:
        return self.path if self.key is None else f"{self.path}[{self.key}]"


class Change(NamedTuple):
    """One difference; None stands for a missing value."""

    place: Place
    before: Any
    after: Any
    #: The full name of the plugin; empty if no plugin made the change.
    owner: str = ""

    def plain(self) -> dict[str, Any]:
        """A dict for JSON."""
        return {
            "path": str(self.place),
            "before": self.before,
            "after": self.after,
            "owner": self.owner,
        }


# Lists whose entries have a name, and the key of that name.
_NAMED = {
    "mounts": "destination",
    "linux.devices": "path",
    "linux.namespaces": "type",
    "linux.resources.hugepageLimits": "pageSize",
    "process.rlimits": "type",
}
_ENV = "process.env"
_HOOKS = "hooks."
_RULES = "linux.resources.devices"
#: Maps whose keys the user chooses.
_MAPS = frozenset(
    {"annotations", "linux.netDevices", "linux.resources.unified", "linux.sysctl"},
)
# Objects that are compared as a whole, because their parts have no meaning alone.
_WHOLE = frozenset(
    {
        "linux.memoryPolicy", "linux.resources.blockIO", "linux.seccomp", "process.ioPriority",
        "process.scheduler",
    }
)  # fmt: skip


def compare(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    owner_of: Callable[[Place], str] = lambda place: "",
) -> list[Change]:
    """The differences in the order of the specification; places that ``before`` has come first."""
    old, new = dict(_leaves("", before)), dict(_leaves("", after))
    return [
        Change(place, old.get(place), new.get(place), owner_of(place))
        for place in {**old, **new}
        if old.get(place) != new.get(place)
    ]


def _leaves(path: str, value: Any) -> Iterator[tuple[Place, Any]]:
    if isinstance(value, Mapping) and path not in _WHOLE:
        for key, item in value.items():
            if path in _MAPS:
                yield Place(path, key), item
            else:
                yield from _leaves(f"{path}.{key}" if path else key, item)
    elif isinstance(value, list) and _has_entries(path):
        yield from _entries(path, value)
    elif value is not None:
        yield Place(path), value


def _has_entries(path: str) -> bool:
    return path in _NAMED or path in (_ENV, _RULES) or path.startswith(_HOOKS)


def _entries(path: str, items: list[Any]) -> Iterator[tuple[Place, Any]]:
    """The entries by name. If several have one name, all but the first also have a number."""
    seen: dict[str, int] = {}
    for number, item in enumerate(items):
        if path == _ENV:
            name, _, value = item.partition("=")
        elif path in _NAMED:
            name, value = str(item.get(_NAMED[path])), item
        else:
            name, value = str(number), item
        seen[name] = seen.get(name, 0) + 1
        yield Place(path, name if seen[name] == 1 else f"{name} #{seen[name]}"), value


# Owners

_ENTRIES = {
    "annotations": Field.Annotations,
    "linux.devices": Field.Devices,
    "linux.namespaces": Field.Namespace,
    "linux.netDevices": Field.LinuxNetDevices,
    "linux.resources.hugepageLimits": Field.HugepageLimits,
    "linux.resources.unified": Field.CgroupsUnified,
    "linux.sysctl": Field.Sysctl,
    "mounts": Field.Mounts,
    "process.env": Field.Env,
    "process.rlimits": Field.Rlimits,
}
_SINGLE = {
    "linux.cgroupsPath": Field.CgroupsPath,
    "linux.intelRdt.enableMonitoring": Field.RdtEnableMonitoring,
    "linux.intelRdt.schemata": Field.RdtSchemata,
    "linux.memoryPolicy": Field.MemoryPolicy,
    "linux.resources.blockIO": Field.BlockioClass,
    "linux.resources.cpu.cpus": Field.CPUSetCPUs,
    "linux.resources.cpu.mems": Field.CPUSetMems,
    "linux.resources.cpu.period": Field.CPUPeriod,
    "linux.resources.cpu.quota": Field.CPUQuota,
    "linux.resources.cpu.realtimePeriod": Field.CPURealtimePeriod,
    "linux.resources.cpu.realtimeRuntime": Field.CPURealtimeRuntime,
    "linux.resources.cpu.shares": Field.CPUShares,
    "linux.resources.memory.limit": Field.MemLimit,
    # A runtime sets swap together with the limit.
    "linux.resources.memory.swap": Field.MemLimit,
    "linux.resources.pids.limit": Field.PidsLimit,
    "linux.seccomp": Field.SeccompPolicy,
    "process.args": Field.Args,
    "process.ioPriority": Field.IoPriority,
    "process.oomScoreAdj": Field.OomScoreAdj,
    "process.scheduler": Field.LinuxSched,
}


def creation_owners(
    id: str,
    owners: Owners,
    adjustments: Sequence[tuple[str, ContainerAdjustment]],
    before: Mapping[str, Any],
    after: Mapping[str, Any],
) -> Callable[[Place], str]:
    """A function that returns the plugin that has changed a place in the specification of a new container.

    Args:
        id: of the container.
        adjustments: the plugins by name, with their adjustments, in order.
        before, after: the specifications.
    """
    hooks = _hook_owners(adjustments, before)
    removers = _removers(adjustments)
    devices = {
        (item.get("type"), item.get("major"), item.get("minor")): item.get("path")
        for item in (after.get("linux") or {}).get("devices") or ()
    }
    rules = ((after.get("linux") or {}).get("resources") or {}).get("devices") or []
    # Changes without another owner come from the injector of CDI devices.
    injected = ", ".join(dict.fromkeys(owners.entries(id, Field.CdiDevices).values()))

    def owner(field: int, key: str | None = None) -> str:
        return removal.unmark(owners.owner(id, field, key) or "").key

    def owner_of(place: Place) -> str:
        path, key = place
        found = ""
        if path in _ENTRIES and key is not None:
            name = key.partition(" #")[0]
            found = owner(_ENTRIES[path], name) or removers.get(Place(path, name), "")
        elif path in _SINGLE:
            found = owner(_SINGLE[path])
        elif path == "linux.intelRdt.closID":
            found = owner(Field.RdtClass) or owner(Field.RdtClosID)
        elif path.startswith(_HOOKS):
            found = hooks.get(place, "")
        elif path == _RULES and key is not None and int(key) < len(rules):
            rule = rules[int(key)]
            device = devices.get((rule.get("type"), rule.get("major"), rule.get("minor")))
            found = owner(Field.Devices, device) if device else ""
        elif path == "linux.rootfsPropagation":
            found = ", ".join(
                dict.fromkeys(
                    name
                    for name, adjustment in adjustments
                    for mount in adjustment.mounts
                    if {"rshared", "rslave"} & set(mount.options)
                )
            )
        return found or injected

    return owner_of


def _removers(adjustments: Sequence[tuple[str, ContainerAdjustment]]) -> dict[Place, str]:
    """The plugins that have removed entries of the container itself, which have no owner."""
    found = {}
    for name, adjustment in adjustments:
        linux = adjustment.linux
        keys = {
            "annotations": list(adjustment.annotations),
            "linux.devices": [item.path for item in linux.devices],
            "linux.namespaces": [item.type for item in linux.namespaces],
            "linux.netDevices": list(linux.net_devices),
            "linux.sysctl": list(linux.sysctl),
            "mounts": [item.destination for item in adjustment.mounts],
            "process.env": [item.key for item in adjustment.env],
        }
        for path, marked in keys.items():
            for key in map(removal.unmark, marked):
                if key.marked:
                    found[Place(path, key.key)] = name
    return found


def _hook_owners(
    adjustments: Sequence[tuple[str, ContainerAdjustment]], before: Mapping[str, Any]
) -> dict[Place, str]:
    """The owner of each hook, by its index. Each plugin's hooks follow those of the plugin before."""
    present = before.get("hooks") or {}
    counts = {stage: len(hooks or ()) for stage, hooks in present.items()}
    found = {}
    for name, adjustment in adjustments:
        for stage, hooks in hooks_to_oci(adjustment.hooks).items():
            for _ in hooks:
                found[Place(f"{_HOOKS}{stage}", str(counts.get(stage, 0)))] = name
                counts[stage] = counts.get(stage, 0) + 1
    return found
