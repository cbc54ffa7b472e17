"""Interceptors of grpc around the calls of a plugin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Callable

import grpc

from nri_sync.rpc.client import ClientEnd
from nri_sync.rpc.client_call import CANCELLED
from nri_sync.rpc.envelope import Metadata
from nri_sync.rpc.status import status_of
from nri_sync.ttrpc.channel import Channel

__all__ = ["InterceptedCall", "InterceptedMethod"]


class InterceptedMethod:
    """A :class:`nri_sync.rpc.unary.UnaryMethod` with client interceptors of grpc around it."""

    def __init__(
        self,
        end: ClientEnd,
        path: str,
        encode: Callable[[Any], bytes],
        decode: Callable[[bytes], Any],
        interceptors: Sequence[Any],
    ) -> None:
        """The first of ``interceptors`` is the outermost."""
        channel = grpc.intercept_channel(Channel(end, end.link.close), *interceptors)
        self._path = path
        self._method: Any = channel.unary_unary(
            path, request_serializer=encode, response_deserializer=decode
        )

    def begin(
        self, request: Any, timeout: float | None, metadata: Metadata = None
    ) -> InterceptedCall:
        future = self._method.future(request, timeout=timeout, metadata=metadata or None)
        return InterceptedCall(self._path, future)

    def __call__(self, request: Any, timeout: float | None, metadata: Metadata = None) -> Any:
        with _failures(self._path):
            return self._method(request, timeout=timeout, metadata=metadata or None)


class InterceptedCall:
    """A call in flight: the outermost interceptor has returned it."""

    def __init__(self, path: str, future: Any) -> None:
        self._path = path
        self._future = future

    def result(self) -> Any:
        with _failures(self._path):
            return self._future.result()

    def cancel(self) -> bool:
        return bool(self._future.cancel())


@contextmanager
def _failures(path: str) -> Iterator[None]:
    """Raise the failure of a call as CallFailed."""
    try:
        yield
    except grpc.RpcError as error:
        status = status_of(error)
        assert status is not None
        raise status.error(path) from error.__cause__
    except grpc.FutureCancelledError:
        raise CANCELLED.error(path) from None
