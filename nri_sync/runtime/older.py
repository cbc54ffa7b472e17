"""A runtime of an older NRI release: what it does not know it neither sends, nor sees in what plugins say."""

from __future__ import annotations

from typing import Any

from nri_sync import api
from nri_sync.api import EventMask
from nri_sync.api.compat import clear_unknown_fields
from nri_sync.api.services import PLUGIN
from nri_sync.api.version import Version

__all__ = ["OlderRelease"]


class OlderRelease:
    """What sets an NRI release apart from the present one. Immutable."""

    @classmethod
    def of(cls, nri_version: str) -> OlderRelease | None:
        """``None`` for the present release, and for what is no version of an older one."""
        try:
            is_older = Version.parse(nri_version) < Version.parse(api.NRI_VERSION)
        except ValueError:
            return None
        return cls(nri_version) if is_older else None

    def __init__(self, nri_version: str) -> None:
        self.version = nri_version
        #: What a plugin may subscribe to.
        self.events: EventMask = api.valid_events(nri_version)
        #: Whether most events have no method of their own yet.
        self.by_state_change = not api.knows(nri_version, "Plugin.RunPodSandbox")

    def encode_request(self, rpc: str, payload: bytes) -> bytes:
        """The request of a method of the Plugin service, as this release sends it."""
        message = PLUGIN.methods[rpc].request.FromString(payload)
        clear_unknown_fields(message, self.version)
        return bytes(message.SerializeToString())

    def strip_unknown(self, message: Any) -> list[str]:
        """Clear what this release does not see in a message of a plugin; returns the paths of the fields."""
        return clear_unknown_fields(message, self.version)
