"""Threaded, synchronous NRI (Node Resource Interface) SDK for Python.

A plugin is any object with handlers (see :class:`Plugin`). A :class:`Stub` connects it to a runtime, any number of
times. :mod:`nri_sync.api` has the messages and helpers for them, :mod:`nri_sync.errors` all exceptions,
:mod:`nri_sync.ttrpc` ttRPC without NRI, and :mod:`nri_sync.runtime` the runtime side.

Names are imported on first use. So an application that uses only a part, such as :mod:`nri_sync.wire`, does not
load grpcio and protobuf.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nri_sync import api, errors, runtime, ttrpc
    from nri_sync.api import EventMask
    from nri_sync.api.plugin import Plugin
    from nri_sync.codes import StatusCode
    from nri_sync.plugin.counters import Counters
    from nri_sync.plugin.handover import Handover
    from nri_sync.plugin.interceptors import Interceptor
    from nri_sync.plugin.reconnect import Backoff, run_forever
    from nri_sync.plugin.state import State
    from nri_sync.plugin.stub import Stub, request_context
    from nri_sync.rpc.context import RequestContext

__all__ = [
    "Backoff",
    "Counters",
    "EventMask",
    "Handover",
    "Interceptor",
    "Plugin",
    "RequestContext",
    "State",
    "StatusCode",
    "Stub",
    "__version__",
    "api",
    "errors",
    "request_context",
    "run_forever",
    "runtime",
    "ttrpc",
]

__version__ = "0.1.0"

# The modules of the names above. A name without an entry is a submodule.
_HOMES = {
    "Backoff": "nri_sync.plugin.reconnect",
    "Counters": "nri_sync.plugin.counters",
    "EventMask": "nri_sync.api",
    "Handover": "nri_sync.plugin.handover",
    "Interceptor": "nri_sync.plugin.interceptors",
    "Plugin": "nri_sync.api.plugin",
    "RequestContext": "nri_sync.rpc.context",
    "State": "nri_sync.plugin.state",
    "StatusCode": "nri_sync.codes",
    "Stub": "nri_sync.plugin.stub",
    "request_context": "nri_sync.plugin.stub",
    "run_forever": "nri_sync.plugin.reconnect",
}

if not TYPE_CHECKING:

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name in _HOMES:
            value = getattr(importlib.import_module(_HOMES[name]), name)
        else:
            value = importlib.import_module(f"{__name__}.{name}")
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
