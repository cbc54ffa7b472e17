"""Interceptors: objects around the handlers of a plugin, and around its calls to the runtime.

:class:`Interceptor` is the interface. gRPC's own interceptors work as well.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, Protocol, Union

from nri_sync import api
from nri_sync.api.services import Method
from nri_sync.deadline import Deadline
from nri_sync.logger import get_logger
from nri_sync.rpc.client import ClientEnd
from nri_sync.rpc.context import RequestContext
from nri_sync.rpc.grpcio import grpc_classes
from nri_sync.rpc.router import MethodHandler, Router
from nri_sync.rpc.unary import UnaryMethod

if TYPE_CHECKING:
    from nri_sync.plugin.stub import Stub
    from nri_sync.ttrpc.interceptors import InterceptedMethod

    # By their methods: a type checker knows the classes of grpc only where their stubs are installed.
    class _Server(Protocol):
        def intercept_service(self, continuation: Any, details: Any, /) -> Any: ...

    class _UnaryUnary(Protocol):
        def intercept_unary_unary(
            self, continuation: Any, details: Any, request: Any, /
        ) -> Any: ...

    class _UnaryStream(Protocol):
        def intercept_unary_stream(
            self, continuation: Any, details: Any, request: Any, /
        ) -> Any: ...

    class _StreamUnary(Protocol):
        def intercept_stream_unary(
            self, continuation: Any, details: Any, request: Any, /
        ) -> Any: ...

    class _StreamStream(Protocol):
        def intercept_stream_stream(
            self, continuation: Any, details: Any, request: Any, /
        ) -> Any: ...


__all__ = [
    "AnyInterceptor",
    "CallOn",
    "Interceptor",
    "Interceptors",
    "Metadata",
    "Proceed",
    "event_name",
]

logger = get_logger("nri_sync.stub")

#: Serves a request: takes the request and its context; returns the reply.
Proceed = Callable[[Any, RequestContext], Any]
#: Pairs of a name and a value, which travel with a call.
Metadata = Sequence[tuple[str, str]]
#: Makes a call: takes the request and its metadata; returns the response.
CallOn = Callable[[Any, Metadata], Any]

#: An element of ``Stub(interceptors=[...])``.
AnyInterceptor = Union[
    "Interceptor", "_Server", "_UnaryUnary", "_UnaryStream", "_StreamUnary", "_StreamStream"
]

_SERVER = ("ServerInterceptor",)
_CLIENT = (
    "UnaryUnaryClientInterceptor",
    "UnaryStreamClientInterceptor",
    "StreamUnaryClientInterceptor",
    "StreamStreamClientInterceptor",
)


class Interceptor:
    """Base class of interceptors, to be passed to ``Stub(interceptors=[...])``. Its methods do nothing.

    The stub attaches an interceptor when the stub is made, and closes it in :meth:`Stub.close`. A session that
    ends, or ``Stub.stop()``, closes nothing: the stub may start again. When several stubs share an interceptor,
    the last one to be closed closes it.
    """

    def attach(self, stub: Stub) -> None:
        """Learn which stub this is for. Called by the constructor of the stub, on its thread; must be idempotent.

        Raise ValueError where the interceptor cannot serve this stub; then the constructor raises it.
        """

    def serve(self, event: str, request: Any, context: RequestContext, proceed: Proceed) -> Any:
        """Called around each request of the runtime, on the thread that serves it.

        ``event`` is ``"CreateContainer"``, ``"Synchronize"``, ..., the same for all releases of runtimes. Return
        ``proceed(request, context)``, the reply, or raise: an exception fails the request, as in a handler.
        """
        return proceed(request, context)

    def call(self, method: str, request: Any, metadata: Metadata, proceed: CallOn) -> Any:
        """Called around each call to the runtime, never on the main thread. ``method`` is ``"UpdateContainers"``.

        Return ``proceed(request, metadata)``, the response, or raise; the caller of the stub gets the exception.
        """
        return proceed(request, metadata)

    def close(self, timeout: float | None = 5.0) -> object:
        """Finish within ``timeout`` seconds. Called by :meth:`Stub.close` while the session is still up.

        Must be idempotent: a later call may cut an earlier one short. An exception is logged.
        """
        return None


class Interceptors:
    """The interceptors of one stub, sorted: around requests, and around calls. The first is the outermost."""

    def __init__(self, given: Iterable[Any]) -> None:
        """Raises TypeError for an object that is no interceptor."""
        #: All of them, in the order given.
        self.given = tuple(given)
        self._own = [item for item in self.given if isinstance(item, Interceptor)]
        serving = [
            item
            for item in self.given
            if _is_of_grpc(item, _SERVER) or (isinstance(item, Interceptor) and _has(item, "serve"))
        ]
        innermost = len(serving)
        while innermost and not _is_of_grpc(serving[innermost - 1], _SERVER):
            innermost -= 1
        # Those that no interceptor of gRPC stands within need no detour by its interface.
        self._within = serving[innermost:]
        # The others, all of them with the interface of gRPC.
        self._server: list[Any] = [
            item if _is_of_grpc(item, _SERVER) else _Adapter(item) for item in serving[:innermost]
        ]
        self._calling = [item for item in self._own if _has(item, "call")]
        self._client = [item for item in self.given if _is_of_grpc(item, _CLIENT)]
        for item in self.given:
            if not (isinstance(item, Interceptor) or _is_of_grpc(item, _SERVER + _CLIENT)):
                raise TypeError(
                    f"interceptors: {item!r} is none: derive its class from nri_sync.Interceptor, "
                    "or from a server or client interceptor of grpc"
                    + (
                        f"; is an instance meant, {item.__name__}()?"
                        if isinstance(item, type)
                        else ""
                    )
                )

    @property
    def serve_requests(self) -> bool:
        """Whether any of them stands around requests."""
        return bool(self._within or self._server)

    def __contains__(self, interceptor: object) -> bool:
        return id(interceptor) in map(id, self.given)

    def attach(self, stub: Stub) -> None:
        """Attach all of them to ``stub``. Raises their exceptions."""
        for item in self._own:
            item.attach(stub)

    def close(self, deadline: Deadline, is_shared: Callable[[Interceptor], bool]) -> None:
        """Close them, the last one first; not those that are shared. Blocks until the deadline at most."""
        for item in reversed(self._own):
            if is_shared(item):
                continue
            try:
                item.close(deadline.remaining())
            except Exception:
                logger.exception("the interceptor %r cannot be closed", item)

    def around(self, rpc: str, behaviour: Proceed) -> Proceed:
        """``behaviour``, which serves the method ``rpc``, with the innermost interceptors around it."""
        for item in reversed(self._within):
            behaviour = _around(item, rpc, behaviour)
        return behaviour

    def router(self, services: Mapping[str, Mapping[str, MethodHandler]], outermost: Any) -> Router:
        """A router for these handlers. If an interceptor of gRPC is given, the router calls the interceptors.

        ``outermost`` is then around all of them. It has the interface of a ``grpc.ServerInterceptor``.
        """
        if not self._server:
            return Router(services)
        from nri_sync.ttrpc import router

        return router.Router([outermost, *self._server], services)

    def method(self, client: ClientEnd, method: Method) -> UnaryMethod | InterceptedMethod:
        """A method of the runtime, with the interceptors of gRPC around its calls."""
        encode, decode = method.request.SerializeToString, method.response.FromString
        if not self._client:
            return UnaryMethod(client, method.path, encode, decode)
        from nri_sync.ttrpc.interceptors import InterceptedMethod

        return InterceptedMethod(client, method.path, encode, decode, self._client)

    def around_call(self, method: str, call: CallOn) -> CallOn:
        """``call`` with interceptors around it: ours are outside of those of gRPC."""
        for item in reversed(self._calling):
            call = functools.partial(item.call, method, proceed=call)
        return call


def event_name(number: int) -> str:
    """The event of a StateChange, by the name of the method that newer runtimes call for it.

    ``"StateChange"`` for one that is unknown: names become labels of metrics, and must be few.
    """
    return _NAMES.get(number, "StateChange")


_NAMES = {number: api.pretty_name(number) for number in api.EventMask.ALL.numbers}


def _around(interceptor: Interceptor, rpc: str, behaviour: Proceed) -> Proceed:
    serve = interceptor.serve

    def served(request: Any, context: RequestContext) -> Any:
        return serve(rpc, request, context, behaviour)

    def state_changed(request: Any, context: RequestContext) -> Any:
        return serve(event_name(request.event), request, context, behaviour)

    return state_changed if rpc == "StateChange" else served


class _Adapter:
    """Gives one of our interceptors the interface of a ``grpc.ServerInterceptor``."""

    def __init__(self, interceptor: Interceptor) -> None:
        self._interceptor = interceptor
        # By method: the handler of the present session, and the same with the interceptor around it.
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)
        known = self._wrapped.get(details.method)
        if known is not None and known[0] is handler:
            return known[1]
        behaviour = getattr(handler, "unary_unary", None)
        if behaviour is None:
            return handler  # an unknown method, or none of NRI's
        wrapped = MethodHandler(
            _around(self._interceptor, details.method.rpartition("/")[2], behaviour),
            handler.request_deserializer,
            handler.response_serializer,
        )
        self._wrapped[details.method] = handler, wrapped
        return wrapped


def _has(interceptor: Interceptor, method: str) -> bool:
    """Whether its class overrides ``method``, or the object itself does."""
    found = getattr(interceptor, method)
    return getattr(found, "__func__", None) is not getattr(Interceptor, method)


def _is_of_grpc(item: object, names: tuple[str, ...]) -> bool:
    return isinstance(item, grpc_classes(*names))
