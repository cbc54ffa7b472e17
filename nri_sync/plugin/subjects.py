"""The subject of a request, in words."""

from __future__ import annotations

from typing import Any

from nri_sync import api

__all__ = ["describe"]

# As many characters as the usual tools show of an id.
_ID = 12


def describe(rpc: str, request: Any) -> str:
    """The event and its subject, such as ``CreateContainer of default/web:nginx``.

    The event of a StateChange is named as newer runtimes call it. Without a pod in the request it is all there is.
    """
    if rpc == "StateChange" and request is not None and request.event in _EVENTS:
        rpc = api.pretty_name(request.event)
    fields = {} if request is None else dict.fromkeys(request.DESCRIPTOR.fields_by_name)
    if "pod" not in fields or not request.HasField("pod"):
        return rpc
    pod = request.pod
    text = f"{pod.namespace}/{pod.name}" if pod.name else pod.id[:_ID]
    if "container" in fields and request.HasField("container"):
        text += f":{request.container.name or request.container.id[:_ID]}"
    return f"{rpc} of {text}"


_EVENTS = frozenset(api.EventMask.ALL.numbers)
