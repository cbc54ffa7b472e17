"""Where the network namespace of a pod is. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable

from nri_sync import api

__all__ = ["network_namespace"]


def network_namespace(
    pod: api.PodSandbox, containers: Iterable[api.Container] = (), *, proc: str = "/proc"
) -> str | None:
    """The path of a pod's network namespace, or None if it has none of its own: it uses the host's
    network.

    None as well where the runtime does not tell any more: containerd leaves the namespace out once
    it is torn down, in RemovePodSandbox, sometimes in StopPodSandbox; keep what earlier events
    said. Where the runtime gives the kind of the namespace without a path, it is that of the
    sandbox process, in ``proc`` (give the host's, as a plugin in a container has it); where it
    gives no namespaces at all, ``containers`` of the pod tell.
    """
    sources = [list(pod.linux.namespaces), *(list(c.linux.namespaces) for c in containers)]
    # A list without a network namespace stands for the host's; an empty one says nothing.
    known = next((namespaces for namespaces in sources if namespaces), [])
    for namespace in known:
        if namespace.type == "network":
            if namespace.path:
                return namespace.path
            return f"{proc}/{pod.pid}/ns/net" if pod.pid else None
    return None
