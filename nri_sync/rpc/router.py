"""The handlers of the methods that a ServerEnd serves."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Callable, NamedTuple

from nri_sync import fork
from nri_sync.rpc.context import Metadatum, RequestContext
from nri_sync.rpc.status import Status
from nri_sync.threads import signal_safe

__all__ = ["MethodHandler", "RequestsBroken", "Router"]


class MethodHandler(NamedTuple):
    """Serves a method: a function, a decoder, an encoder. It has the attributes of ``grpc.RpcMethodHandler``."""

    #: Takes a request and its context; returns the response.
    unary_unary: Callable[[Any, Any], Any] | None = None
    request_deserializer: Callable[[Any], Any] | None = None
    response_serializer: Callable[[Any], bytes] | None = None
    request_streaming: bool = False
    response_streaming: bool = False
    unary_stream: Callable[[Any, Any], Any] | None = None
    stream_unary: Callable[[Any, Any], Any] | None = None
    stream_stream: Callable[[Any, Any], Any] | None = None
    #: Whether the decoder of a unary method takes a large request as a view, so that it need not be copied.
    takes_view: bool = False


class RequestsBroken(Exception):
    """The stream that a handler reads from has ended early, or has a message that cannot be decoded."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.details)
        #: The status of the call if the handler lets the exception pass.
        self.status = status


class Router:
    """Finds the :class:`MethodHandler` of a method. All methods may be called from any thread, at any time.

    A handler that is added serves the requests that come from then on.
    """

    #: Makes the context of each call.
    context_class: type[RequestContext] = RequestContext
    #: Raised in a handler that reads from a stream of requests.
    requests_broken: type[RequestsBroken] = RequestsBroken

    def __init__(self, services: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """``services`` has the methods of each service, by name."""
        # Serializes changes of the tables. A table is replaced, never changed: find() reads it without a lock.
        self._lock = threading.Lock()
        self._registered: dict[str, Any] = {}
        self._services: frozenset[str] = frozenset(services or ())
        for service, methods in (services or {}).items():
            self._registered.update(_by_path(service, methods))
        fork.in_child(self._after_fork_in_child)

    def _after_fork_in_child(self) -> None:
        self._lock = threading.Lock()

    @signal_safe
    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Any]
    ) -> None:
        """Add the methods of a service, by name. Generated ``add_..._to_server()`` functions call this, too."""
        added = _by_path(service_name, method_handlers)
        with self._lock:
            self._registered = {**self._registered, **added}
            self._services = self._services.union([service_name])

    def find(self, method: str, metadata: tuple[Metadatum, ...]) -> Any | None:
        """The handler of ``/service/method``, or ``None``."""
        return self._registered.get(method)

    def has_service(self, service: str) -> bool:
        """Whether a service of that name was added, for a better error text."""
        return service in self._services


def _by_path(service: str, methods: Mapping[str, Any]) -> dict[str, Any]:
    return {f"/{service}/{name}": handler for name, handler in methods.items()}
