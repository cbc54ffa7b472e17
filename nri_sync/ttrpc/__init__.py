"""ttRPC for Python, over the interfaces of grpcio.

Generated ``*_pb2_grpc`` stubs and servicers, ``grpc.intercept_channel`` and server interceptors work
unchanged: :func:`connect` returns a ``grpc.Channel``, and :class:`Server` is a ``grpc.Server``.
"""

from __future__ import annotations

from nri_sync.ttrpc.call import CallError
from nri_sync.ttrpc.channel import Channel
from nri_sync.ttrpc.connection import connect
from nri_sync.ttrpc.context import ServicerContext
from nri_sync.ttrpc.server import Server

__all__ = ["CallError", "Channel", "Server", "ServicerContext", "connect"]
