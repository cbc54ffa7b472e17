"""The name of a container in its pod's specification. Pure functions."""

from __future__ import annotations

from nri_sync import api

__all__ = ["container_name"]

_LABEL = "io.kubernetes.container.name"


def container_name(container: api.Container) -> str:
    """The name of a container within its pod; "" if neither the runtime nor the kubelet has it.

    Some releases of CRI-O leave ``container.name`` empty in CreateContainer, where the kubelet's label has the
    name. An annotation never counts: on CRI-O a pod's author can write any.
    """
    return container.name or container.labels.get(_LABEL, "")
