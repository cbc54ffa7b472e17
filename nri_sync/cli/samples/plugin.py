"""Gives containers the devices and the variables that annotations of their pod ask for."""

from __future__ import annotations

import nri_sync
from nri_sync import api

__all__ = ["Annotated"]


class Annotated(nri_sync.Plugin):
    """``device.example.com: /dev/fuse`` and ``env.example.com: NAME=value``, for a pod or one container of it."""

    def create_container(
        self, pod: api.PodSandbox, container: api.Container
    ) -> api.Adjustment | None:
        adjustment = api.Adjustment()
        path = api.effective_annotation(pod, "device.example.com", container.name)
        if path is not None:
            adjustment.add_device(path, "c", 10, 229)
        variable = api.effective_annotation(pod, "env.example.com", container.name)
        if variable is not None:
            name, equals, value = variable.partition("=")
            if not equals:
                raise ValueError(f"env.example.com: expected NAME=value, not {variable!r}")
            adjustment.add_env(name, value)
        return adjustment
