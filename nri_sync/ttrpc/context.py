"""The context of a call, as grpcio has it."""

from __future__ import annotations

from typing import NamedTuple

import grpc

from nri_sync.rpc.context import RequestContext
from nri_sync.ttrpc.codes import grpc_code

__all__ = ["ServicerContext"]


class _State(NamedTuple):
    client: str
    code: grpc.StatusCode | None
    details: str | None


class ServicerContext(RequestContext, grpc.ServicerContext):  # type: ignore[misc]
    """A ``grpc.ServicerContext`` for a call over ttRPC. Any thread may call any method.

    It is a :class:`nri_sync.RequestContext` whose codes are ``grpc.StatusCode``.
    """

    def code(self) -> grpc.StatusCode | None:
        """The code that the handler has set, or ``None``."""
        return None if self.status_code is None else grpc_code(self.status_code)

    @property
    def _state(self) -> _State:
        # Private to grpcio's context, but interceptors look there: py-grpc-prometheus for one.
        client = "open" if self.is_active() else "cancelled"
        return _State(client, self.code(), self.details())


# A context of a plugin without interceptors of grpc is none of these.
grpc.ServicerContext.register(RequestContext)
