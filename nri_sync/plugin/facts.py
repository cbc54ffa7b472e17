"""The facts about the runtime that a stub has: from Configure, and before that by default."""

from __future__ import annotations

from typing import NamedTuple

from nri_sync import api
from nri_sync.api import EventMask, nri_pb2

__all__ = ["Facts"]


class Facts(NamedTuple):
    """Immutable, so that a reader sees the facts of one moment."""

    #: The events that the plugin is subscribed to.
    events: EventMask
    #: In seconds.
    registration_timeout: float
    request_timeout: float = api.DEFAULT_REQUEST_TIMEOUT
    runtime_name: str = ""
    runtime_version: str = ""
    #: As the runtime sends it, or inferred.
    runtime_nri_version: str = "unknown"
    #: The events that the plugin asks for and that the runtime does not have.
    missing_events: EventMask = EventMask(0)

    @property
    def answer_within(self) -> float:
        """When to answer for a handler that has not, in seconds from the arrival of the request."""
        timeout = self.request_timeout
        # The runtime's clock began a little earlier, and the answer takes a moment to get there.
        return timeout - min(max(0.1 * timeout, 0.05), 0.5 * timeout)

    def with_configure(self, request: nri_pb2.ConfigureRequest, defaults: Facts) -> Facts:
        """The facts with those of a Configure request. Runtimes before NRI v0.7 do not send their timeouts: 0
        stands for the default, not for no time.
        """
        registration, answer = request.registration_timeout, request.request_timeout
        version = api.runtime_nri_version(
            request.NRI_version, request.runtime_name, request.runtime_version
        )
        return self._replace(
            registration_timeout=registration / 1000
            if registration > 0
            else defaults.registration_timeout,
            request_timeout=answer / 1000 if answer > 0 else defaults.request_timeout,
            runtime_name=request.runtime_name,
            runtime_version=request.runtime_version,
            runtime_nri_version=version or "unknown",
        )
