"""What is told of a connection between a runtime and a plugin: an entry for each message and event."""

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

# Who has sent a message.
RUNTIME = "runtime"
PLUGIN = "plugin"

# Kinds of entries.
OPENED = "opened"
REQUEST = "request"
RESPONSE = "response"
NOTE = "note"
#: Messages which came faster than they were taken.
LOST = "lost"
CLOSED = "closed"


def message_type(rpc: str, kind: str) -> Any | None:
    """The class of the requests or responses of a method; None for one that the protocol does not have."""
    method = services.PLUGIN.methods.get(rpc) or services.RUNTIME.methods.get(rpc)
    if method is None:
        return None
    return method.response if kind == RESPONSE else method.request


@dataclass
class Entry:
    """One message, or something else that happened on a connection."""

    kind: str
    #: Connections count from 1.
    connection: int
    #: Seconds since it all began.
    time: float = 0.0
    #: ``"runtime"`` or ``"plugin"``; empty where it is no message.
    sender: str = ""
    #: The method, ``"CreateContainer"``.
    rpc: str = ""
    #: Of ttRPC. The two services of a connection count their own.
    stream: int = 0
    #: Of the message on the wire, without its ttRPC header, in bytes.
    size: int = 0
    #: As far as it could be decoded.
    message: Any = None
    #: As it was sent, where ``message`` does not have all of it.
    payload: bytes | None = None
    #: A gRPC status code, and what the other side said: a response that is an error.
    code: int = 0
    error: str = ""
    #: Of a response: seconds since its request.
    duration: float | None = None
    #: Of a request: the seconds that its sender gives.
    timeout: float | None = None
    note: str = ""

    @property
    def event(self) -> str:
        """The method that tells of the same event in newer releases, where it came as a StateChange."""
        if self.rpc == "StateChange" and self.message is not None and self.message.event:
            return api.pretty_name(self.message.event)
        return self.rpc

    @property
    def subject(self) -> str:
        """The pod or container that a request is about, ``default/web:nginx``; empty where it is none."""
        message = self.message
        names = () if message is None else message.DESCRIPTOR.fields_by_name
        if "pod" not in names or not message.HasField("pod"):
            return ""
        pod = message.pod
        text = f"{pod.namespace}/{pod.name}" if pod.name else str(pod.id[:13])
        if "container" in names and message.HasField("container"):
            text += f":{message.container.name or message.container.id[:13]}"
        return text
