"""Which handler serves a method: registered ones, generic ones, and the interceptors around both."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable, NamedTuple

import grpc

from nri_sync.rpc.context import Metadatum
from nri_sync.threads import signal_safe

__all__ = ["HandlerCallDetails", "Router"]


class _Details(NamedTuple):
    method: str
    invocation_metadata: tuple[Metadatum, ...]


class HandlerCallDetails(_Details, grpc.HandlerCallDetails):  # type: ignore[misc]
    """What an interceptor is told about a call."""


class Router:
    """Finds the ``grpc.RpcMethodHandler`` of a method.

    Has the two methods that generated ``add_..._to_server()`` functions call. All methods may be called from any
    thread, at any time: a handler that is added serves the requests that come from then on.
    """

    def __init__(self, interceptors: Sequence[Any] = ()) -> None:
        """``interceptors`` are ``grpc.ServerInterceptor``, the first is the outermost."""
        # Serializes changes of the tables. A table is replaced, never changed: find() reads it without a lock.
        self._lock = threading.Lock()
        self._registered: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._generic: tuple[Any, ...] = ()
        self._services: frozenset[str] = frozenset()
        self._find: Callable[[HandlerCallDetails], Any | None] = self._lookup
        for interceptor in reversed(interceptors):
            self._find = functools.partial(interceptor.intercept_service, self._find)
        self._direct = not interceptors

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Any]
    ) -> None:
        """Add the methods of a service, by name."""
        registered = {
            f"/{service_name}/{name}": handler for name, handler in method_handlers.items()
        }
        self._add(registered, (), (service_name,))

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        """Add ``grpc.GenericRpcHandler`` objects, which are asked in order."""
        handlers = tuple(generic_rpc_handlers)
        for handler in handlers:
            if not isinstance(handler, grpc.GenericRpcHandler):
                raise TypeError(f"{handler!r} is not a grpc.GenericRpcHandler")
        services = [h.service_name() for h in handlers if isinstance(h, grpc.ServiceRpcHandler)]
        self._add({}, handlers, services)

    @signal_safe
    def _add(
        self, registered: Mapping[str, Any], generic: Sequence[Any], services: Iterable[str]
    ) -> None:
        with self._lock:
            self._registered = {**self._registered, **registered}
            self._generic = (*self._generic, *generic)
            self._services = self._services.union(services)

    def find(self, method: str, metadata: tuple[Metadatum, ...]) -> Any | None:
        """The handler of ``/service/method``, or ``None``. Runs interceptors and generic handlers."""
        if self._direct:
            handler = self._registered.get(method)
            if handler is not None:
                return handler
        return self._find(HandlerCallDetails(method, metadata))

    def has_service(self, service: str) -> bool:
        """Whether a service of that name was added, for a better error text."""
        return service in self._services

    def _lookup(self, details: HandlerCallDetails) -> Any | None:
        handler = self._registered.get(details.method)
        if handler is not None:
            return handler
        for generic in self._generic:
            handler = generic.service(details)
            if handler is not None:
                return handler
        return None
