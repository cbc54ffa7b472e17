"""A template for plugins: copy it, keep the handlers that you need, and delete the others."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import nri_sync
from nri_sync import api, kit

__all__ = ["Config", "Template"]

logger = logging.getLogger("template")


@dataclass
class Config:
    """The keys of the configuration, from the file or from the runtime."""

    param: str = field(default="", metadata={"key": "cfgParam1"})


class Template(nri_sync.Plugin):
    """Logs each event, and changes nothing."""

    config: Config

    def on_config(self, config: Config) -> None:
        # Raise ValueError to refuse the configuration.
        logger.info("got configuration: %s", config)

    def synchronize(
        self, pods: list[api.PodSandbox], containers: list[api.Container]
    ) -> list[api.Update]:
        logger.info("%d pods and %d containers run already", len(pods), len(containers))
        return []

    def shutdown(self) -> None:
        logger.info("the runtime is shutting down")

    def run_pod_sandbox(self, pod: api.PodSandbox) -> None:
        logger.info("started")

    def update_pod_sandbox(
        self, pod: api.PodSandbox, overhead: api.LinuxResources, resources: api.LinuxResources
    ) -> None:
        logger.info("about to be updated")

    def post_update_pod_sandbox(self, pod: api.PodSandbox) -> None:
        logger.info("updated")

    def stop_pod_sandbox(self, pod: api.PodSandbox) -> None:
        logger.info("stopped")

    def remove_pod_sandbox(self, pod: api.PodSandbox) -> None:
        logger.info("removed")

    def create_container(self, pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        logger.info("about to be created")
        adjustment = api.Adjustment()
        # For example: adjustment.add_env("GREETING", "hello")
        return adjustment

    def post_create_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        logger.info("created")

    def start_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        logger.info("about to be started")

    def post_start_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        logger.info("started")

    def update_container(
        self, pod: api.PodSandbox, container: api.Container, resources: api.LinuxResources
    ) -> list[api.Update]:
        logger.info("about to be updated")
        # For example: return [api.Update(container.id).set_cpu(shares=512)]
        return []

    def post_update_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        logger.info("updated")

    def stop_container(self, pod: api.PodSandbox, container: api.Container) -> list[api.Update]:
        logger.info("stopped")
        return []

    def remove_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        logger.info("removed")

    def validate_container_adjustment(
        self, request: api.ValidateContainerAdjustmentRequest
    ) -> None:
        # Raise an exception to reject the changes of other plugins.
        logger.info("about to be created with the changes of the plugins")


PROGRAM = kit.Program(Template, config=Config, name="template", idx="10")

if __name__ == "__main__":
    kit.main(PROGRAM)
