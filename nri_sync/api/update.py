"""The changes that a plugin requests for existing containers.

An Update builds a ContainerUpdate message for one container. Functions and handlers accept either of them. Only
resources can be updated::

    return [Update(container.id).set_cpu(cpus="0-1") for container in containers]

An Update is not thread-safe.
"""

from __future__ import annotations

from nri_sync.api import _check, repeats
from nri_sync.api.nri_pb2 import ContainerEviction, ContainerUpdate, LinuxResources
from nri_sync.api.resources import ResourceSettings

__all__ = ["Update", "eviction"]


class Update(ResourceSettings):
    """Builds a ContainerUpdate.

    With ``ignore_failure``, an operation that includes the update, such as the creation of another container,
    succeeds even if the update fails.
    """

    def __init__(self, container_id: str, *, ignore_failure: bool = False) -> None:
        #: The message that the setters write to.
        self.message = ContainerUpdate(
            container_id=_named(container_id),
            ignore_failure=_check.flag("ignore_failure", ignore_failure),
        )
        self._entries = repeats.Entries()

    @classmethod
    def of(cls, message: ContainerUpdate) -> Update:
        """An Update on top of a message, which is not copied."""
        update = cls.__new__(cls)
        update.message = message
        update._entries = repeats.Entries()
        return update

    @property
    def resources(self) -> LinuxResources:
        return self.message.linux.resources

    def __repr__(self) -> str:
        return f"Update({' '.join(str(self.message).split())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Update) and self.message == other.message

    __hash__ = None  # type: ignore[assignment]


def _named(container_id: str) -> str:
    if not _check.text("container_id", container_id):
        raise ValueError("container_id '' is empty, and names no container")
    return container_id


def eviction(container_id: str, reason: str = "") -> ContainerEviction:
    """A request to stop a container, with a reason for human readers.

    Pass it to Stub.update_containers, or put it into a response that has evictions.
    """
    return ContainerEviction(
        container_id=_named(container_id),
        reason=_check.text("eviction reason", reason),
    )
