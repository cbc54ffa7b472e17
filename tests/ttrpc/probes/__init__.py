"""Observable behaviour of grpcio and of nri_sync.ttrpc: one function for each row of docs/ttrpc.md."""

from __future__ import annotations

from tests.ttrpc.probes import call, channel, context, interceptors, server
from tests.ttrpc.probes.pair import PROBES

__all__ = ["PROBES", "SECTIONS"]

#: The modules that have the probes.
SECTIONS = (channel, call, context, server, interceptors)
