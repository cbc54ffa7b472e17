"""The handlers of the plugins that are measured."""

from __future__ import annotations

import time

from nri_sync.api import nri_pb2

__all__ = ["Adjuster"]


class Adjuster:
    """Adjusts every container in the same way, and builds the adjustment again each time."""

    def __init__(self, env: int, mounts: int, size: int) -> None:
        self.env = env
        self.mounts = mounts
        self.padding = "x" * size
        self.containers: list[nri_pb2.Container] = []
        #: The time that the handler takes for each container, in seconds.
        self.seconds = 0.0

    def synchronize(
        self, pods: list[nri_pb2.PodSandbox], containers: list[nri_pb2.Container]
    ) -> None:
        self.containers = containers

    def run_pod_sandbox(self, pod: nri_pb2.PodSandbox) -> None:
        pass

    def create_container(
        self, pod: nri_pb2.PodSandbox, container: nri_pb2.Container
    ) -> nri_pb2.ContainerAdjustment:
        if self.seconds:
            time.sleep(self.seconds)
        adjustment = nri_pb2.ContainerAdjustment()
        for number in range(self.env):
            adjustment.env.add(key=f"KEY_{number}", value="value")
        for number in range(self.mounts):
            adjustment.mounts.add(
                destination=f"/mnt/{number}", type="bind", source="/src", options=["ro"]
            )
        if self.padding:
            adjustment.annotations["padding"] = self.padding
        return adjustment
