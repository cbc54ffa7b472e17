"""A plugin in the runtime's own process: an object with handlers, no socket."""

from __future__ import annotations

from typing import Any, Callable

from nri_sync import api
from nri_sync.api import PluginId, nri_pb2
from nri_sync.api.handlers import HANDLERS, asked_events, find_handlers
from nri_sync.deadline import Deadline
from nri_sync.errors import NRIError
from nri_sync.logger import get_logger
from nri_sync.runtime.request import Request

__all__ = ["InProcess"]

logger = get_logger("nri_sync.runtime")

_HANDLERS = {handler.name: handler for handler in HANDLERS}


class InProcess:
    """Calls the handlers of a plugin on the thread that relays the event. Has the interface of a :class:`Member`.

    Handlers get copies of messages, as if the messages had come over a socket. The handlers are part of the
    runtime, so they have neither a time limit nor a failure policy: an exception of a handler fails the request.
    """

    failure_policy: nri_pb2.FailurePolicy | None = None
    closed = False

    def __init__(self, name: str, plugin: object) -> None:
        """``name`` is the full name, ``NN-name``.

        Raises:
            ValueError: the name is invalid.
            PluginError: the plugin has no handlers, or invalid ones.
        """
        self.identity: PluginId = api.parse_file_name(name)
        api.check_name(self.identity.name)
        self.name = name
        self.idx = self.identity.idx
        self._handlers, self.events = find_handlers(plugin)
        self._handled = self.events

    def configure(self, request: nri_pb2.ConfigureRequest, timeout: float) -> None:
        """Call the ``configure`` handler, which may choose the events.

        Exceptions of the handler come out unchanged. Raises TypeError or ValueError for an invalid return value.
        """
        method = self._handlers.get("configure")
        if method is not None:
            asked = method(request.config, request.runtime_name, request.runtime_version)
            self.events = asked_events(asked, self._handled)

    def synchronize(
        self, pods: Any, containers: Any, timeout: float
    ) -> list[nri_pb2.ContainerUpdate]:
        """Call the ``synchronize`` handler with the state; returns the updates that the plugin requests."""
        method = self._handlers.get("synchronize")
        if method is None:
            return []
        request = nri_pb2.SynchronizeRequest(pods=pods, containers=containers)
        result = method(list(request.pods), list(request.containers))
        response = _HANDLERS["synchronize"].reply(result)
        return list(response.update)

    def request(self, request: Request, deadline: Deadline) -> Any:
        """Call the handler of an event; returns its response. ``deadline`` has no effect."""
        handler = request.handler
        method = self._handlers[handler.name]
        if handler.event == nri_pb2.VALIDATE_CONTAINER_ADJUSTMENT:
            return self._validate(method, request)
        message = type(request.message)()
        message.CopyFrom(request.message)
        return handler.reply(method(*handler.arguments()(message)))

    def _validate(self, method: Callable[..., Any], request: Request) -> Any:
        """Call a validator. An exception of the handler is a rejection, not a failure of the call."""
        message = type(request.message)()
        message.CopyFrom(request.message)
        try:
            request.handler.reply(method(message))
        except Exception as error:
            reason = str(error) or type(error).__name__
            return nri_pb2.ValidateContainerAdjustmentResponse(reject=True, reason=reason)
        return nri_pb2.ValidateContainerAdjustmentResponse()

    def request_async(self, request: Request, deadline: Deadline) -> Callable[[], Any]:
        """Return a function that calls the handler. This call itself does nothing."""
        return lambda: self.request(request, deadline)

    def close(self, cause: NRIError | None = None) -> None:
        """Call the ``shutdown`` handler, at most once. Its exceptions are logged."""
        method = None if self.closed else self._handlers.get("shutdown")
        self.closed = True
        if method is not None:
            try:
                method()
            except Exception:
                logger.exception("plugin %s: its shutdown handler failed", self.name)
