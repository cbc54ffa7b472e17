"""The base class for plugins: every handler with its types."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional, Union

from nri_sync.api import Adjustment, EventMask, Update
from nri_sync.api.nri_pb2 import (
    Container,
    ContainerAdjustment,
    ContainerUpdate,
    CreateContainerResponse,
    LinuxResources,
    PodSandbox,
    StopContainerResponse,
    SynchronizeResponse,
    UpdateContainerResponse,
    ValidateContainerAdjustmentRequest,
)

__all__ = ["CreateResult", "Plugin", "Updates"]

Updates = Optional[Iterable[Union[ContainerUpdate, Update]]]
CreateResult = Union[
    None,
    ContainerAdjustment,
    Adjustment,
    tuple[Union[ContainerAdjustment, Adjustment, None], Updates],
    CreateContainerResponse,
]


class Plugin:
    """Optional base class of plugins. Only the handlers that a subclass defines are served.

    The runtime calls a plugin for one event at a time, and waits for the answer: handlers run on threads of
    the stub, may block (mind the request timeout) and may raise, which fails the pod or container operation
    with the text of the exception. Configure, Synchronize and validations may run at the same time as another
    handler, and so may a handler that was too late for its own request. Messages that are absent in a request
    are passed as empty ones.
    """

    def configure(self, config: str, runtime: str, version: str) -> EventMask | None:
        """Called first in every session, with the plugin's configuration, if the runtime has one.

        Return the events to subscribe to; None for all those that have a handler.
        """
        return None

    def synchronize(
        self, pods: list[PodSandbox], containers: list[Container]
    ) -> Updates | SynchronizeResponse:
        """Called second, with everything that exists. Return updates of containers, if any."""

    def shutdown(self) -> None:
        """The runtime is shutting down. No runtime is known to call it: rely on ``on_close``."""

    def run_pod_sandbox(self, pod: PodSandbox) -> None:
        """A pod is being started."""

    def update_pod_sandbox(
        self, pod: PodSandbox, overhead: LinuxResources, resources: LinuxResources
    ) -> None:
        """A pod's resources are being changed. From NRI v0.10 on."""

    def post_update_pod_sandbox(self, pod: PodSandbox) -> None:
        """A pod's resources have been changed. From NRI v0.10 on."""

    def stop_pod_sandbox(self, pod: PodSandbox) -> None:
        """A pod is being stopped."""

    def remove_pod_sandbox(self, pod: PodSandbox) -> None:
        """A pod is being removed."""

    def create_container(self, pod: PodSandbox, container: Container) -> CreateResult:
        """A container is being created. Return how to adjust it, and updates of other containers."""

    def post_create_container(self, pod: PodSandbox, container: Container) -> None:
        """A container has been created."""

    def start_container(self, pod: PodSandbox, container: Container) -> None:
        """A container is being started."""

    def post_start_container(self, pod: PodSandbox, container: Container) -> None:
        """A container has been started."""

    def update_container(
        self, pod: PodSandbox, container: Container, resources: LinuxResources
    ) -> Updates | UpdateContainerResponse:
        """A container's resources are being changed. Return updates, of this container or others.

        What an earlier answer of the plugin set must be set again, or ``resources`` undo it.
        """

    def post_update_container(self, pod: PodSandbox, container: Container) -> None:
        """A container's resources have been changed."""

    def stop_container(
        self, pod: PodSandbox, container: Container
    ) -> Updates | StopContainerResponse:
        """A container is being stopped. Return updates of other containers."""

    def remove_container(self, pod: PodSandbox, container: Container) -> None:
        """A container is being removed."""

    def validate_container_adjustment(self, request: ValidateContainerAdjustmentRequest) -> None:
        """All plugins have adjusted a container: raise to reject the result. From NRI v0.10 on."""
