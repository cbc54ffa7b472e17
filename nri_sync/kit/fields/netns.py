"""Where the network namespace of a pod is."""

from __future__ import annotations

import os
from collections.abc import Iterable

from nri_sync import api

__all__ = ["network_namespace"]


def network_namespace(
    pod: api.PodSandbox, containers: Iterable[api.Container] = (), *, proc: str = "/proc"
) -> str | None:
    """The path of a pod's network namespace, or None if it has none of its own: it uses the host's.

    None as well where the runtime does not tell any more: containerd leaves the namespace out once it
    is torn down, in RemovePodSandbox, sometimes in StopPodSandbox; keep what earlier events said.
    Where the runtime gives the kind of the namespace without a path, it is that of the sandbox
    process; where it gives no namespaces at all, ``containers`` of the pod tell.

    CRI-O has a path for pods in the host's network, too, which is found by looking: it leads to the
    namespace of process 1 in ``proc``, or of the plugin itself where that may not be seen. A plugin
    in a container needs the host's PID namespace for that, or the host's /proc mounted, and the
    directories of namespaces with mount propagation.
    """
    sources = [list(pod.linux.namespaces), *(list(c.linux.namespaces) for c in containers)]
    # A list without a network namespace stands for the host's; an empty one says nothing.
    known = next((namespaces for namespaces in sources if namespaces), [])
    for namespace in known:
        if namespace.type == "network":
            path = namespace.path or (f"{proc}/{pod.pid}/ns/net" if pod.pid else "")
            return path if path and not _is_of_host(path, proc) else None
    return None


def _is_of_host(path: str, proc: str) -> bool:
    for process in ("1", "self"):
        try:
            host = os.stat(f"{proc}/{process}/ns/net")
        except OSError:
            continue
        try:
            return os.path.samestat(os.stat(path), host)
        except OSError:
            return False
    return False
