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

    The runtime calls a plugin for one event at a time, and waits for the answer. Handlers run on threads of the
    stub. They may block, within the request timeout. If a handler raises, the operation on the pod or container
    fails with the text of the exception. Configure, Synchronize and validations may run at the same time as
    another handler. A handler that has exceeded its request timeout may still run during the next event. A message
    that is absent in a request is passed as an empty message.
    """

    def configure(self, config: str, runtime: str, version: str) -> EventMask | None:
        """The first call of each session.

        ``config`` is the plugin's configuration, or empty if the runtime has none.

        Return the events to subscribe to. None subscribes to all events that have a handler.
        """
        return None

    def synchronize(
        self, pods: list[PodSandbox], containers: list[Container]
    ) -> Updates | SynchronizeResponse:
        """The second call of each session, with all existing pods and containers.

        May return updates of containers.
        """

    def shutdown(self) -> None:
        """The runtime is shutting down. No known runtime calls this: rely on ``on_close``."""

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
        """A container is being created. May return its adjustment, and updates of other containers."""

    def post_create_container(self, pod: PodSandbox, container: Container) -> None:
        """A container has been created."""

    def start_container(self, pod: PodSandbox, container: Container) -> None:
        """A container is being started."""

    def post_start_container(self, pod: PodSandbox, container: Container) -> None:
        """A container has been started."""

    def update_container(
        self, pod: PodSandbox, container: Container, resources: LinuxResources
    ) -> Updates | UpdateContainerResponse:
        """A container's resources are being changed. May return updates, of this container or others.

        Set the values of earlier answers again: otherwise ``resources`` replace them.
        """

    def post_update_container(self, pod: PodSandbox, container: Container) -> None:
        """A container's resources have been changed."""

    def stop_container(
        self, pod: PodSandbox, container: Container
    ) -> Updates | StopContainerResponse:
        """A container is being stopped. May return updates of other containers."""

    def remove_container(self, pod: PodSandbox, container: Container) -> None:
        """A container is being removed."""

    def validate_container_adjustment(self, request: ValidateContainerAdjustmentRequest) -> None:
        """All plugins have adjusted a container. Raise an exception to reject the result. From NRI v0.10 on."""
