"""The Plugin service: requests in, handlers called, replies out. One servicer for each stub."""

from __future__ import annotations

import _thread
from collections.abc import Sequence
from typing import Any, Callable, Protocol

from nri_sync import api
from nri_sync.api import EventMask, nri_pb2
from nri_sync.api.handlers import BY_EVENT, HANDLERS, Handler, asked_events
from nri_sync.api.services import PLUGIN
from nri_sync.codes import StatusCode
from nri_sync.errors import Reject
from nri_sync.plugin.facts import Facts
from nri_sync.plugin.ignored import IgnoredFields
from nri_sync.plugin.memory import give_back_after
from nri_sync.plugin.parts import MOST, Parts, parse
from nri_sync.plugin.spec import PluginSpec
from nri_sync.plugin.subjects import describe
from nri_sync.rpc.context import RequestContext, current_context
from nri_sync.rpc.frames import calls_handlers, own_frames
from nri_sync.rpc.router import MethodHandler
from nri_sync.rpc.status import text_of
from nri_sync.text import printable
from nri_sync.wire.ttrpc import Data

__all__ = ["ServedConnection", "Servicer"]


_UNIMPLEMENTED = StatusCode.UNIMPLEMENTED

# From how many bytes of state on, as Parts counts them, its memory is given back to the system.
_MUCH = 1024 * 1024

_VALIDATE = "ValidateContainerAdjustment"
_NONE = EventMask(0)


class ServedConnection(Protocol):
    """The part of a connection that a servicer uses. The ``owner`` of each context is one."""

    #: The runtime's names, versions and timeouts.
    facts: Facts
    ignored: IgnoredFields
    #: The state of the node, while it comes in parts.
    parts: Parts

    @property
    def serving(self) -> dict[int, RequestContext]:
        """The requests that are being served, by thread."""

    @property
    def is_decided(self) -> bool:
        """Whether the start has succeeded or failed."""

    def learn(self, request: nri_pb2.ConfigureRequest) -> None: ...

    def configured(self, events: EventMask, missing: EventMask) -> None: ...

    def configure_failed(self, error: BaseException, context: RequestContext) -> None: ...

    def mark_synchronized(self) -> None: ...


