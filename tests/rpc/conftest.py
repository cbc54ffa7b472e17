"""The fixtures of tests/ttrpc: most tests here go by its channel and its server."""

from __future__ import annotations

from tests.ttrpc.conftest import calls, channel, service

__all__ = ["calls", "channel", "service"]
