"""Merges the answers of all plugins to one request.

There is one class for each request whose answers have content. A relay makes an object of the class for a request,
sends ``request`` to one plugin after the other, and passes each answer to ``apply``. Then ``reply`` is the merged
answer::

    result = CreateResult(request)
    for plugin in plugins:
        result.apply(plugin.name, plugin.call(result.request))
    return result.reply

This module does no I/O, waits for nothing and takes no lock: use a result on one thread at a time. It copies the
caller's request and does not change it. After a ConflictError the request fails: discard the result.

The results are those of the reference runtime side in Go, including its odd ones, because a simulator that differs
from containerd misleads its users. If the reference loses a change, this module logs a warning; docs/merging.md
has the list.
"""

from __future__ import annotations

from collections.abc import Iterable

from nri_sync.api import (
    Container,
    ContainerAdjustment,
    ContainerEviction,
    ContainerUpdate,
    CreateContainerRequest,
    CreateContainerResponse,
    LinuxResources,
    Owners,
    StopContainerRequest,
    StopContainerResponse,
    UpdateContainerRequest,
    UpdateContainerResponse,
)
from nri_sync.errors import ConflictError
from nri_sync.runtime.claims import OwnershipClaims
from nri_sync.runtime.merge_adjustment import Original, merge_adjustment
from nri_sync.runtime.merge_resources import merge_update
from nri_sync.runtime.quoting import go_quote

__all__ = ["CreateResult", "StopResult", "UpdateResult"]


class _Result:
    """The common part of the three classes: owners, and updates of existing containers."""

    def __init__(self) -> None:
        #: The owners of all fields that plugins have set so far.
        self.owners = Owners()
        # By container id, in the order of first mention.
        self._updates: dict[str, ContainerUpdate] = {}

    def _merge_updates(self, plugin: str, updates: Iterable[ContainerUpdate]) -> None:
        for update in updates:
            self._merge_update(OwnershipClaims(self.owners, plugin, update.container_id), update)

    def _merge_update(self, claims: OwnershipClaims, update: ContainerUpdate) -> None:
        entry = self._entry(update)
        base = self._base(entry)
        if update.linux.HasField("resources"):
            # Merge into a copy: an ignored conflict must change nothing except the claims.
            merged = LinuxResources()
            merged.CopyFrom(base)
            try:
                merge_update(claims, update.linux.resources, merged)
            except ConflictError as conflict:
                if not update.ignore_failure:
                    raise
                claims.warn_lost("the update", f"{str(conflict).rstrip()}, and it may fail")
            else:
                base.CopyFrom(merged)
                entry.linux.resources.CopyFrom(merged)
        if base != entry.linux.resources:
            claims.warn_lost(
                "the content of the request itself",
                "the first update of the container sets nothing; a later one brings it back",
            )

    def _entry(self, update: ContainerUpdate) -> ContainerUpdate:
        """The merged update of the same container. It is made for the first update of the container."""
        entry = self._updates.get(update.container_id)
        if entry is None:
            entry = ContainerUpdate(
                container_id=update.container_id, ignore_failure=update.ignore_failure
            )
            _fill_resources(entry.linux.resources)
            self._updates[update.container_id] = entry
        else:
            entry.ignore_failure = entry.ignore_failure and update.ignore_failure
        return entry

    def _base(self, entry: ContainerUpdate) -> LinuxResources:
        """The resources that an update is merged into."""
        return entry.linux.resources


