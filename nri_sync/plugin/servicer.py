"""The Plugin service: requests in, handlers called, replies out. One servicer for each connection."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Sequence
from typing import Any, Callable, Protocol

import grpc

from nri_sync import api
from nri_sync.api import EventMask, nri_pb2
from nri_sync.api.handlers import BY_EVENT, HANDLERS, Handler, asked_events
from nri_sync.api.services import PLUGIN
from nri_sync.errors import Reject
from nri_sync.plugin.facts import Facts
from nri_sync.plugin.ignored import IgnoredFields
from nri_sync.plugin.memory import give_back_after
from nri_sync.plugin.parts import MOST, Parts
from nri_sync.plugin.spec import PluginSpec
from nri_sync.plugin.subjects import describe
from nri_sync.text import printable
from nri_sync.ttrpc.context import ServicerContext
from nri_sync.ttrpc.frames import calls_handlers, own_frames
from nri_sync.ttrpc.router import Router

__all__ = ["ServedConnection", "Servicer"]


def _method(
    rpc: str,
    behaviour: Callable[[Any, ServicerContext], Any],
    deserialize: Callable[[bytes], Any] | None = None,
) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        behaviour,
        request_deserializer=deserialize or PLUGIN.methods[rpc].request.FromString,
        response_serializer=PLUGIN.methods[rpc].response.SerializeToString,
    )


# grpcio loads what it needs for this with the first one, which is not to be in start().
_method("Shutdown", lambda request, context: None)

_UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED

# From how many bytes of state on, as Parts counts them, its memory is given back to the system.
_MUCH = 1024 * 1024

_VALIDATE = "ValidateContainerAdjustment"


class ServedConnection(Protocol):
    """What a servicer needs of its connection."""

    #: What the runtime has sent of itself.
    facts: Facts
    ignored: IgnoredFields
    #: While the state of the node comes in parts: when the runtime gives up on it, on the monotonic clock.
    state_due: float | None
    #: Whether the part that came last is the last one.
    state_is_complete: bool

    @property
    def serving(self) -> dict[int, ServicerContext]:
        """The requests that are being served, by thread."""

    def learn(self, request: nri_pb2.ConfigureRequest) -> None: ...

    def configured(self, events: EventMask, missing: EventMask) -> None: ...

    def configure_failed(self, error: BaseException, context: ServicerContext) -> None: ...

    def mark_synchronized(self) -> None: ...


class Servicer:
    """Serves one connection; every method may be called from several threads at once."""

    def __init__(self, plugin: PluginSpec, conn: ServedConnection) -> None:
        self._plugin = plugin
        self._conn = conn
        # Guards the parts.
        self._lock = threading.Lock()
        self._parts = Parts()

    def router(self) -> Router:
        """The methods of the service, with the plugin's interceptors around them, for a ServerEnd."""
        router = Router(self._plugin.interceptors.server)
        router.add_generic_rpc_handlers([_OnDemand(self, router)])
        return router

    def method(self, rpc: str) -> Any:
        """The ``grpc.RpcMethodHandler`` of one of the service's methods."""
        behaviours: dict[str, Callable[[Any, ServicerContext], Any]] = {
            "Configure": self._configure,
            "Synchronize": self._synchronize,
            "StateChange": self._state_change,
            "ValidateContainerAdjustment": self._validate,
        }
        deserialize = self._part if rpc == "Synchronize" else None
        behaviour = behaviours.get(rpc) or self._behaviour(_BY_RPC[rpc])
        behaviour = self._plugin.interceptors.around(rpc, behaviour)
        if rpc != "Configure":  # in which the runtime tells its release
            version = self._conn.facts.runtime_nri_version
            behaviour = self._conn.ignored.around(rpc, behaviour, version)
        return _method(rpc, behaviour, deserialize)

    def _behaviour(self, handler: Handler) -> Callable[[Any, ServicerContext], Any]:
        empty = PLUGIN.methods[handler.rpc].response()
        arguments = handler.arguments()

        def behaviour(request: Any, context: ServicerContext) -> Any:
            reply = self._call(handler, arguments(request), context)
            return empty if reply is None else reply

        return behaviour

    def _call(self, handler: Handler, arguments: Sequence[Any], context: ServicerContext) -> Any:
        """Call the plugin's handler, if it has it, and make the reply of what it returns."""
        method = self._plugin.handlers.get(handler.name)
        if method is None:
            return handler.reply(None)
        tally = self._plugin.tally
        tally.add("requests")
        serving = self._conn.serving
        thread = _thread.get_ident()
        # An interceptor may call it on a thread of its own.
        elsewhere = thread not in serving
        served = serving.setdefault(thread, context)
        served.handler = handler.name
        served.runtime = self._conn.facts
        try:
            return handler.reply(method(*arguments))
        except BaseException as error:
            self._raised(error, context)
            raise
        finally:
            if elsewhere:
                del serving[thread]
            if context.code() is _UNIMPLEMENTED:
                # A runtime would take the plugin for one of an older protocol, and send the event again,
                # and all others from then on, as a StateChange.
                context.set_code(grpc.StatusCode.UNKNOWN)

    def _raised(self, error: BaseException, context: ServicerContext) -> None:
        """A handler has refused a request, or failed."""
        tally = self._plugin.tally
        if not (isinstance(error, Reject) or context.aborted):
            tally.add("errors")
            return
        tally.add("rejections")
        context.refused = True
        self._plugin.logger.warning(
            "%s refused: %s",
            describe(context.method.rpartition("/")[2], context.request),
            (context.aborted and context.details()) or str(error) or type(error).__name__,
        )

    def _state_change(
        self, request: nri_pb2.StateChangeEvent, context: ServicerContext
    ) -> nri_pb2.Empty:
        """What runtimes before NRI v0.12 send in place of most methods. Unknown events have no effect."""
        handler = BY_EVENT.get(request.event)
        if handler is None:
            self._plugin.logger.debug(
                "StateChange with event %d, which is not one of its", request.event
            )
        else:
            self._call(handler, handler.arguments()(request), context)
        return nri_pb2.Empty()

    def _validate(
        self, request: nri_pb2.ValidateContainerAdjustmentRequest, context: ServicerContext
    ) -> nri_pb2.ValidateContainerAdjustmentResponse:
        """Raising is the answer here, and no error of the call."""
        try:
            self._call(_HANDLERS["validate_container_adjustment"], [request], context)
        except Exception as error:
            reason = str(error) or type(error).__name__
            if not context.refused:
                # A bug rejects as well.
                self._plugin.tally.add("rejections")
                self._plugin.logger.error(
                    "%s rejected: %s", describe(_VALIDATE, request), reason,
                    exc_info=(type(error), error, own_frames(error.__traceback__)),
                )  # fmt: skip
            context.forget_abort()
            return nri_pb2.ValidateContainerAdjustmentResponse(reject=True, reason=reason)
        return nri_pb2.ValidateContainerAdjustmentResponse()

    def _configure(
        self, request: nri_pb2.ConfigureRequest, context: ServicerContext
    ) -> nri_pb2.ConfigureResponse:
        conn = self._conn
        conn.learn(request)
        handler = _HANDLERS["configure"]
        try:
            asked = self._call(handler, handler.arguments()(request), context)
            events, missing = self._subscription(asked)
        except BaseException as error:
            conn.configure_failed(error, context)
            raise
        response = nri_pb2.ConfigureResponse(
            events=int(events), failure_policy=self._plugin.failure_policy
        )
        self._tell_missing(missing)
        conn.ignored.check("Configure", response, conn.facts.runtime_nri_version)
        conn.configured(events, missing)
        return response

    def _subscription(self, asked: Any) -> tuple[EventMask, EventMask]:
        """The events to subscribe to, and those that are asked for and that the runtime does not have.

        Raises ValueError when one of the latter is required.
        """
        wanted = asked_events(asked, self._plugin.handled)
        events = wanted & api.valid_events(self._conn.facts.runtime_nri_version)
        lacking = (wanted.required | self._plugin.required_events) & ~events
        if lacking:
            raise ValueError(self._why_lacking(lacking, wanted))
        # An empty mask means all events to the runtime: a plugin without any takes the rarest one.
        return events or EventMask.REMOVE_POD_SANDBOX, wanted & ~events

    def _why_lacking(self, lacking: EventMask, wanted: EventMask) -> str:
        unasked = lacking & ~wanted
        if unasked:
            return f"configure subscribes without what the stub's required_events names: {unasked}"
        by_stub = lacking & self._plugin.required_events
        advice = (
            "the stub's required_events names them"
            if by_stub
            else "it can do without those that it asks for by a group or by EventMask.optional()"
        )
        return f"{self._runtime()} does not have these events, which the plugin requires: {lacking}; {advice}"

    def _runtime(self) -> str:
        facts = self._conn.facts
        named = f"{facts.runtime_name} {facts.runtime_version} (NRI {facts.runtime_nri_version})"
        return printable(named, 200)

    def _tell_missing(self, missing: EventMask) -> None:
        facts = self._conn.facts
        if missing & ~facts.missing_events:  # not said in a session before
            self._plugin.logger.warning(
                "the runtime speaks NRI %s, which does not have: %s",
                facts.runtime_nri_version,
                missing,
            )
        if EventMask.VALIDATE_CONTAINER_ADJUSTMENT in missing:
            self._plugin.tally.add("unvalidated_sessions")
            self._plugin.logger.error(
                "%s cannot call the plugin's validator: containers are created without it; "
                "required_events=EventMask.VALIDATE_CONTAINER_ADJUSTMENT refuses such a runtime",
                self._runtime(),
            )

    def _part(self, data: bytes) -> nri_pb2.SynchronizeRequest:
        # Counted before it is parsed. A part that is too much is refused by _synchronize().
        with self._lock:
            may_parse = self._parts.count(data)
            self._conn.state_is_complete = not self._parts.more
        return nri_pb2.SynchronizeRequest.FromString(data if may_parse else b"")

    def _expect_more(self, context: ServicerContext) -> None:
        """The runtime has one timeout for all parts together (``plugin.synchronize`` of NRI's adaptation)."""
        if self._conn.state_due is None or context.deadline.at is not None:
            # Some runtimes do not send their timeout with the call: then it began with the first part.
            timeout = self._conn.facts.request_timeout
            self._conn.state_due = context.deadline.at or context.since + timeout

    def _synchronize(
        self, request: nri_pb2.SynchronizeRequest, context: ServicerContext
    ) -> nri_pb2.SynchronizeResponse:
        """State that is too large for one message comes in parts; the handler gets all of it at once."""
        self._conn.state_is_complete = False  # of the part that comes next, nothing is known
        with self._lock:
            too_much = self._parts.too_much
            if not too_much:
                self._parts.add(request)
                if request.more:
                    self._expect_more(context)
                    return nri_pb2.SynchronizeResponse(more=True)
            size = self._parts.size
            pods, containers = self._parts.take()
        self._conn.state_due = None
        if too_much:
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the state of the node is larger than {MOST} bytes, each pod and container counted as its bytes "
                f"and 1 KiB; {len(pods)} pods and {len(containers)} containers came before it was",
            )
        self._plugin.logger.debug("synchronize: %d pods, %d containers", len(pods), len(containers))
        reply = self._call(_HANDLERS["synchronize"], [pods, containers], context)
        self._conn.mark_synchronized()
        if size >= _MUCH:
            give_back_after(context.when_answered(), f"{self._plugin.name}-memory")
        reply.more = False
        return reply  # type: ignore[no-any-return]


calls_handlers(Servicer._call.__code__)

_HANDLERS = {handler.name: handler for handler in HANDLERS}
_BY_RPC = {handler.rpc: handler for handler in HANDLERS}


class _OnDemand(grpc.ServiceRpcHandler):
    """Makes a method when it is first called: most plugins are asked for few, and start() is the sooner over."""

    def __init__(self, servicer: Servicer, router: Router) -> None:
        self._servicer = servicer
        self._router = router

    def service_name(self) -> str:
        return PLUGIN.full_name

    def service(self, handler_call_details: Any) -> Any:
        service, _, rpc = handler_call_details.method[1:].rpartition("/")
        if service != PLUGIN.full_name or rpc not in PLUGIN.methods:
            return None
        method = self._servicer.method(rpc)
        self._router.add_registered_method_handlers(service, {rpc: method})
        return method
