"""The parts of a stub that never change."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Callable, NamedTuple

from nri_sync.api import EventMask, PluginId, nri_pb2
from nri_sync.plugin.counters import Tally
from nri_sync.plugin.facts import Facts
from nri_sync.plugin.interceptors import Interceptors
from nri_sync.plugin.source import Source

__all__ = ["PluginSpec"]


class PluginSpec(NamedTuple):
    """The plugin of a stub and the options of the stub, checked. Frozen: all of its connections share it."""

    #: The full name, ``NN-name``.
    name: str
    identity: PluginId
    #: By the name of the RPC in snake_case; at least one.
    handlers: Mapping[str, Callable[..., Any]]
    #: The events that have a handler.
    handled: EventMask
    required_events: EventMask
    failure_policy: nri_pb2.FailurePolicy | None
    late_reply: bool
    interceptors: Interceptors
    #: Makes the connections.
    source: Source
    #: The facts before the first session, and for each that a runtime leaves out.
    defaults: Facts
    tally: Tally
    logger: logging.LoggerAdapter[Any]
    #: The payload of the RegisterPlugin request.
    registration: bytes