class CreateResult(_Result):
    """The result of a CreateContainer request.

    Raises ValueError for a request without a container.
    """

    def __init__(self, request: CreateContainerRequest) -> None:
        super().__init__()
        _check_container(request)
        #: The request for the next plugin. ``apply`` changes it in place.
        self.request = CreateContainerRequest()
        self.request.CopyFrom(request)
        _fill(self.request.container)
        #: The container before all changes, for validators.
        self.original = Container()
        self.original.CopyFrom(self.request.container)
        self._original = Original(self.original)
        self._adjust = ContainerAdjustment()
        _fill(self._adjust)

    def apply(self, plugin: str, response: CreateContainerResponse | None) -> None:
        """Merge the answer of a plugin, by its full name ``NN-name``; None changes nothing.

        Raises ConflictError if it cannot be merged.
        """
        if response is None:
            return
        container = self.request.container
        if response.HasField("adjust"):
            claims = OwnershipClaims(self.owners, plugin, container.id)
            merge_adjustment(claims, response.adjust, self._original, container, self._adjust)
        self._merge_updates(plugin, response.update)
        _drop_evictions(self.owners, plugin, response.evict)

    def _merge_update(self, claims: OwnershipClaims, update: ContainerUpdate) -> None:
        if update.container_id == self.request.container.id:
            raise ConflictError(
                f"plugin {go_quote(claims.plugin)} asked update of {go_quote(update.container_id)}"
                " during creation",
                plugin=claims.plugin,
            )
        super()._merge_update(claims, update)

    @property
    def reply(self) -> CreateContainerResponse:
        """All answers so far, as a new message. ``api.strip`` removes the empty parts of its ``adjust``."""
        return CreateContainerResponse(adjust=self._adjust, update=self._updates.values())


class UpdateResult(_Result):
    """The result of an UpdateContainer request.

    Raises ValueError for a request without a container.
    """

    def __init__(self, request: UpdateContainerRequest) -> None:
        super().__init__()
        _check_container(request)
        #: The request for the next plugin. ``apply`` changes it in place.
        self.request = UpdateContainerRequest()
        self.request.CopyFrom(request)
        _fill_resources(self.request.linux_resources)

    def apply(self, plugin: str, response: UpdateContainerResponse | None) -> None:
        """Merge the answer of a plugin, as for CreateResult."""
        if response is not None:
            self._merge_updates(plugin, response.update)
            _drop_evictions(self.owners, plugin, response.evict)

    def _base(self, entry: ContainerUpdate) -> LinuxResources:
        if entry.container_id == self.request.container.id:
            return self.request.linux_resources
        return super()._base(entry)

    @property
    def requested(self) -> ContainerUpdate | None:
        """The merged update of the container of the request, with all values that the runtime has to set.

        None if no plugin updates this container: the runtime applies the request unchanged.
        """
        return self._updates.get(self.request.container.id)

    @property
    def reply(self) -> UpdateContainerResponse:
        """All answers so far, as a new message. An update of the requested container is the last one.

        Without such an update the reference has a null in its place, which a message cannot contain.
        """
        requested = self.requested
        updates = [update for update in self._updates.values() if update is not requested]
        if requested is not None:
            updates.append(requested)
        return UpdateContainerResponse(update=updates)


class StopResult(_Result):
    """The result of a StopContainer request."""

    def __init__(self, request: StopContainerRequest) -> None:
        super().__init__()
        #: The request, which no answer changes.
        self.request = request

    def apply(self, plugin: str, response: StopContainerResponse | None) -> None:
        """Merge the answer of a plugin, as for CreateResult."""
        if response is not None:
            self._merge_updates(plugin, response.update)

    @property
    def reply(self) -> StopContainerResponse:
        """All answers so far, as a new message."""
        return StopContainerResponse(update=self._updates.values())


def _check_container(request: CreateContainerRequest | UpdateContainerRequest) -> None:
    if not request.HasField("container"):
        raise ValueError(f"the {type(request).__name__} has no container")


def _fill(message: Container | ContainerAdjustment) -> None:
    """Add the empty messages that the reference adds, because plugins and runtimes rely on them."""
    message.hooks.SetInParent()
    _fill_resources(message.linux.resources)


def _fill_resources(resources: LinuxResources) -> None:
    resources.memory.SetInParent()
    resources.cpu.SetInParent()


def _drop_evictions(owners: Owners, plugin: str, evictions: Iterable[ContainerEviction]) -> None:
    for eviction in evictions:
        OwnershipClaims(owners, plugin, eviction.container_id).warn_lost(
            "the eviction", "the merged reply has none"
        )
