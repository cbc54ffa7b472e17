"""Calls over ttRPC: both ends of a connection, the calls in flight, and their contexts. Without grpc.

:class:`.client.ClientEnd` makes calls. :class:`.server.ServerEnd` serves calls, each a
:class:`.server_call.ServerCall`, with the handlers that a :class:`.router.Router` finds.
:mod:`nri_sync.ttrpc` has the interfaces of grpcio on top of it.
"""

from __future__ import annotations

__all__ = ()
