"""Applies an adjustment to the message of a container, as a runtime does.

After the creation of a container, containerd (``internal/cri/nri/nri_api_linux.go``) and CRI-O
(``server/nri-api.go``) build the message of the container from its OCI specification, for all later events and for
Synchronize. So plugins receive the values of the specification, and not their merged answers.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

from nri_sync.api import Container, ContainerAdjustment, oci
from nri_sync.api.nri_pb2 import OptionalInt
from nri_sync.runtime.oci import adjust_spec

__all__ = ["adjust_container", "container_to_oci"]


class _Part(NamedTuple):
    """A field of a message, and its form in the specification."""

    #: The object of the specification that contains the field: ``process``, ``linux``, or empty for the top level.
    parent: str
    key: str
    to_oci: Callable[[Any], Any]
    from_oci: Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


_CONTAINER = {
    "annotations": _Part("", "annotations", dict, _same),
    "mounts": _Part("", "mounts", oci.mounts_to_oci, oci.mounts_from_oci),
    "hooks": _Part("", "hooks", oci.hooks_to_oci, oci.hooks_from_oci),
    "args": _Part("process", "args", list, _same),
    "env": _Part("process", "env", list, _same),
    "rlimits": _Part("process", "rlimits", oci.rlimits_to_oci, oci.rlimits_from_oci),
}
_LINUX = {
    "oom_score_adj": _Part(
        "process", "oomScoreAdj", lambda score: score.value, lambda score: OptionalInt(value=score)
    ),
    "io_priority": _Part("process", "ioPriority", oci.io_priority_to_oci, oci.io_priority_from_oci),
    "scheduler": _Part("process", "scheduler", oci.scheduler_to_oci, oci.scheduler_from_oci),
    "namespaces": _Part("linux", "namespaces", oci.namespaces_to_oci, oci.namespaces_from_oci),
    "devices": _Part("linux", "devices", oci.devices_to_oci, oci.devices_from_oci),
    "resources": _Part("linux", "resources", oci.resources_to_oci, oci.resources_from_oci),
    "cgroups_path": _Part("linux", "cgroupsPath", str, _same),
    "seccomp_policy": _Part("linux", "seccomp", oci.seccomp_to_oci, oci.seccomp_from_oci),
    "sysctl": _Part("linux", "sysctl", dict, _same),
    "net_devices": _Part("linux", "netDevices", oci.net_devices_to_oci, oci.net_devices_from_oci),
    "rdt": _Part("linux", "intelRdt", oci.rdt_to_oci, oci.rdt_from_oci),
}


def container_to_oci(container: Container) -> dict[str, Any]:
    """The OCI specification with the fields of a container's message: those that adjustments can change."""
    spec: dict[str, Any] = {"process": {}, "linux": {}}
    for message, parts in ((container, _CONTAINER), (container.linux, _LINUX)):
        for field, value in message.ListFields():
            if field.name in parts:
                part = parts[field.name]
                parent = spec[part.parent] if part.parent else spec
                parent[part.key] = part.to_oci(value)
    return spec


def adjust_container(
    container: Container, adjustment: ContainerAdjustment, **callbacks: Any
) -> Container:
    """Apply a merged adjustment to a container, and return the new container. Neither argument is changed.

    Fields that the specification does not have stay, for example the name, the labels and the state. Fields that
    the adjustment does not change in the specification stay, too.

    Args:
        callbacks: the callbacks of :func:`nri_sync.runtime.oci.adjust_spec`. They receive a specification that has
            only the fields of the message.

    Raises:
        SpecError: as ``adjust_spec``. A runtime does not create the container then.

    Exceptions of callbacks come out unchanged.
    """
    before = container_to_oci(container)
    after = adjust_spec(before, adjustment, **callbacks)
    made = Container()
    made.CopyFrom(container)
    _read(made, _CONTAINER, before, after)
    _read(made.linux, _LINUX, before, after)
    return made


def _read(
    message: Any,
    parts: dict[str, _Part],
    before: dict[str, Any],
    after: dict[str, Any],
) -> None:
    """Set the fields whose values in the specification have changed."""
    for field, part in parts.items():
        old, new = (
            ((spec.get(part.parent) or {}) if part.parent else spec).get(part.key)
            for spec in (before, after)
        )
        if new != old:
            message.ClearField(field)
            if new is not None:
                message.MergeFrom(type(message)(**{field: part.from_oci(new)}))
