"""Requests on their way to plugins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nri_sync.api import nri_pb2
from nri_sync.api.handlers import Handler

__all__ = ["Request", "synchronize_requests"]

# What the envelope of a request may add to its payload: two names, a timeout, and lengths.
_ENVELOPE = 256
_PART_MAX = 4_194_304 - _ENVELOPE


class Request:
    """A request on its way to one plugin after the other. For use by one thread at a time."""

    def __init__(self, handler: Handler, message: Any) -> None:
        self.handler = handler
        #: To be changed in place, then :meth:`changed` called.
        self.message = message
        self._payload: bytes | None = None

    @property
    def payload(self) -> bytes:
        """The message, serialized: once for all plugins that get the same."""
        if self._payload is None:
            self._payload = self.message.SerializeToString()
        return self._payload

    def changed(self) -> None:
        self._payload = None


def synchronize_requests(
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
