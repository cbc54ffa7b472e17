"""One plugin behind a socket, as the runtime sees it: its registration, and calls to it."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterable, Sequence
from typing import Any, Callable

import grpc

from nri_sync import api
from nri_sync.api import EventMask, PluginId, nri_pb2
from nri_sync.api.compat import without_numbers
from nri_sync.api.services import PLUGIN, RUNTIME
from nri_sync.deadline import Deadline
from nri_sync.errors import ConnectionLost, NoThread, NRIError, RemoteProtocolError
from nri_sync.logger import get_logger
from nri_sync.net.sockets import peer_credentials
from nri_sync.rpc.client import ClientCall
from nri_sync.rpc.context import ServicerContext
from nri_sync.rpc.router import Router
from nri_sync.rpc.status import Status
from nri_sync.runtime.older import OlderRelease
from nri_sync.runtime.request import Request, synchronize_requests
from nri_sync.session import Session
from nri_sync.threads import Latch, spawn
from nri_sync.ttrpc.call import CallError
from nri_sync.wire.mux import PLUGIN_SERVICE, RUNTIME_SERVICE

__all__ = ["Peer", "UpdateContainers"]

logger = get_logger("nri_sync.runtime")

#: Applies unsolicited updates; returns those that failed.
UpdateContainers = Callable[
    [list[nri_pb2.ContainerUpdate], list[nri_pb2.ContainerEviction]],
    Iterable[nri_pb2.ContainerUpdate],
]

# A reader, one that watches, and a few for the updates that a plugin asks for, which are applied one by one
# anyway. A flood of them waits in line, and is refused in the end.
_MAX_THREADS = 6
# Of a plugin's name, which stands in log lines, errors and metrics: as much as one of a file has.
_NAME_MAX = 255
# How long a refusal may take to get to a plugin that does not read it, in seconds.
_REFUSAL = 1.0


class Peer:
    """A connected plugin. Owns the socket. Thread-safe.

    Call, in this order, :meth:`registered`, :meth:`configure` and :meth:`synchronize`; then :meth:`request` or
    :meth:`call` for each event. Nothing else is held back by this side: what a plugin asks for before it has been
    configured is refused.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        identity: PluginId | None = None,
        pid: int | None = None,
        update_containers: UpdateContainers | None = None,
        on_close: Callable[[Peer, NRIError | None], object] | None = None,
        older: OlderRelease | None = None,
        on_ignored: Callable[[Peer, str, list[str]], object] = lambda *_: None,
    ) -> None:
        """Begins to read. ``on_close(peer, cause)`` is called once, on a thread of its own, at the end.

        ``identity`` is that of a plugin which this side has launched: it counts, not what the plugin tells.
        ``pid`` is its process; by default that of the other end. ``older`` is the release to act as;
        ``on_ignored(peer, rpc, fields)`` is called for each message with fields that it does not know.

        Raises:
            RuntimeError, OSError: the system has no more threads or descriptors. The socket has been closed.
        """
        self._launched = identity is not None
        self.idx, self.base_name = identity or ("", "")
        #: The plugin's NRI release, as it told.
        self.nri_version = ""
        self.events = EventMask(0)
        self.failure_policy: nri_pb2.FailurePolicy | None = None
        self._update_containers = update_containers
        self._on_close = on_close
        # How many there were: only the first counts, however many come at once.
        self._registrations = itertools.count()
        # Set when the plugin has asked to be registered, or never will.
        self._asked = Latch()
        # Of the first registration: why it was refused, and whether the answer is out.
        self._refused = ""
        self._answered: Latch | None = None
        self._configured = False
        self._older = older
        self._on_ignored = on_ignored
        # Fields that the log has been told of.
        self._ignored: set[str] = set()
        self._by_state_change = older is not None and older.by_state_change
        # Events that the log has been told of: they came as a StateChange.
        self._warned: set[int] = set()
        self._closed = Latch()
        self._cause: NRIError | None = None
        if pid is None:
            credentials = peer_credentials(sock)
            pid = None if credentials is None else credentials.pid
        self.pid = pid
        try:
            self._session = Session(
                sock,
                self._router(),
                serve=RUNTIME_SERVICE,
                call=PLUGIN_SERVICE,
                name=f"nri-plugin-{self.pid}",
                peer=f"unix:pid={self.pid}",
                lost=self._lost,
                callers_read=True,
                max_threads=_MAX_THREADS,
            )
        except BaseException:
            sock.close()
            raise
        try:
            spawn(self._session.link.name, self._session.link.run)
        except BaseException:
            self._session.link.abandon()
            raise

    def _router(self) -> Router:
        router = Router()
        router.add_registered_method_handlers(
            RUNTIME.full_name,
            {
                "RegisterPlugin": grpc.unary_unary_rpc_method_handler(
                    self._register,
                    request_deserializer=nri_pb2.RegisterPluginRequest.FromString,
                    response_serializer=nri_pb2.Empty.SerializeToString,
                ),
                "UpdateContainers": grpc.unary_unary_rpc_method_handler(
                    self._update,
                    request_deserializer=nri_pb2.UpdateContainersRequest.FromString,
                    response_serializer=nri_pb2.UpdateContainersResponse.SerializeToString,
                ),
            },
        )
        return router

    @property
    def name(self) -> str:
        """The full name, ``NN-name``; before the registration, what is known of the process."""
        return f"{self.idx}-{self.base_name}" if self.idx else f"plugin with pid {self.pid}"

    @property
    def identity(self) -> PluginId:
        return PluginId(self.idx, self.base_name)

    @property
    def closed(self) -> bool:
        """Whether the connection is over, or about to be."""
        return self._session.link.closing

    @property
    def hung_up(self) -> bool:
        """Whether either side has ended the connection, also where this side has not seen that yet."""
        return self._session.link.hung_up

    @property
    def disconnected(self) -> bool:
        """Whether the connection is over, its descriptors closed."""
        return self._closed.is_set()

    # What the plugin asks for

    def _register(
        self, request: nri_pb2.RegisterPluginRequest, context: ServicerContext
    ) -> nri_pb2.Empty:
        if next(self._registrations):
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, f"plugin {self.name} is registered already"
            )
        self._answered = context.when_answered()
        self._refused = "" if self._launched else _unfit(request)
        if not self._refused:
            if not self._launched:
                self.idx, self.base_name = request.plugin_idx, request.plugin_name
            if self._older is not None:
                self._older.strip_unknown(
                    request
                )  # of which its release is a part that nobody misses
            self.nri_version = request.NRI_version
        self._asked.set()
        if self._refused:
            context.abort(grpc.StatusCode.UNKNOWN, self._refused)
        return nri_pb2.Empty()

    def _update(
        self, request: nri_pb2.UpdateContainersRequest, context: ServicerContext
    ) -> nri_pb2.UpdateContainersResponse:
        if not self._configured:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{self.name} is not registered yet")
        if self._update_containers is None:
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, "the runtime takes no unsolicited updates"
            )
        self._seen("UpdateContainers", request)
        failed = self._update_containers(list(request.update), list(request.evict))
        return nri_pb2.UpdateContainersResponse(failed=failed)

    # What the runtime asks for

    def wait_registered(self, timeout: float) -> None:
        """Block until the plugin has registered, and been told so.

        Raises:
            TimeoutError: it has not within ``timeout`` seconds.
            ConnectionLost: it is gone.
            RemoteProtocolError: its name or index cannot be used; it has been told.
        """
        deadline = Deadline(timeout)
        self._asked.wait(deadline)
        answered = self._answered
        if answered is not None:
            answered.wait(deadline)
        self._check()
        if answered is None or not answered.is_set():
            raise TimeoutError(f"{self.name} has not registered within {timeout:g} s")
        if self._refused:
            self._session.link.drain(Deadline(_REFUSAL))
            raise RemoteProtocolError(f"{self.name}: {self._refused}")

    def configure(self, request: nri_pb2.ConfigureRequest, timeout: float) -> None:
        """Send the configuration, and take in what the plugin subscribes to.

        Raises:
            RemoteProtocolError: it subscribes to events that do not exist in this release.
            grpc.RpcError: it failed, or did not answer within ``timeout`` seconds.
        """
        response = self.call("Configure", request, timeout)
        known = EventMask.ALL if self._older is None else self._older.events
        events = EventMask(response.events or known)
        if events & ~known:
            raise RemoteProtocolError(f"plugin {self.name} subscribes to unknown events: {events}")
        self.events = events
        self.failure_policy = (
            response.failure_policy if response.HasField("failure_policy") else None
        )
        self._configured = True

    def synchronize(
        self,
        pods: Sequence[nri_pb2.PodSandbox],
        containers: Sequence[nri_pb2.Container],
        timeout: float,
    ) -> list[nri_pb2.ContainerUpdate]:
        """Tell the plugin what exists; returns the updates that it asks for.

        Raises:
            RemoteProtocolError: it cannot take the state in several parts.
            grpc.RpcError: it failed, or did not answer within ``timeout`` seconds.
        """
        deadline = Deadline(timeout)
        for part in synchronize_requests(pods, containers):
            response = self._exchange("Synchronize", part.payload, deadline)
            if part.more and (not response.more or response.update):
                raise RemoteProtocolError(f"plugin {self.name} does not handle split sync requests")
        return list(response.update)

    def request(self, request: Request, deadline: Deadline) -> Any:
        """Call the plugin for an event; returns its response. Blocks until it is answered.

        A plugin of before NRI v0.12 that does not know the RPC gets it as a StateChange, from then on at once.

        Raises:
            grpc.RpcError: as :meth:`call`.
        """
        handler = request.handler
        if not (handler.by_state_change and self._by_state_change):
            try:
                return self._exchange(handler.rpc, request.payload, deadline)
            except CallError as error:
                unknown = error.code() is grpc.StatusCode.UNIMPLEMENTED and error.__cause__ is None
                if not (handler.by_state_change and unknown):
                    raise
                self._by_state_change = True
        return self._state_change(request, deadline)

    def _state_change(self, request: Request, deadline: Deadline) -> Any:
        handler = request.handler
        arguments = {field: getattr(request.message, field) for field in handler.fields}
        event = nri_pb2.StateChangeEvent(event=handler.event, **arguments)  # type: ignore[arg-type]
        self._exchange("StateChange", event.SerializeToString(), deadline)
        if self._older is None and handler.event not in self._warned:
            self._warned.add(handler.event)
            logger.warning(
                "plugin %s does not implement a dedicated %s RPC call, but the deprecated StateChange",
                self.name,
                handler.rpc,
            )
        return PLUGIN.methods[handler.rpc].response()

    def request_async(self, request: Request, deadline: Deadline) -> Callable[[], Any]:
        """Begin to call the plugin; what is returned waits for the response, as :meth:`call` does."""
        rpc = request.handler.rpc
        call = self._begin(rpc, request.payload, deadline, wait=False)

        def response() -> Any:
            self._session.client.wait(call)
            return self._finish(rpc, call)

        return response

    def call(self, rpc: str, request: Any, timeout: float | None) -> Any:
        """Call a method of the Plugin service. Blocks until it is answered.

        Raises:
            grpc.RpcError: it failed, or was not answered within ``timeout`` seconds. ``__cause__`` is None if the
                plugin said so; otherwise a TimeoutError, ConnectionLost or RemoteProtocolError tells why there
                is no answer.
        """
        return self._exchange(rpc, request.SerializeToString(), Deadline(timeout))

    def _exchange(self, rpc: str, payload: bytes, deadline: Deadline) -> Any:
        return self._finish(rpc, self._begin(rpc, payload, deadline, wait=True))

    def _begin(self, rpc: str, payload: bytes, deadline: Deadline, *, wait: bool) -> ClientCall:
        if self._older is not None:
            payload = self._older.encode_request(rpc, payload)
        path = PLUGIN.methods[rpc].path
        return self._session.client.start(path, payload, deadline=deadline, wait=wait)

    def _seen(self, rpc: str, message: Any) -> Any:
        """A message of the plugin as this release sees it; tells of what it does not see."""
        fields = [] if self._older is None else self._older.strip_unknown(message)
        if fields and self._older is not None:
            self._on_ignored(self, rpc, fields)
            for field in fields:
                key = f"{rpc} {without_numbers(field)}"
                if key not in self._ignored:
                    self._ignored.add(key)
                    logger.warning(
                        "plugin %s sets a field of %s that NRI %s does not know, and that is ignored: %s",
                        self.name,
                        rpc,
                        self._older.version,
                        field,
                    )
        return message

    def _finish(self, rpc: str, call: ClientCall) -> Any:
        """The response of a call that is done."""
        assert call.status is not None
        if call.status.number != 0:
            raise CallError(call.method, call.status) from call.cause
        try:
            return self._seen(rpc, PLUGIN.methods[rpc].response.FromString(call.payload or b""))
        except Exception as error:
            text = f"plugin {self.name}: what it answered to {rpc} cannot be parsed: {error}"
            status = Status.of(grpc.StatusCode.INTERNAL, text)
            raise CallError(call.method, status) from RemoteProtocolError(text)

    # The end

    def _check(self) -> None:
        if self._closed.is_set():
            raise ConnectionLost(f"{self.name}: {self._cause or 'the connection was closed'}")

    def _lost(self, cause: NRIError | None) -> None:
        self._cause = cause
        self._closed.set()
        self._asked.set()
        if self._on_close is not None:
            with contextlib.suppress(NoThread):
                spawn(f"{self._session.link.name}-on-close", self._on_close, self, cause)
                return
            self._on_close(self, cause)

    def close(self, cause: NRIError | None = None) -> None:
        """End the connection; ``cause`` tells why. Returns at once; idempotent."""
        if cause is not None and not isinstance(cause, (ConnectionLost, RemoteProtocolError)):
            cause = ConnectionLost(str(cause))
        self._session.link.close(cause)

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Block until the connection has ended; False after ``timeout`` seconds."""
        return self._closed.wait(Deadline(timeout))


def _unfit(request: nri_pb2.RegisterPluginRequest) -> str:
    """Why a plugin cannot be registered under its name."""
    for what, check, value in (
        ("name", api.check_name, request.plugin_name),
        ("index", api.check_index, request.plugin_idx),
    ):
        try:
            check(value)
        except ValueError as error:
            return f"invalid plugin {what}: {error}"
    if len(request.plugin_name) > _NAME_MAX:
        return f"invalid plugin name: it has more than {_NAME_MAX} characters"
    return ""
