"""Applies an adjustment to an OCI runtime specification.

A runtime calls ``adjust_spec`` with the merged adjustment before it creates the container. The function reads
nothing from the machine; callbacks supply the knowledge of the runtime. The result is that of the reference's
generator over opencontainers/runtime-tools, as in containerd. If the generator loses a change, this function loses
it too and logs a warning; docs/merging.md has the list.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from nri_sync.api import (
    CDIDevice,
    ContainerAdjustment,
    Hooks,
    KeyValue,
    LinuxContainerAdjustment,
    LinuxDevice,
    LinuxNamespace,
    LinuxNetDevice,
    LinuxRdt,
    LinuxResources,
    LinuxSeccomp,
    device_access,
    optional,
    removal,
)
from nri_sync.api.oci import (
    UNLIMITED_PIDS,
    devices_to_oci,
    hooks_to_oci,
    io_priority_to_oci,
    memory_policy_to_oci,
    net_devices_to_oci,
    rdt_to_oci,
    resources_to_oci,
    rlimits_to_oci,
    scheduler_to_oci,
    seccomp_to_oci,
)
from nri_sync.errors import SpecError
from nri_sync.runtime.claims import logger
from nri_sync.runtime.oci_mounts import adjust_mounts, host_propagation
from nri_sync.runtime.quoting import go_quote

__all__ = ["adjust_spec", "host_propagation"]

Object = dict[str, Any]
Filter = Callable[[dict[str, str]], Mapping[str, str]]

# The runtime specification also has "time", but runtime-tools does not know it.
_NAMESPACES = frozenset({"network", "pid", "mount", "ipc", "uts", "user", "cgroup"})


def adjust_spec(
    spec: Mapping[str, Any],
    adjustment: ContainerAdjustment,
    *,
    filter_annotations: Filter | None = None,
    filter_sysctl: Filter | None = None,
    inject_cdi: Callable[[Object, list[str]], object] | None = None,
    resolve_blockio: Callable[[str], Object | None] | None = None,
    resolve_rdt: Callable[[str], Object | None] | None = None,
    check_resources: Callable[[Object | None], object] | None = None,
    propagation_of: Callable[[str], str] | None = None,
) -> Object:
    """Apply an adjustment to the specification of a container, and return the new specification.

    Neither argument is changed. ``spec`` is the result of ``json.loads`` of a config.json. Its keys that are not
    in the OCI specification stay.

    Args:
        filter_annotations: receives the annotations of the adjustment, including removals; returns those to apply.
        filter_sysctl: the same for sysctls.
        inject_cdi: changes the new specification in place for the CDI devices with the given names. Without it,
            CDI devices are ignored.
        resolve_blockio: returns ``linux.resources.blockIO`` for a class. Without it, classes are ignored.
        resolve_rdt: returns ``linux.intelRdt`` for a class. Without it, classes are ignored.
        check_resources: receives the new ``linux.resources``, which may be None; may change them, and raises to
            refuse them.
        propagation_of: returns the mount propagation of a path of the host, see ``host_propagation``. Without it,
            the sources of mounts are not checked.

    Raises:
        SpecError: the adjustment has an unknown namespace, or the source of a mount does not allow the requested
            propagation.

    Exceptions of callbacks come out unchanged.
    """
    new: Object = copy.deepcopy(dict(spec))
    _adjust_annotations(new, dict(adjustment.annotations), filter_annotations)
    _adjust_env(new, adjustment.env)
    if adjustment.args:
        _object(new, "process")["args"] = list(adjustment.args)
    _adjust_hooks(new, adjustment.hooks)
    _inject_cdi(new, adjustment.CDI_devices, inject_cdi)
    wanted = adjustment.linux
    _adjust_devices(new, wanted.devices)
    if wanted.cgroups_path:
        _object(new, "linux")["cgroupsPath"] = wanted.cgroups_path
    _adjust_process(new, wanted)
    if wanted.HasField("seccomp_policy"):
        _adjust_seccomp(new, wanted.seccomp_policy)
    _adjust_namespaces(new, wanted.namespaces)
    _adjust_sysctl(new, dict(wanted.sysctl), filter_sysctl)
    _adjust_net_devices(new, wanted.net_devices)
    if wanted.HasField("memory_policy"):
        _object(new, "linux")["memoryPolicy"] = memory_policy_to_oci(wanted.memory_policy)
    if wanted.HasField("resources"):
        _adjust_resources(new, wanted.resources)
        if check_resources is not None:
            check_resources(new["linux"].get("resources"))
        _resolve(new, ("linux", "resources"), "blockIO", wanted.resources, resolve_blockio)
        _resolve(new, ("linux",), "intelRdt", wanted.resources, resolve_rdt)
    if wanted.HasField("rdt"):
        _adjust_rdt(new, wanted.rdt)
    if adjustment.mounts:
        adjust_mounts(new, adjustment.mounts, propagation_of)
    if adjustment.rlimits:
        _list(_object(new, "process"), "rlimits").extend(rlimits_to_oci(adjustment.rlimits))
    return new


def _object(parent: Object, *keys: str) -> Object:
    """The object below some keys. Missing objects are created."""
    for key in keys:
        # A null counts as missing.
        if parent.get(key) is None:
            parent[key] = {}
        parent = parent[key]
    return parent


def _list(parent: Object, key: str) -> list[Any]:
    if parent.get(key) is None:
        parent[key] = []
    found: list[Any] = parent[key]
    return found


def _warn_lost(change: str, reason: str) -> None:
    logger.warning("OCI specification: %s is lost: %s", change, reason)


def _split(entries: Iterable[str]) -> tuple[list[str], list[str]]:
    """The keys to remove, without the mark, and the keys to set."""
    removed: list[str] = []
    kept: list[str] = []
    for key in entries:
        name, marked = removal.unmark(key)
        (removed if marked else kept).append(name)
    return removed, kept


def _adjust_annotations(spec: Object, wanted: dict[str, str], filtered: Filter | None) -> None:
    entries = wanted if filtered is None else filtered(wanted)
    removed, kept = _split(entries)
    for key in removed:
        (spec.get("annotations") or {}).pop(key, None)
    for key in kept:
        _object(spec, "annotations")[key] = entries[key]


def _adjust_sysctl(spec: Object, wanted: dict[str, str], filtered: Filter | None) -> None:
    entries = wanted if filtered is None else filtered(wanted)
    removed, kept = _split(entries)
    for key in removed:
        ((spec.get("linux") or {}).get("sysctl") or {}).pop(key, None)
    for key in kept:
        _object(spec, "linux", "sysctl")[key] = entries[key]


def _adjust_net_devices(spec: Object, wanted: Mapping[str, LinuxNetDevice]) -> None:
    removed, kept = _split(wanted)
    for name in removed:
        _object(spec, "linux", "netDevices").pop(name, None)
    if kept:
        devices = net_devices_to_oci({name: wanted[name] for name in kept})
        _object(spec, "linux", "netDevices").update(devices)


def _adjust_env(spec: Object, wanted: Sequence[KeyValue]) -> None:
    """Set and remove variables. A changed variable keeps its position."""
    # The last entry of a key decides.
    changes = {removal.unmark(entry.key).key: entry for entry in wanted}
    if not changes:
        return
    changed = set()
    env: dict[str, str] = {}
    if spec.get("process") is not None:
        for entry in spec["process"].get("env") or ():
            name, equals, value = entry.partition("=")
            if not equals:
                _warn_lost(f"environment variable {name!r}", "it has no value")
            elif name in changes:
                change = changes.pop(name)
                changed.add(name)
                if not removal.is_marked(change.key):
                    env[name] = change.value
            else:
                if name in changed:
                    _warn_lost(f"the change of environment variable {name!r}", "it is there twice")
                env[name] = value
    for change in wanted:
        if not removal.is_marked(change.key) and change.key in changes:
            env[change.key] = change.value
    env.pop("", None)
    if env or spec.get("process") is not None:
        _object(spec, "process")["env"] = [f"{name}={value}" for name, value in env.items()]


def _adjust_hooks(spec: Object, wanted: Hooks) -> None:
    for stage, hooks in hooks_to_oci(wanted).items():
        _list(_object(spec, "hooks"), stage).extend(hooks)


def _inject_cdi(
    spec: Object,
    devices: Sequence[CDIDevice],
    inject: Callable[[Object, list[str]], object] | None,
) -> None:
    if devices and inject is not None:
        inject(spec, [device.name for device in devices])


def _adjust_devices(spec: Object, wanted: Sequence[LinuxDevice]) -> None:
    for device in wanted:
        path, marked = removal.unmark(device.path)
        listed = (spec.get("linux") or {}).get("devices") or []
        _replace(listed, "path", path, None)
        if marked:
            continue
        listed = _list(_object(spec, "linux"), "devices")
        _replace(listed, "path", path, devices_to_oci([device])[0])
        # The reference reads the file mode, without an effect.
        access = "rwm" if device.type == "b" else "rw"
        if access != device_access(device):
            _warn_lost(f"the access mode of device {path!r}", f"its cgroup allows {access}")
        rule = {"allow": True, "type": device.type, "major": device.major, "minor": device.minor}
        if not device.type:
            del rule["type"]
        _list(_object(spec, "linux", "resources"), "devices").append({**rule, "access": access})


def _replace(items: list[Object], key: str, name: str, new: Object | None) -> None:
    """Replace the first object of that name, or append the new one. With None, remove the first of that name."""
    for number, item in enumerate(items):
        if item.get(key) == name:
            items[number : number + 1] = [] if new is None else [new]
            return
    if new is not None:
        items.append(new)


def _adjust_process(spec: Object, wanted: LinuxContainerAdjustment) -> None:
    score = optional.get(wanted, "oom_score_adj")
    if score is not None:
        _object(spec, "process")["oomScoreAdj"] = score
    if wanted.HasField("io_priority"):
        process = _object(spec, "process")
        process["ioPriority"] = io_priority_to_oci(wanted.io_priority)
        if not process["ioPriority"]["class"]:
            del process["ioPriority"]
    if wanted.HasField("scheduler"):
        process = _object(spec, "process")
        process["scheduler"] = scheduler_to_oci(wanted.scheduler)
        if process["scheduler"] is None:
            del process["scheduler"]


def _adjust_seccomp(spec: Object, wanted: LinuxSeccomp) -> None:
    seccomp = seccomp_to_oci(wanted)
    if seccomp.pop("defaultErrnoRet", None) is not None:
        _warn_lost("the default errno of the seccomp policy", "it is not applied")
    _object(spec, "linux")["seccomp"] = seccomp


def _adjust_namespaces(spec: Object, wanted: Sequence[LinuxNamespace]) -> None:
    for namespace in wanted:
        kind, marked = removal.unmark(namespace.type)
        if kind not in _NAMESPACES:
            raise SpecError(f"unrecognized namespace {go_quote(kind)}")
        if marked:
            listed = (spec.get("linux") or {}).get("namespaces") or []
            _replace(listed, "type", kind, None)
        else:
            listed = _list(_object(spec, "linux"), "namespaces")
            entry = {"type": kind, "path": namespace.path} if namespace.path else {"type": kind}
            _replace(listed, "type", kind, entry)


def _adjust_resources(spec: Object, wanted: LinuxResources) -> None:
    linux = _object(spec, "linux")
    new = resources_to_oci(wanted)
    if new["cpu"]:
        _object(linux, "resources", "cpu").update(new["cpu"])
    limit = new["memory"].get("limit")
    if limit:
        _object(linux, "resources", "memory").update(limit=limit, swap=limit)
    for name in new["memory"]:
        if name != "limit" or not limit:
            _warn_lost(f"memory.{name}", "of memory only a limit is applied, to swap as well")
    for huge in new.get("hugepageLimits", ()):
        listed = _list(_object(linux, "resources"), "hugepageLimits")
        _replace(listed, "pageSize", huge["pageSize"], huge)
    if wanted.unified:
        _object(linux, "resources", "unified").update(wanted.unified)
    if wanted.HasField("pids"):
        pids = _object(linux, "resources", "pids")
        if wanted.pids.limit > UNLIMITED_PIDS:
            pids["limit"] = wanted.pids.limit
        elif "limit" in pids:
            _warn_lost("the removal of the limit of processes", "a limit that is there stays")
    if wanted.devices:
        _list(_object(linux, "resources"), "devices").extend(new["devices"])


def _resolve(
    spec: Object,
    path: tuple[str, ...],
    key: str,
    wanted: LinuxResources,
    resolve: Callable[[str], Object | None] | None,
) -> None:
    """Set the settings that a class resolves to. An empty class name removes the settings."""
    name = optional.get(wanted, "blockio_class" if key == "blockIO" else "rdt_class")
    if name is None or resolve is None:
        return
    settings = resolve(name) if name else None
    parent = _object(spec, *path)
    if settings is None:
        parent.pop(key, None)
    else:
        parent[key] = settings


def _adjust_rdt(spec: Object, wanted: LinuxRdt) -> None:
    if wanted.remove:
        _object(spec, "linux").pop("intelRdt", None)
    settings = rdt_to_oci(wanted)
    for name in ("clos_id", "schemata", "enable_monitoring"):
        if wanted.HasField(name):
            _object(spec, "linux", "intelRdt").update(settings)
            break
