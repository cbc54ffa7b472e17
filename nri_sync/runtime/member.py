"""A plugin as the relay sees it, and the failure of a request to it."""

from __future__ import annotations

from typing import Any, Callable, Protocol, Union

from nri_sync.api import EventMask, PluginId, nri_pb2
from nri_sync.deadline import Deadline
from nri_sync.errors import (
    CallFailed,
    ConnectionLost,
    NoAnswer,
    NRIError,
    RemoteProtocolError,
    RequestFailed,
)
from nri_sync.rpc.status import status_of
from nri_sync.runtime.request import Request

__all__ = ["Member", "failure", "no_answer_cause"]

# The causes of a missing answer.
_NoAnswerCause = Union[TimeoutError, ConnectionLost, RemoteProtocolError]


class Member(Protocol):
    """The methods of a plugin that the relay uses. :class:`Peer` and :class:`InProcess` have them."""

    events: EventMask
    failure_policy: nri_pb2.FailurePolicy | None

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> PluginId: ...

    @property
    def closed(self) -> bool: ...

    def request(self, request: Request, deadline: Deadline) -> Any: ...

    def request_async(self, request: Request, deadline: Deadline) -> Callable[[], Any]: ...

    def close(self, cause: NRIError | None = None) -> None: ...


def no_answer_cause(error: Exception) -> _NoAnswerCause | None:
    """The reason why the plugin gave no answer; None if the error itself is the plugin's answer."""
    if isinstance(error, CallFailed):
        cause = error.__cause__
        if isinstance(cause, (TimeoutError, ConnectionLost, RemoteProtocolError)):
            return cause
    return None


def failure(plugin: str, event: str, error: Exception) -> RequestFailed:
    """The exception for a request that a plugin failed. Its ``__cause__`` is set already."""
    cause = no_answer_cause(error)
    if cause is not None:
        failed: RequestFailed = NoAnswer(
            f"plugin {plugin} failed to handle {event} request: {cause}",
            plugin=plugin, event=event, reason=str(cause),
        )  # fmt: skip
        failed.__cause__ = cause
        return failed
    if isinstance(error, CallFailed):
        reason = error.details() or error.code().name
    else:
        # A plugin in this process may fail with an error of grpcio.
        status = status_of(error)
        reason = (status and status.details) or str(error) or type(error).__name__
    failed = RequestFailed(
        f"plugin {plugin}: {event} failed: {reason}", plugin=plugin, event=event, reason=reason
    )
    failed.__cause__ = error
    return failed
