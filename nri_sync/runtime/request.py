"""Requests to plugins, serialized once for all plugins that get the same message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain, repeat
from typing import Any, NamedTuple

from nri_sync.api import nri_pb2
from nri_sync.api.handlers import Handler
from nri_sync.wire.ttrpc import MESSAGE_MAX
from nri_sync.wire.varint import encode_varint

__all__ = ["Part", "Request", "synchronize_requests"]

# The largest size that the envelope of a request adds to its payload: two names, a timeout, and lengths.
_ENVELOPE = 256
_REQUEST_MAX = MESSAGE_MAX - _ENVELOPE
# The size of a part if the state exceeds one message. It is far below the maximum, because each part exists
# several times in memory, on both sides, for each plugin that is being synchronized.
_PART = 256 * 1024
# The largest size of a tag and a length within a request.
_FIELD_HEADER_MAX = 5
_PODS = nri_pb2.SynchronizeRequest.PODS_FIELD_NUMBER
_CONTAINERS = nri_pb2.SynchronizeRequest.CONTAINERS_FIELD_NUMBER
_MORE = nri_pb2.SynchronizeRequest(more=True).SerializeToString()


class Request:
    """A request that goes to one plugin after the other. Not thread-safe."""

    def __init__(self, handler: Handler, message: Any) -> None:
        self.handler = handler
        #: May be changed in place. Call :meth:`changed` after that.
        self.message = message
        self._payload: bytes | None = None

    @property
    def payload(self) -> bytes:
        """The serialized message. The result is kept until :meth:`changed`."""
        if self._payload is None:
            self._payload = self.message.SerializeToString()
        return self._payload

    def changed(self) -> None:
        """Forget the serialized message, because the message has changed."""
        self._payload = None


class Part(NamedTuple):
    """A serialized SynchronizeRequest, and its field ``more``: whether another part follows."""

    payload: bytes
    more: bool


def synchronize_requests(
    pods: Sequence[nri_pb2.PodSandbox], containers: Sequence[nri_pb2.Container]
) -> Iterator[Part]:
    """The state in one request if it fits, otherwise in small parts.

    Each part is made when the iterator reaches it.

    The parts are concatenated from serialized pods and containers. This takes a fraction of the time and memory of
    building SynchronizeRequest messages.
    """
    limit = _REQUEST_MAX if _fits(pods, containers) else _PART
    gathered: list[bytes] = []
    size = 0
    for number, message in chain(zip(repeat(_PODS), pods), zip(repeat(_CONTAINERS), containers)):
        data = message.SerializeToString()
        header = _header(number, len(data))
        length = len(header) + len(data)
        if gathered and size + length > limit:
            gathered.append(_MORE)
            yield Part(b"".join(gathered), True)
            gathered, size = [], 0
        gathered += (header, data)
        size += length
    yield Part(b"".join(gathered), False)


def _fits(pods: Sequence[nri_pb2.PodSandbox], containers: Sequence[nri_pb2.Container]) -> bool:
    size = 0
    for message in chain(pods, containers):
        size += message.ByteSize() + _FIELD_HEADER_MAX
        if size > _REQUEST_MAX:
            return False
    return True


@lru_cache(maxsize=1024)
def _header(number: int, length: int) -> bytes:
    """The tag and the length that precede a message in a field of a serialized message."""
    return encode_varint(number << 3 | 2) + encode_varint(length)
