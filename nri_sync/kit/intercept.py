"""What stands around the handlers: an interceptor of the requests of the runtime, and what they are about."""

from __future__ import annotations

from typing import Any, Callable

import grpc

from nri_sync import api
from nri_sync.kit.fields.names import container_name

__all__ = [
    "Behaviour",
    "RequestInterceptor",
    "container_label",
    "event_name",
    "join_names",
    "names_of",
    "pod_label",
    "subject",
]

#: What serves a request: takes it, decoded, and its context; returns the reply.
Behaviour = Callable[[Any, grpc.ServicerContext], Any]

# As many characters as the usual tools show of an id.
_ID = 12
# Kubernetes allows 253. A name goes into every record of a request.
_LONGEST = 300


class RequestInterceptor(grpc.ServerInterceptor):
    """Base class: :meth:`serve` is called around each request of the runtime, on the thread that serves it."""

    # By method: the handler of the present session, and what stands around it. Making that anew for each
    # request would cost more than most interceptors do.
    _wrapped: dict[str, tuple[Any, Any]] | None = None

    def serve(
        self, event: str, request: Any, context: grpc.ServicerContext, behaviour: Behaviour
    ) -> Any:
        """Return ``behaviour(request, context)``, or raise what it does; ``event`` as :func:`event_name`."""
        raise NotImplementedError

    def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = continuation(details)
        if self._wrapped is None:
            self._wrapped = {}
        known = self._wrapped.get(details.method)
        if known is not None and known[0] is handler:
            return known[1]
        wrapped = self._wrap(details.method, handler)
        if wrapped is not handler:
            self._wrapped[details.method] = handler, wrapped
        return wrapped

    def _wrap(self, method: str, handler: Any) -> Any:
        behaviour = getattr(handler, "unary_unary", None)
        if behaviour is None:
            return handler  # an unknown method, or none of NRI's
        serve = self.serve
        rpc = method.rpartition("/")[2]

        def served(request: Any, context: grpc.ServicerContext) -> Any:
            return serve(rpc, request, context, behaviour)

        def state_changed(request: Any, context: grpc.ServicerContext) -> Any:
            return serve(event_name(request.event), request, context, behaviour)

        return grpc.unary_unary_rpc_method_handler(
            state_changed if rpc == "StateChange" else served,
            handler.request_deserializer,
            handler.response_serializer,
        )


def event_name(number: int) -> str:
    """The event of a StateChange, by the name of the method that newer runtimes call for it.

    ``"StateChange"`` for one that is unknown: names become labels of metrics, and must be few.
    """
    name = _NAMES.get(number)
    return "StateChange" if name is None else name


_NAMES = {number: api.pretty_name(number) for number in api.EventMask.ALL.numbers}


def names_of(request: Any) -> tuple[str, str, str]:
    """Namespace, pod and container that a request is about; empty where it is not about one."""
    pod = getattr(request, "pod", None)
    if pod is None:
        return "", "", ""
    container = getattr(request, "container", None)
    named = "" if container is None else container_label(container)
    return pod.namespace[:_LONGEST], pod_label(pod), named


def pod_label(pod: api.PodSandbox) -> str:
    """Its name; or the beginning of its id, where nothing tells it."""
    return pod.name[:_LONGEST] or pod.id[:_ID]


def container_label(container: api.Container) -> str:
    """Its name; or the beginning of its id, where nothing tells it."""
    return container_name(container)[:_LONGEST] or container.id[:_ID]


def subject(request: Any) -> str:
    """What a request is about, as ``namespace/pod:container``; empty if that is not one pod."""
    return join_names(*names_of(request))


def join_names(namespace: str, pod: str, container: str) -> str:
    """``namespace/pod:container``, of what there is of them."""
    text = f"{namespace}/{pod}" if namespace else pod
    return f"{text}:{container}" if container else text
