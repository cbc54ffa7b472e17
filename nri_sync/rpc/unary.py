"""Unary methods of the peer: messages in, messages out."""

from __future__ import annotations

from typing import Any, Callable

from nri_sync.codes import StatusCode
from nri_sync.deadline import Deadline
from nri_sync.rpc.client import ClientEnd
from nri_sync.rpc.client_call import ClientCall
from nri_sync.rpc.envelope import Metadata
from nri_sync.rpc.status import Status

__all__ = ["UnaryCall", "UnaryMethod"]


class UnaryCall:
    """A call in flight."""

    def __init__(self, end: ClientEnd, call: ClientCall, decode: Callable[[bytes], Any]) -> None:
        self._end = end
        self._call = call
        self._decode = decode

    def result(self) -> Any:
        """The response. Blocks until the call is done, at most until its deadline.

        Raises:
            CallFailed: the call failed.
        """
        payload = self._end.result(self._call)
        try:
            return self._decode(payload)
        except Exception as error:
            status = Status(StatusCode.INTERNAL, f"cannot deserialize the response: {error}")
            raise status.error(self._call.method) from error

    def cancel(self) -> bool:
        """End the call here, with CANCELLED; False when it is done. The peer does not learn of it."""
        return self._end.cancel(self._call)


class UnaryMethod:
    """A unary method of the peer. Any thread may call it."""

    def __init__(
        self,
        end: ClientEnd,
        path: str,
        encode: Callable[[Any], bytes],
        decode: Callable[[bytes], Any],
    ) -> None:
        """``path`` is ``/package.Service/Method``."""
        self._end = end
        self._path = path
        self._encode = encode
        self._decode = decode

    def begin(self, request: Any, timeout: float | None, metadata: Metadata = None) -> UnaryCall:
        """Send the request. Blocks only while the peer does not read. ``timeout`` is in seconds."""
        payload = self._encode(request)
        call = self._end.start(self._path, payload, deadline=Deadline(timeout), metadata=metadata)
        return UnaryCall(self._end, call, self._decode)

    def __call__(self, request: Any, timeout: float | None, metadata: Metadata = None) -> Any:
        """Make the call, and return the response. Blocks and raises as :meth:`UnaryCall.result`."""
        return self.begin(request, timeout, metadata).result()
