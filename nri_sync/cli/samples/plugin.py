"""Gives containers the devices and variables that the annotations of their pod request."""

from __future__ import annotations

import nri_sync
from nri_sync import api, kit

__all__ = ["Annotated"]


# The devices that pods may request, with type and numbers. Any author of a pod can write annotations.
DEVICES = {"/dev/fuse": ("c", 10, 229), "/dev/net/tun": ("c", 10, 200)}


class Annotated(nri_sync.Plugin):
    """Reads ``device.example.com: /dev/fuse`` and ``env.example.com: NAME=value``, of a pod or one container."""

    def create_container(
        self, pod: api.PodSandbox, container: api.Container
    ) -> api.Adjustment | None:
        adjustment = api.Adjustment()
        name = kit.container_name(container)
        path = api.effective_annotation(pod, "device.example.com", name)
        if path is not None:
            kit.require_allowed("device", path, DEVICES)
            adjustment.add_device(path, *DEVICES[path])
        variable = api.effective_annotation(pod, "env.example.com", name)
        if variable is not None:
            key, equals, value = variable.partition("=")
            if not equals:
                raise nri_sync.errors.AnnotationError(
                    f"env.example.com: expected NAME=value, not {variable!r}"
                )
            adjustment.add_env(key, value)
        return adjustment
