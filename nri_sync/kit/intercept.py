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

# As many characters as the usual tools show of an id.
_ID = 12
# Kubernetes allows 253. A name goes into every record of a request.
_LONGEST = 300


#: The base class of all of them, under its name from before it was a part of the top level.
RequestInterceptor = Interceptor


class NamedInterceptor(Interceptor):
    """Base class of interceptors that name the plugin: by the name given, or by that of the stub."""

    def __init__(self, plugin: str) -> None:
        #: The name of the plugin.
        self.plugin = plugin
        self._is_given = bool(plugin)

    def attach(self, stub: Stub) -> None:
        """Take the name of the stub, unless a name was given. Idempotent.

        Raises ValueError when the name of another stub was taken: the requests of both would go by that name.
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
    """Namespace, pod and container that a request is about; empty where it is not about one."""
    pod = getattr(request, "pod", None)
    if pod is None:
        return "", "", ""
    container = getattr(request, "container", None)
    named = "" if container is None else container_label(container)
    return pod.namespace[:_LONGEST], pod_label(pod), named


def pod_label(pod: api.PodSandbox) -> str:
    """Its name; or the beginning of its id, where the name is not known."""
    return pod.name[:_LONGEST] or pod.id[:_ID]


def container_label(container: api.Container) -> str:
    """Its name; or the beginning of its id, where the name is not known."""
    return container_name(container)[:_LONGEST] or container.id[:_ID]


def subject(request: Any) -> str:
    """The pod and container of a request, as ``namespace/pod:container``; empty if that is not one pod."""
    return join_names(*names_of(request))


def join_names(namespace: str, pod: str, container: str) -> str:
    """``namespace/pod:container``, of what there is of them."""
    text = f"{namespace}/{pod}" if namespace else pod
    return f"{text}:{container}" if container else text
