"""What a container is called in its pod's specification. Pure functions."""

from __future__ import annotations

from nri_sync import api

__all__ = ["container_name"]

# Where the kubelet puts the name, and where containerd does. CRI-O 1.34 has no other in CreateContainer.
_LABEL = "io.kubernetes.container.name"
_CONTAINERD = "io.kubernetes.cri.container-name"


def container_name(container: api.Container) -> str:
    """The name of a container within its pod; "" if nothing tells it.

    Some runtimes leave ``container.name`` empty in CreateContainer, where the labels tell.
    """
    return (
        container.name
        or container.labels.get(_LABEL)
        or container.annotations.get(_LABEL)
        or container.annotations.get(_CONTAINERD)
        or ""
    )
