"""The differences between runtimes in the messages of a container's life."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Telling", "telling_of"]


class Telling(NamedTuple):
    """Values that a runtime's messages have at some events."""

    #: Whether containers have a process id, from StartContainer on.
    pid: bool
    #: Whether the state is CONTAINER_RUNNING in PostStartContainer already, and not CONTAINER_CREATED still.
    running_at_post_start: bool
    #: Whether a container has its state in RemoveContainer.
    state_at_remove: bool
    #: Whether the network namespace is left out from StopPodSandbox on.
    network_ends: bool


# ``internal/cri/nri`` of containerd v2.4.2: a container that has exited has no state in NRI (``GetStatus``).
_CONTAINERD = Telling(True, True, False, True)
# ``server/nri-api.go`` of CRI-O v1.34.0: it takes the state before it looks at the process again.
_CRIO = Telling(False, False, True, False)


def telling_of(runtime: str) -> Telling:
    """That of a runtime, by the name that it gives to plugins: containerd's for all but CRI-O."""
    return _CRIO if runtime == "cri-o" else _CONTAINERD
