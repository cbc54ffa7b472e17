"""Finds the network namespace of a pod."""

from __future__ import annotations

import os
from collections.abc import Iterable

from nri_sync import api

__all__ = ["network_namespace"]


def network_namespace(
    pod: api.PodSandbox, containers: Iterable[api.Container] = (), *, proc: str = "/proc"
) -> str | None:
    """Return the path of a pod's network namespace; None if the pod uses the host's namespace.

    None also if the runtime no longer sends the namespace: containerd leaves it out once it is torn down, in
    RemovePodSandbox and sometimes in StopPodSandbox. Keep the path from earlier events. If the runtime sends the
    namespace's type without a path, the namespace is that of the sandbox process. If the runtime sends no
    namespaces at all, those of ``containers`` of the pod count.

    CRI-O also sends a path for pods in the host's network. The function recognises it by comparison with the
    namespace of process 1 in ``proc``, or of the plugin itself if process 1 is not visible. For this, a plugin in
    a container needs the host's PID namespace, or the host's /proc mounted, and the directories of namespaces with
    mount propagation.
    """
    sources = [list(pod.linux.namespaces), *(list(c.linux.namespaces) for c in containers)]
    # A list without a network namespace means the host's. An empty list means nothing.
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
