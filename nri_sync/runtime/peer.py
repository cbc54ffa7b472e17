"""One plugin, as the runtime sees it: its registration, and calls to it."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Callable

import grpc
from google.protobuf.message_factory import GetMessageClass

from nri_sync import api
from nri_sync.api import EventMask, nri_pb2
from nri_sync.deadline import Deadline
from nri_sync.errors import ConnectionLost, NRIError, RemoteProtocolError
from nri_sync.net.sockets import peer_credentials
from nri_sync.session import Session
from nri_sync.threads import Latch, spawn
from nri_sync.ttrpc.router import Router
from nri_sync.wire.mux import PLUGIN_SERVICE, RUNTIME_SERVICE

__all__ = ["Peer", "UpdateContainers"]

logger = logging.getLogger("nri_sync.runtime")

#: Applies unsolicited updates; returns those that failed.
UpdateContainers = Callable[
    [list[nri_pb2.ContainerUpdate], list[nri_pb2.ContainerEviction]],
    Iterable[nri_pb2.ContainerUpdate],
]

_RUNTIME = nri_pb2.DESCRIPTOR.services_by_name["Runtime"]
_PLUGIN = nri_pb2.DESCRIPTOR.services_by_name["Plugin"]
_RESPONSES: dict[str, Any] = {
    method.name: GetMessageClass(method.output_type) for method in _PLUGIN.methods
}


class Peer:
    """A connected plugin. Owns the socket. Thread-safe.

    Call, in this order, :meth:`registered`, :meth:`configure` and :meth:`synchronize`; then :meth:`call` for
    each event.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        update_containers: UpdateContainers | None = None,
        on_close: Callable[[Peer, NRIError | None], object] | None = None,
    ) -> None:
        """Begins to read. ``on_close(peer, cause)`` is called once, on a thread of its own, at the end."""
        self.idx = ""
        self.base_name = ""
        #: The plugin's NRI release, as it told.
        self.nri_version = ""
        self.events = EventMask(0)
        self.failure_policy: nri_pb2.FailurePolicy | None = None
        self._update_containers = update_containers
        self._on_close = on_close
        # Guards the registration, of which there is one.
        self._lock = threading.Lock()
        self._registered = Latch()
        self._closed = Latch()
        self._cause: NRIError | None = None
        router = Router()
        router.add_registered_method_handlers(
            _RUNTIME.full_name,
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
        credentials = peer_credentials(sock)
        self.pid = None if credentials is None else credentials.pid
        self._session = Session(
            sock,
            router,
            serve=RUNTIME_SERVICE,
            call=PLUGIN_SERVICE,
            name=f"nri-plugin-{self.pid}",
            peer=f"unix:pid={self.pid}",
            lost=self._lost,
            callers_read=True,
        )
        spawn(self._session.link.name, self._session.link.run)

    @property
    def name(self) -> str:
        """The full name, ``NN-name``; before the registration, what is known of the process."""
        return f"{self.idx}-{self.base_name}" if self.base_name else f"plugin with pid {self.pid}"

    # What the plugin asks for

    def _register(
        self, request: nri_pb2.RegisterPluginRequest, context: grpc.ServicerContext
    ) -> nri_pb2.Empty:
        try:
            api.check_name(request.plugin_name)
        except ValueError as error:
            context.abort(grpc.StatusCode.UNKNOWN, f"invalid plugin name: {error}")
        try:
            api.check_index(request.plugin_idx)
        except ValueError as error:
            context.abort(grpc.StatusCode.UNKNOWN, f"invalid plugin index: {error}")
        with self._lock:
            if self.base_name:
                context.abort(
                    grpc.StatusCode.FAILED_PRECONDITION, f"plugin {self.name} is registered already"
                )
            self.idx, self.base_name = request.plugin_idx, request.plugin_name
            self.nri_version = request.NRI_version
        self._registered.set()
        return nri_pb2.Empty()

    def _update(
        self, request: nri_pb2.UpdateContainersRequest, context: grpc.ServicerContext
    ) -> nri_pb2.UpdateContainersResponse:
        if self._update_containers is None:
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, "the runtime takes no unsolicited updates"
            )
        failed = self._update_containers(list(request.update), list(request.evict))
        return nri_pb2.UpdateContainersResponse(failed=failed)

    # What the runtime asks for

    def registered(self, timeout: float) -> None:
        """Block until the plugin has registered.

        Raises:
            TimeoutError: it has not within ``timeout`` seconds.
            ConnectionLost: it is gone.
        """
        deadline = Deadline(timeout)
        if not self._registered.wait(deadline):
            self._check()
            raise TimeoutError(f"{self.name} has not registered within {timeout:g} s")
        self._check()

    def configure(self, request: nri_pb2.ConfigureRequest, timeout: float) -> None:
        """Send the configuration, and take in what the plugin subscribes to.

        Raises:
            RemoteProtocolError: it subscribes to events that do not exist.
            grpc.RpcError: it failed, or did not answer within ``timeout`` seconds.
        """
        response = self.call("Configure", request, timeout)
        events = EventMask(response.events or EventMask.ALL)
        if events & ~EventMask.ALL:
            raise RemoteProtocolError(f"plugin {self.name} subscribes to unknown events: {events}")
        self.events = events
        self.failure_policy = (
            response.failure_policy if response.HasField("failure_policy") else None
        )

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
        for request in _parts(pods, containers):
            response = self.call("Synchronize", request, deadline.remaining())
            if request.more and (not response.more or response.update):
                raise RemoteProtocolError(f"plugin {self.name} does not handle split sync requests")
        return list(response.update)

    def call(self, rpc: str, request: Any, timeout: float | None) -> Any:
        """Call a method of the Plugin service. Blocks until it is answered.

        Raises:
            grpc.RpcError: it failed, or was not answered within ``timeout`` seconds.
        """
        method = self._session.channel.unary_unary(
            f"/{_PLUGIN.full_name}/{rpc}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=_RESPONSES[rpc].FromString,
        )
        return method(request, timeout=timeout)

    # The end

    def _check(self) -> None:
        if self._closed.is_set():
            raise ConnectionLost(f"{self.name}: {self._cause or 'the connection was closed'}")

    def _lost(self, cause: NRIError | None) -> None:
        self._cause = cause
        self._closed.set()
        self._registered.set()
        if self._on_close is not None:
            spawn(f"{self._session.link.name}-on-close", self._on_close, self, cause)

    def close(self) -> None:
        """End the connection. Returns at once; idempotent."""
        self._session.link.close()

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Block until the connection has ended; False after ``timeout`` seconds."""
        return self._closed.wait(Deadline(timeout))


# What the envelope of a request may add to its payload: two names, a timeout, and lengths.
_ENVELOPE = 256
_PART_MAX = 4_194_304 - _ENVELOPE


def _parts(
    pods: Sequence[nri_pb2.PodSandbox], containers: Sequence[nri_pb2.Container]
) -> Iterable[nri_pb2.SynchronizeRequest]:
    """The state in as few requests as it fits into; all but the last have ``more`` set."""
    request = nri_pb2.SynchronizeRequest()
    size = 0
    items: list[tuple[Any, Any]] = [("pods", pod) for pod in pods]
    items += [("containers", container) for container in containers]
    for field, item in items:
        length = item.ByteSize() + 6  # its tag and length
        if size and size + length > _PART_MAX:
            request.more = True
            yield request
            request = nri_pb2.SynchronizeRequest()
            size = 0
        getattr(request, field).append(item)
        size += length
    yield request
