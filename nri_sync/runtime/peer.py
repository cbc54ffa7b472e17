"""The runtime's end of the connection to one plugin: its registration, and the requests to it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Sequence
from typing import Any, Callable

from nri_sync.api import EventMask, PluginId, nri_pb2
from nri_sync.api.compat import without_numbers
from nri_sync.api.services import PLUGIN, RUNTIME
from nri_sync.codes import StatusCode
from nri_sync.deadline import Deadline
from nri_sync.errors import CallFailed, ConnectionLost, NoThread, NRIError, RemoteProtocolError
from nri_sync.logger import get_logger
from nri_sync.net.sockets import peer_credentials
from nri_sync.rpc.client_call import ClientCall
from nri_sync.rpc.context import RequestContext
from nri_sync.rpc.router import MethodHandler, Router
from nri_sync.runtime.older import OlderRelease
from nri_sync.runtime.registration import Registration
from nri_sync.runtime.request import Request, synchronize_requests
from nri_sync.session import Session
from nri_sync.threads import Latch, spawn
from nri_sync.wire.mux import PLUGIN_SERVICE, RUNTIME_SERVICE

__all__ = ["Peer", "UpdateContainers"]

logger = get_logger("nri_sync.runtime")

#: Applies unsolicited updates; returns those that failed.
UpdateContainers = Callable[
    [list[nri_pb2.ContainerUpdate], list[nri_pb2.ContainerEviction]],
    Iterable[nri_pb2.ContainerUpdate],
]

# A reader, a watcher, and a few workers for unsolicited updates, which most runtimes apply one by one anyway.
# A flood of updates fills the backlog, and the session refuses the excess.
_MAX_THREADS = 6
# Seconds to wait until a plugin has read the refusal of its registration.
_REFUSAL = 1.0


class Peer:
    """A connected plugin. Owns the socket. Thread-safe.

    Call, in this order, :meth:`wait_registered`, :meth:`configure` and :meth:`synchronize`; then :meth:`request`
    or :meth:`call` for each event. The peer does not check this order. It refuses the updates that a plugin
    requests before Configure.
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
        """Start to read. Return at once.

        Args:
            sock: the connected socket.
            identity: the identity of a plugin that the runtime has launched. It overrides the name and index in
                the RegisterPlugin request.
            pid: the process of the plugin; by default the process at the other end of the socket.
            update_containers: applies the updates that the plugin requests. Without it they are refused.
            on_close: ``on_close(peer, cause)`` runs once, on a new thread, after the connection has ended.
            older: the older NRI release to act as.
            on_ignored: ``on_ignored(peer, rpc, fields)`` runs for each message that sets fields which ``older``
                does not know.

        Raises:
            RuntimeError, OSError: the system has no more threads or descriptors. The socket has been closed.
        """
        self._registration = Registration(identity, older)
        self.events = EventMask(0)
        self.failure_policy: nri_pb2.FailurePolicy | None = None
        self._update_containers = update_containers
        self._on_close = on_close
        self._configured = False
        self._older = older
        self._on_ignored = on_ignored
        # The ignored fields that have been logged.
        self._ignored: set[str] = set()
        self._by_state_change = older is not None and older.by_state_change
        # The events for which the fallback to StateChange has been logged.
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
        methods = {
            "RegisterPlugin": MethodHandler(
                self._registration.register,
                nri_pb2.RegisterPluginRequest.FromString,
                nri_pb2.Empty.SerializeToString,
            ),
            "UpdateContainers": MethodHandler(
                self._update,
                nri_pb2.UpdateContainersRequest.FromString,
                nri_pb2.UpdateContainersResponse.SerializeToString,
            ),
        }
        return Router({RUNTIME.full_name: methods})

    @property
    def idx(self) -> str:
        """The index, ``NN``; empty before the registration."""
        return self._registration.identity.idx

    @property
    def base_name(self) -> str:
        """The name without the index; empty before the registration."""
        return self._registration.identity.name

    @property
    def name(self) -> str:
        """The full name, ``NN-name``; before the registration, the process id."""
        return f"{self.idx}-{self.base_name}" if self.idx else f"plugin with pid {self.pid}"

    @property
    def identity(self) -> PluginId:
        return self._registration.identity

    @property
    def nri_version(self) -> str:
        """The NRI release of the plugin, as in its RegisterPlugin request; empty if the request has none."""
        return self._registration.nri_version

    @property
    def closed(self) -> bool:
        """Whether the connection has ended or is ending."""
        return self._session.link.closing

    @property
    def hung_up(self) -> bool:
        """Whether either side has ended the connection, even if the reader has not noticed it yet."""
        return self._session.link.hung_up

    @property
    def disconnected(self) -> bool:
        """Whether the connection has ended and its descriptors are closed."""
        return self._closed.is_set()

    # Requests of the plugin

    def _update(
        self, request: nri_pb2.UpdateContainersRequest, context: RequestContext
    ) -> nri_pb2.UpdateContainersResponse:
        if not self._configured:
            context.abort(StatusCode.FAILED_PRECONDITION, f"{self.name} is not registered yet")
        if self._update_containers is None:
            context.abort(
                StatusCode.FAILED_PRECONDITION, "the runtime takes no unsolicited updates"
            )
        self._strip("UpdateContainers", request)
        failed = self._update_containers(list(request.update), list(request.evict))
        return nri_pb2.UpdateContainersResponse(failed=failed)

    # Requests of the runtime

    def wait_registered(self, timeout: float) -> None:
        """Block until the plugin has registered and the answer to its RegisterPlugin request has been sent.

        Raises:
            TimeoutError: this took longer than ``timeout`` seconds.
            ConnectionLost: the connection has ended.
            RemoteProtocolError: the name or the index is invalid. The plugin has received the same text.
        """
        registered = self._registration.wait(Deadline(timeout))
        self._check()
        if not registered:
            raise TimeoutError(f"{self.name} has not registered within {timeout:g} s")
        refusal = self._registration.refusal
        if refusal:
            self._session.link.drain(Deadline(_REFUSAL))
            raise RemoteProtocolError(f"{self.name}: {refusal}")

    def configure(self, request: nri_pb2.ConfigureRequest, timeout: float) -> None:
        """Send the configuration, and store the events and the failure policy that the plugin answers with.

        Raises:
            RemoteProtocolError: the plugin subscribes to events that this release does not have.
            CallFailed: the call failed, or was not answered within ``timeout`` seconds.
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
        """Send all existing pods and containers; returns the updates that the plugin requests.

        Raises:
            RemoteProtocolError: the plugin does not support a state in several parts.
            CallFailed: a call failed, or the plugin did not answer all parts within ``timeout`` seconds.
        """
        deadline = Deadline(timeout)
        for part in synchronize_requests(pods, containers):
            response = self._exchange("Synchronize", part.payload, deadline)
            if part.more and (not response.more or response.update):
                raise RemoteProtocolError(f"plugin {self.name} does not handle split sync requests")
        return list(response.update)

    def request(self, request: Request, deadline: Deadline) -> Any:
        """Send an event to the plugin, and block until the response; returns the response.

        A plugin from before NRI v0.12 does not know the RPCs of most events. If the plugin answers UNIMPLEMENTED,
        it gets this event, and all later events that a StateChange can carry, as a StateChange.

        Raises:
            CallFailed: as :meth:`call`.
        """
        handler = request.handler
        if not (handler.by_state_change and self._by_state_change):
            try:
                return self._exchange(handler.rpc, request.payload, deadline)
            except CallFailed as error:
                unknown = error.code() is StatusCode.UNIMPLEMENTED and error.__cause__ is None
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
        """Send an event, and return a function that waits for the response and behaves as :meth:`call`."""
        rpc = request.handler.rpc
        call = self._begin(rpc, request.payload, deadline, wait=False)

        def response() -> Any:
            return self._finish(rpc, call)

        return response

    def call(self, rpc: str, request: Any, timeout: float | None) -> Any:
        """Call a method of the Plugin service, and block until the response; returns the response.

        Raises:
            CallFailed: the call failed. ``__cause__`` is None if the plugin answered with the error. Without an
                answer, ``__cause__`` is a TimeoutError (after ``timeout`` seconds), ConnectionLost or
                RemoteProtocolError.
        """
        return self._exchange(rpc, request.SerializeToString(), Deadline(timeout))

    def _exchange(self, rpc: str, payload: bytes, deadline: Deadline) -> Any:
        return self._finish(rpc, self._begin(rpc, payload, deadline, wait=True))

    def _begin(self, rpc: str, payload: bytes, deadline: Deadline, *, wait: bool) -> ClientCall:
        if self._older is not None:
            payload = self._older.encode_request(rpc, payload)
        path = PLUGIN.methods[rpc].path
        return self._session.client.start(path, payload, deadline=deadline, wait=wait)

    def _strip(self, rpc: str, message: Any) -> Any:
        """Clear the fields that the older release does not know, and report them; returns the message."""
        fields = [] if self._older is None else self._older.strip_unknown(message)
        if fields and self._older is not None:
            self._on_ignored(self, rpc, fields)
            for field in fields:
                key = f"{rpc} {without_numbers(field)}"
                if key not in self._ignored:
                    self._ignored.add(key)
                    logger.warning(
                        "plugin %s sets a field of %s that NRI %s does not know; it is ignored: %s",
                        self.name,
                        rpc,
                        self._older.version,
                        field,
                    )
        return message

    def _finish(self, rpc: str, call: ClientCall) -> Any:
        """The response of a finished call."""
        payload = self._session.client.result(call)
        try:
            return self._strip(rpc, PLUGIN.methods[rpc].response.FromString(payload))
        except Exception as error:
            text = f"plugin {self.name}: the response to {rpc} cannot be parsed: {error}"
            raise CallFailed(call.method, StatusCode.INTERNAL, text) from RemoteProtocolError(text)

    # The end

    def _check(self) -> None:
        if self._closed.is_set():
            raise ConnectionLost(f"{self.name}: {self._cause or 'the connection was closed'}")

    def _lost(self, cause: NRIError | None) -> None:
        self._cause = cause
        self._closed.set()
        self._registration.cancel()
        if self._on_close is not None:
            with contextlib.suppress(NoThread):
                spawn(f"{self._session.link.name}-on-close", self._on_close, self, cause)
                return
            self._on_close(self, cause)

    def close(self, cause: NRIError | None = None) -> None:
        """End the connection with the reason ``cause``. Returns at once; idempotent."""
        if cause is not None and not isinstance(cause, (ConnectionLost, RemoteProtocolError)):
            cause = ConnectionLost(str(cause))
        self._session.link.close(cause)

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Block until the connection has ended; False after ``timeout`` seconds."""
        return self._closed.wait(Deadline(timeout))
