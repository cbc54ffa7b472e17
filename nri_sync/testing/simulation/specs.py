"""The specifications of the containers on a simulated node, with the updates applied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nri_sync.api.nri_pb2 import (
    ContainerAdjustment,
    ContainerUpdate,
    LinuxContainerAdjustment,
    LinuxResources,
)
from nri_sync.api.oci import resources_to_oci
from nri_sync.runtime.oci import adjust_spec
from nri_sync.testing.events import rdt_class
from nri_sync.testing.node import given_resources
from nri_sync.testing.simulation.diff import Place, compare
from nri_sync.testing.simulation.report import UpdatedContainer

__all__ = ["Specs"]

#: The requested updates, by the full names of their plugins.
Asked = Sequence[tuple[str, Iterable[ContainerUpdate]]]


class Specs:
    """The specifications by container id."""

    def __init__(self) -> None:
        self._specs: dict[str, Mapping[str, Any]] = {}
        self._names: dict[str, tuple[str, str]] = {}

    def put(self, id: str, pod: str, container: str, spec: Mapping[str, Any]) -> None:
        self._specs[id] = spec
        self._names[id] = (pod, container)

    def remove(self, id: str) -> None:
        self._specs.pop(id, None)
        self._names.pop(id, None)

    def update(self, update: ContainerUpdate, asked: Asked) -> UpdatedContainer:
        """Apply an update, and return its changes. A change that no plugin has ``asked`` for has no owner."""
        id = update.container_id
        spec = self._specs.get(id)
        if spec is None:
            return UpdatedContainer("", "", id, (), unknown=True)
        pod, container = self._names[id]
        resources = update.linux.resources
        new = _updated(spec, resources)
        self._specs[id] = new
        owners = _owners(id, asked)
        changes = compare(spec, new, lambda place: owners.get(_owned(place), ""))
        return UpdatedContainer(pod, container, id, changes)


def _updated(spec: Mapping[str, Any], update: LinuxResources) -> Mapping[str, Any]:
    has = (spec.get("linux") or {}).get("resources") or {}
    given = given_resources(update, bool(has.get("hugepageLimits")))
    linux = LinuxContainerAdjustment(resources=given)
    return adjust_spec(spec, ContainerAdjustment(linux=linux), resolve_rdt=rdt_class)


def _owned(place: Place) -> Place:
    """The place whose owner counts for this place. For example, a runtime sets swap together with the limit."""
    if place.path == "linux.resources.memory.swap":
        return Place("linux.resources.memory.limit")
    if place.path == "linux.intelRdt.closID":
        return Place("rdt_class")
    return place


def _owners(id: str, asked: Asked) -> dict[Place, str]:
    """The plugin that has set each place. Two plugins never set the same place."""
    owners = {}
    for name, updates in asked:
        for update in updates:
            if update.container_id != id:
                continue
            resources = update.linux.resources
            wanted = {"linux": {"resources": resources_to_oci(resources)}}
            for change in compare({}, wanted):
                owners[change.place] = name
            if resources.HasField("rdt_class"):
                owners[Place("rdt_class")] = name
    return owners
