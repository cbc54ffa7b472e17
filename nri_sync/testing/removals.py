"""Finds requested removals that have no effect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable, NamedTuple

from nri_sync.api import removal
from nri_sync.api.nri_pb2 import ContainerAdjustment

__all__ = ["NoEffectWarning", "ineffective_removals"]

_Spec = Mapping[str, Any]


class NoEffectWarning(UserWarning):
    """A plugin's request has no effect: the runtime keeps the entry, or is too old to know the field."""


class _Kind(NamedTuple):
    """A kind of entry: its name, its keys in an adjustment, and its keys in an OCI specification."""

    name: str
    asked: Callable[[ContainerAdjustment], Iterable[str]]
    present: Callable[[_Spec], Iterable[str]]
    #: The reason why the container keeps such an entry.
    reason: str


_OWN = "it belongs to the container itself, and a runtime only removes entries that an earlier plugin has added"
_FIRST = "an earlier plugin has set it, and a runtime keeps such an entry"
_TWICE = "the container has it twice"

_KINDS = (
    _Kind(
        "environment variable",
        lambda adjustment: (entry.key for entry in adjustment.env),
        lambda spec: (entry.partition("=")[0] for entry in _in(spec, "process", "env")),
        _OWN,
    ),
    _Kind(
        "device",
        lambda adjustment: (device.path for device in adjustment.linux.devices),
        lambda spec: (device.get("path") for device in _in(spec, "linux", "devices")),
        _OWN,
    ),
    _Kind(
        "mount",
        lambda adjustment: (mount.destination for mount in adjustment.mounts),
        lambda spec: (mount.get("destination") for mount in spec.get("mounts") or ()),
        _TWICE,
    ),
    _Kind(
        "annotation",
        lambda adjustment: adjustment.annotations,
        lambda spec: spec.get("annotations") or (),
        _FIRST,
    ),
    _Kind(
        "sysctl",
        lambda adjustment: adjustment.linux.sysctl,
        lambda spec: _in(spec, "linux", "sysctl"),
        _FIRST,
    ),
    _Kind(
        "network device",
        lambda adjustment: adjustment.linux.net_devices,
        lambda spec: _in(spec, "linux", "netDevices"),
        _FIRST,
    ),
    _Kind(
        "namespace",
        lambda adjustment: (namespace.type for namespace in adjustment.linux.namespaces),
        lambda spec: (namespace.get("type") for namespace in _in(spec, "linux", "namespaces")),
        _TWICE,
    ),
)


def _in(spec: _Spec, parent: str, key: str) -> Any:
    return (spec.get(parent) or {}).get(key) or ()


def ineffective_removals(
    asked: Sequence[tuple[str, ContainerAdjustment]], made: _Spec
) -> list[str]:
    """One sentence for each requested removal of an entry that a runtime keeps.

    Args:
        asked: plugins (by any names) and their adjustments, in the order of their calls.
        made: the OCI specification that a runtime has made from all adjustments.
    """
    found = []
    for kind in _KINDS:
        present = set(kind.present(made))
        set_later: set[str] = set()
        for plugin, adjustment in reversed(asked):
            keys = list(kind.asked(adjustment))
            set_later |= {key for key in keys if not removal.is_marked(key)}
            removed = {removal.unmark(key).key for key in keys if removal.is_marked(key)}
            found += [
                f"plugin {plugin}: the removal of {kind.name} {key!r} has no effect: {kind.reason}"
                for key in sorted((removed & present) - set_later)
            ]
    return found
