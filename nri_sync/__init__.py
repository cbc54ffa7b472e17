"""Threaded, synchronous NRI (Node Resource Interface) SDK for Python.

A plugin is any object with handlers (see :class:`Plugin`); a :class:`Stub` connects it to a runtime, as often as
the application wants. :mod:`nri_sync.api` has the messages and helpers on them, :mod:`nri_sync.errors` all
exceptions, :mod:`nri_sync.ttrpc` is ttRPC on its own.
"""

from __future__ import annotations

from nri_sync import api, errors, ttrpc
from nri_sync.api import EventMask
from nri_sync.api.plugin import Plugin
from nri_sync.plugin.counters import Counters
from nri_sync.plugin.reconnect import Backoff, run_forever
from nri_sync.plugin.state import State
from nri_sync.plugin.stub import Stub, request_context

__all__ = [
    "Backoff",
    "Counters",
    "EventMask",
    "Plugin",
    "State",
    "Stub",
    "__version__",
    "api",
    "errors",
    "request_context",
    "run_forever",
    "ttrpc",
]

__version__ = "0.1.0.dev0"
