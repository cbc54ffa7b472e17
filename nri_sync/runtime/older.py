"""Emulates an older NRI release: removes the events and fields that it does not define, in both directions."""

from __future__ import annotations

from typing import Any

from nri_sync import api
from nri_sync.api import EventMask
from nri_sync.api.compat import clear_unknown_fields
from nri_sync.api.services import PLUGIN
from nri_sync.api.version import Version

__all__ = ["OlderRelease"]


class OlderRelease:
    """The differences between an older NRI release and the present one. Immutable."""

    @classmethod
    def of(cls, nri_version: str) -> OlderRelease | None:
        """The differences of a release; ``None`` for the present or a newer one, and for an invalid version."""
        try:
            is_older = Version.parse(nri_version) < Version.parse(api.NRI_VERSION)
        except ValueError:
            return None
        return cls(nri_version) if is_older else None

    def __init__(self, nri_version: str) -> None:
        self.version = nri_version
        #: The events that a plugin may subscribe to.
        self.events: EventMask = api.valid_events(nri_version)
        #: Whether the release sends most events as a StateChange.
        self.by_state_change = not api.knows(nri_version, "Plugin.RunPodSandbox")

    def encode_request(self, rpc: str, payload: bytes) -> bytes:
        """The serialized request of a Plugin method, without the fields that this release does not know."""
        message = PLUGIN.methods[rpc].request.FromString(payload)
        clear_unknown_fields(message, self.version)
        return bytes(message.SerializeToString())

    def strip_unknown(self, message: Any) -> list[str]:
        """Clear the fields of a plugin's message that this release does not know; returns their paths."""
        return clear_unknown_fields(message, self.version)
