"""The entries of a recording: one for each message and event of a connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nri_sync import api
from nri_sync.api import services

__all__ = [
    "CLOSED",
    "LOST",
    "NOTE",
    "OPENED",
    "PLUGIN",
    "REQUEST",
    "RESPONSE",
    "RUNTIME",
    "Entry",
    "message_type",
]

# The senders of messages.
RUNTIME = "runtime"
PLUGIN = "plugin"

# Kinds of entries.
OPENED = "opened"
REQUEST = "request"
RESPONSE = "response"
NOTE = "note"
#: Messages that arrived faster than they were consumed.
LOST = "lost"
CLOSED = "closed"


def message_type(rpc: str, kind: str) -> Any | None:
    """The class of a method's requests or responses; None if the protocol has no such method."""
    method = services.PLUGIN.methods.get(rpc) or services.RUNTIME.methods.get(rpc)
    if method is None:
        return None
    return method.response if kind == RESPONSE else method.request


@dataclass
class Entry:
    """One message, or another event of a connection."""

    kind: str
    #: The number of the connection, counted from 1.
    connection: int
    #: Seconds since the start of the recording.
    time: float = 0.0
    #: ``"runtime"`` or ``"plugin"``; empty if the entry is no message.
    sender: str = ""
    #: The method, for example ``"CreateContainer"``.
    rpc: str = ""
    #: The number of the ttRPC stream. Each of the two services of a connection has its own numbers.
    stream: int = 0
    #: The size of the message on the wire, without its ttRPC header, in bytes.
    size: int = 0
    #: The message, or the part of it that could be decoded.
    message: Any = None
    #: The encoded message, if ``message`` is incomplete.
    payload: bytes | None = None
    #: The gRPC status code and the text of an error response.
    code: int = 0
    error: str = ""
    #: For a response: the seconds since its request.
    duration: float | None = None
    #: For a request: the timeout that its sender has set, in seconds.
    timeout: float | None = None
    note: str = ""

    @property
    def event(self) -> str:
        """The method of the event. For a StateChange, the method by which newer releases send the same event."""
        if self.rpc == "StateChange" and self.message is not None and self.message.event:
            return api.pretty_name(self.message.event)
        return self.rpc

    @property
    def subject(self) -> str:
        """The pod or container of a request, for example ``default/web:nginx``; empty for other requests."""
        message = self.message
        names = () if message is None else message.DESCRIPTOR.fields_by_name
        if "pod" not in names or not message.HasField("pod"):
            return ""
        pod = message.pod
        text = f"{pod.namespace}/{pod.name}" if pod.name else str(pod.id[:13])
        if "container" in names and message.HasField("container"):
            text += f":{message.container.name or message.container.id[:13]}"
        return text
