"""The handlers of a server as grpcio has them: registered ones, generic ones, and the interceptors around both."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable, NamedTuple

import grpc

from nri_sync.rpc import router
from nri_sync.rpc.context import Metadatum
from nri_sync.rpc.router import MethodHandler
from nri_sync.threads import signal_safe
from nri_sync.ttrpc.context import ServicerContext

__all__ = ["HandlerCallDetails", "RequestsBroken", "Router"]

# Interceptors get handlers of the stub, too.
grpc.RpcMethodHandler.register(MethodHandler)


class _Details(NamedTuple):
    method: str
    invocation_metadata: tuple[Metadatum, ...]


class HandlerCallDetails(_Details, grpc.HandlerCallDetails):  # type: ignore[misc]
    """The method and metadata of a call, for an interceptor."""


class RequestsBroken(router.RequestsBroken, grpc.RpcError):
    """A broken stream of requests, which handlers written for grpcio expect as a ``grpc.RpcError``."""


class Router(router.Router):
    """Finds the ``grpc.RpcMethodHandler`` of a method; its calls have a ``grpc.ServicerContext``."""

    context_class = ServicerContext
    requests_broken = RequestsBroken

    def __init__(
        self,
        interceptors: Sequence[Any] = (),
        services: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """``interceptors`` are ``grpc.ServerInterceptor``, the first is the outermost."""
        super().__init__(services)
        self._generic: tuple[Any, ...] = ()
        self._find: Callable[[HandlerCallDetails], Any | None] = self._lookup
        for interceptor in reversed(interceptors):
            if not callable(getattr(interceptor, "intercept_service", None)):
                raise TypeError(f"{interceptor!r} is not a grpc.ServerInterceptor")
            self._find = functools.partial(interceptor.intercept_service, self._find)
        self._has_interceptors = bool(interceptors)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        """Add ``grpc.GenericRpcHandler`` objects. They are asked in order, after the registered handlers."""
        handlers = tuple(generic_rpc_handlers)
        for handler in handlers:
            if not isinstance(handler, grpc.GenericRpcHandler):
                raise TypeError(f"{handler!r} is not a grpc.GenericRpcHandler")
        services = [h.service_name() for h in handlers if isinstance(h, grpc.ServiceRpcHandler)]
        self._add_generic(handlers, services)

    @signal_safe
    def _add_generic(self, handlers: Sequence[Any], services: Sequence[str]) -> None:
        with self._lock:
            self._generic = (*self._generic, *handlers)
            self._services = self._services.union(services)

    def find(self, method: str, metadata: tuple[Metadatum, ...]) -> Any | None:
        """The handler of ``/service/method``, or ``None``. Runs interceptors and generic handlers."""
        if not self._has_interceptors:
            handler = self._registered.get(method)
            if handler is not None:
                return handler
        return self._find(HandlerCallDetails(method, metadata))

    def _lookup(self, details: HandlerCallDetails) -> Any | None:
        handler = self._registered.get(details.method)
        if handler is not None:
            return handler
        for generic in self._generic:
            handler = generic.service(details)
            if handler is not None:
                return handler
        return None
