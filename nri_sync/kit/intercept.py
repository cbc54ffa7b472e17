"""The pods and containers of requests, by name, for interceptors."""

from __future__ import annotations

from typing import Any

from nri_sync import Interceptor, Stub, api
from nri_sync.kit.fields.names import container_name

__all__ = [
    "NamedInterceptor",
    "RequestInterceptor",
    "container_label",
    "join_names",
    "names_of",
    "pod_label",
    "subject",
]

# The number of characters of an id that the usual tools show.
_ID = 12
# Kubernetes allows 253. Each record of a request contains the name.
_LONGEST = 300


#: The former name of the base class of all interceptors, now ``nri_sync.Interceptor``.
RequestInterceptor = Interceptor


class NamedInterceptor(Interceptor):
    """Base class of interceptors that name the plugin: by the given name, or by that of the stub."""

    def __init__(self, plugin: str) -> None:
        #: The name of the plugin.
        self.plugin = plugin
        self._is_given = bool(plugin)

    def attach(self, stub: Stub) -> None:
        """Take the name of the stub, unless a name was given. Idempotent.

        Raises ValueError if the interceptor has the name of another stub: the requests of both would share it.
        """
        if self._is_given:
            return
        if self.plugin not in ("", stub.name):
            raise ValueError(
                f"this {type(self).__name__} is attached to {self.plugin} already, and cannot serve "
                f"{stub.name} as well: make one for each stub, or pass plugin= as the name for all"
            )
        self.plugin = stub.name


def names_of(request: Any) -> tuple[str, str, str]:
    """Return namespace, pod and container of a request; empty texts for missing ones."""
    pod = getattr(request, "pod", None)
    if pod is None:
        return "", "", ""
    container = getattr(request, "container", None)
    named = "" if container is None else container_label(container)
    return pod.namespace[:_LONGEST], pod_label(pod), named


def pod_label(pod: api.PodSandbox) -> str:
    """Return the pod's name, or the beginning of its id if the name is unknown."""
    return pod.name[:_LONGEST] or pod.id[:_ID]


def container_label(container: api.Container) -> str:
    """Return the container's name, or the beginning of its id if the name is unknown."""
    return container_name(container)[:_LONGEST] or container.id[:_ID]


def subject(request: Any) -> str:
    """Return the pod and container of a request, as ``namespace/pod:container``; empty without a single pod."""
    return join_names(*names_of(request))


def join_names(namespace: str, pod: str, container: str) -> str:
    """Return ``namespace/pod:container``, without the empty parts."""
    text = f"{namespace}/{pod}" if namespace else pod
    return f"{text}:{container}" if container else text
