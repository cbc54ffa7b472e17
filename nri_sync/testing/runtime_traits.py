"""The differences between runtimes in the messages of a container's lifecycle."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["RuntimeTraits", "traits_of"]


class RuntimeTraits(NamedTuple):
    """Properties of a runtime's messages at some events."""

    #: Whether containers have a process id, beginning with StartContainer.
    pid: bool
    #: Whether the state in PostStartContainer is CONTAINER_RUNNING. Otherwise it is still CONTAINER_CREATED.
    running_at_post_start: bool
    #: Whether a container has its state in RemoveContainer.
    state_at_remove: bool
    #: Whether the messages after StopPodSandbox lack the network namespace.
    network_ends: bool


# ``internal/cri/nri`` of containerd v2.4.2: an exited container has no state in NRI (``GetStatus``).
_CONTAINERD = RuntimeTraits(True, True, False, True)
# ``server/nri-api.go`` of CRI-O v1.34.0: it reads the state before it updates the state from the process.
_CRIO = RuntimeTraits(False, False, True, False)


def traits_of(runtime: str) -> RuntimeTraits:
    """The traits of a runtime, by the name that it sends to plugins. Unknown runtimes have those of containerd."""
    return _CRIO if runtime == "cri-o" else _CONTAINERD