class Servicer:
    """Serves all connections of a stub; every method may be called from several threads at once.

    One table of methods is made for the stub. The context of a request leads to its connection.
    """

    def __init__(self, plugin: PluginSpec) -> None:
        self._plugin = plugin
        #: The methods of the service, with the plugin's interceptors around them, for a ServerEnd.
        self.router = plugin.interceptors.router(
            {PLUGIN.full_name: {rpc: self._method(rpc) for rpc in PLUGIN.methods}}, _Deciding()
        )

    def _method(self, rpc: str) -> MethodHandler:
        """The handler of one of the service's methods."""
        behaviours: dict[str, Callable[[Any, RequestContext], Any]] = {
            "Configure": self._configure,
            "Synchronize": self._synchronize,
            "StateChange": self._state_change,
            "ValidateContainerAdjustment": self._validate,
        }
        behaviour = behaviours.get(rpc) or self._behaviour(_BY_RPC[rpc])
        behaviour = self._plugin.interceptors.around(rpc, behaviour)
        # No check in Configure, in which the runtime sends its release.
        behaviour = _deciding(behaviour) if rpc == "Configure" else _checked(rpc, behaviour)
        method = PLUGIN.methods[rpc]
        is_state = rpc == "Synchronize"
        return MethodHandler(
            behaviour,
            _part if is_state else method.request.FromString,
            method.response.SerializeToString,
            takes_view=is_state,
        )

    def _behaviour(self, handler: Handler) -> Callable[[Any, RequestContext], Any]:
        empty = PLUGIN.methods[handler.rpc].response()
        arguments = handler.arguments()

        def behaviour(request: Any, context: RequestContext) -> Any:
            reply = self._call(handler, arguments(request), context)
            return empty if reply is None else reply

        return behaviour

    def _call(self, handler: Handler, arguments: Sequence[Any], context: RequestContext) -> Any:
        """Call the plugin's handler, if there is one, and make the reply of the result."""
        method = self._plugin.handlers.get(handler.name)
        if method is None:
            return handler.reply(None)
        tally = self._plugin.tally
        tally.add("requests")
        conn: ServedConnection = context.owner
        serving = conn.serving
        thread = _thread.get_ident()
        # An interceptor may call it on another thread.
        elsewhere = thread not in serving
        served = serving.setdefault(thread, context)
        served.handler = handler.name
        served.runtime = conn.facts
        try:
            return handler.reply(method(*arguments))
        except BaseException as error:
            self.raised(error, context)
            raise
        finally:
            if elsewhere:
                del serving[thread]
            self.forbid_unimplemented(context)

    def forbid_unimplemented(self, context: RequestContext) -> None:
        """Replace the code UNIMPLEMENTED, if the handler has set it.

        A runtime would take the plugin for one of an older protocol, and send the event again, and all others from
        then on, as a StateChange.
        """
        if context.status_code is _UNIMPLEMENTED:
            context.set_code(StatusCode.UNKNOWN)

    def raised(self, error: BaseException, context: RequestContext) -> None:
        """Count the exception of a handler, and log a refusal."""
        tally = self._plugin.tally
        if not (isinstance(error, Reject) or context.aborted):
            tally.add("errors")
            return
        tally.add("rejections")
        context.refused = True
        self._plugin.logger.warning(
            "%s refused: %s",
            describe(context.method.rpartition("/")[2], context.request),
            (context.aborted and context.details()) or text_of(error),
        )

    def _state_change(
        self, request: nri_pb2.StateChangeEvent, context: RequestContext
    ) -> nri_pb2.Empty:
        """Runtimes before NRI v0.12 send this in place of most methods. Unknown events have no effect."""
        handler = BY_EVENT.get(request.event)
        if handler is None:
            self._plugin.logger.debug(
                "StateChange with event %d, which is not one of its", request.event
            )
        else:
            self._call(handler, handler.arguments()(request), context)
        return nri_pb2.Empty()

    def _validate(
        self, request: nri_pb2.ValidateContainerAdjustmentRequest, context: RequestContext
    ) -> nri_pb2.ValidateContainerAdjustmentResponse:
        """Raising is the answer here, and no error of the call."""
        try:
            self._call(_HANDLERS["validate_container_adjustment"], [request], context)
        except Exception as error:
            reason = text_of(error)
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
        self, request: nri_pb2.ConfigureRequest, context: RequestContext
    ) -> nri_pb2.ConfigureResponse:
        conn: ServedConnection = context.owner
        conn.learn(request)
        handler = _HANDLERS["configure"]
        try:
            asked = self._call(handler, handler.arguments()(request), context)
            events, missing = self._subscription(asked, conn.facts)
        except BaseException as error:
            conn.configure_failed(error, context)
            raise
        response = nri_pb2.ConfigureResponse(
            events=int(events), failure_policy=self._plugin.failure_policy
        )
        self._tell_missing(missing, conn.facts)
        conn.ignored.check("Configure", response)
        conn.configured(events, missing)
        return response

    def _subscription(self, asked: Any, facts: Facts) -> tuple[EventMask, EventMask]:
        """The events to subscribe to, and those that are asked for and that the runtime does not have.

        Raises ValueError when one of the latter is required.
        """
        wanted = asked_events(asked, self._plugin.handled)
        valid = api.valid_events(facts.runtime_nri_version)
        # The usual case. Operators of an enum take long.
        if wanted and wanted in valid and self._plugin.required_events in wanted:
            return wanted.optional(), _NONE
        events = wanted & valid
        lacking = (wanted.required | self._plugin.required_events) & ~events
        if lacking:
            raise ValueError(_why_lacking(lacking, wanted, facts))
        # An empty mask means all events to the runtime: a plugin without any takes the rarest one.
        return events or EventMask.REMOVE_POD_SANDBOX, wanted & ~events

    def _tell_missing(self, missing: EventMask, facts: Facts) -> None:
        if not missing:
            return
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
                _runtime(facts),
            )

    def _synchronize(
        self, request: nri_pb2.SynchronizeRequest, context: RequestContext
    ) -> nri_pb2.SynchronizeResponse:
        """State that is too large for one message comes in parts; the handler gets all of it at once."""
        conn: ServedConnection = context.owner
        # The runtime has one timeout for all parts together (plugin.synchronize of NRI's adaptation).
        otherwise = context.since + conn.facts.request_timeout
        state = conn.parts.add(request, context.deadline.at, otherwise)
        if state is None:
            return nri_pb2.SynchronizeResponse(more=True)
        pods, containers = state.pods, state.containers
        if state.too_much:
            context.abort(
                StatusCode.RESOURCE_EXHAUSTED,
                f"the state of the node is larger than {MOST} bytes, each pod and container counted as its bytes "
                f"and 1 KiB; {len(pods)} pods and {len(containers)} containers came before it was",
            )
        self._plugin.logger.debug("synchronize: %d pods, %d containers", len(pods), len(containers))
        reply = self._call(_HANDLERS["synchronize"], [pods, containers], context)
        conn.mark_synchronized()
        if state.size >= _MUCH:
            give_back_after(context.when_answered(), f"{self._plugin.name}-memory")
        reply.more = False
        return reply  # type: ignore[no-any-return]


calls_handlers(Servicer._call.__code__)

_HANDLERS = {handler.name: handler for handler in HANDLERS}
_BY_RPC = {handler.rpc: handler for handler in HANDLERS}


def _part(data: Data) -> nri_pb2.SynchronizeRequest:
    """Parse a part of the state. Counts it before: a part that is too much is not parsed, and then refused."""
    conn: ServedConnection = current_context.get().owner
    measured = conn.parts.count(data)
    return nri_pb2.SynchronizeRequest() if measured is None else parse(data, measured.cuts)


def _checked(
    rpc: str, behaviour: Callable[[Any, RequestContext], Any]
) -> Callable[[Any, RequestContext], Any]:
    """``behaviour``, with a check of its replies for fields that the runtime does not know."""

    def checked(request: Any, context: RequestContext) -> Any:
        reply = behaviour(request, context)
        ignored: IgnoredFields = context.owner.ignored
        if ignored.is_needed:
            ignored.check(rpc, reply)
        return reply

    return checked


def _deciding(
    behaviour: Callable[[Any, RequestContext], Any] | None,
) -> Callable[[Any, RequestContext], Any]:
    """Serve Configure by ``behaviour``, with the interceptors: a fault of one of them fails the start."""

    def deciding(request: Any, context: RequestContext) -> Any:
        conn: ServedConnection = context.owner
        try:
            reply = None if behaviour is None else behaviour(request, context)
            if not conn.is_decided:
                raise RuntimeError("an interceptor has kept Configure from the plugin")
        except BaseException as error:
            conn.configure_failed(error, context)
            raise
        return reply

    return deciding


class _Deciding:
    """:func:`_deciding` around all interceptors, if one of gRPC is among them; an interceptor of gRPC itself."""

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        if details.method != PLUGIN.methods["Configure"].path:
            return continuation(details)
        try:
            handler = continuation(details)
        except BaseException as error:
            context = current_context.get()
            context.owner.configure_failed(error, context)
            raise
        return MethodHandler(
            _deciding(getattr(handler, "unary_unary", None)),
            getattr(handler, "request_deserializer", None),
            getattr(handler, "response_serializer", None),
        )


def _why_lacking(lacking: EventMask, wanted: EventMask, facts: Facts) -> str:
    unasked = lacking & ~wanted
    if unasked:
        return f"configure subscribes without what the stub's required_events names: {unasked}"
    return (
        f"{_runtime(facts)} does not have these events, which the plugin requires: {lacking}; "
        "it can do without those that it asks for by a group or by EventMask.optional()"
    )


def _runtime(facts: Facts) -> str:
    named = f"{facts.runtime_name} {facts.runtime_version} (NRI {facts.runtime_nri_version})"
    return printable(named, 200)
