"""The RegisterPlugin request of one plugin."""

from __future__ import annotations

import itertools

from nri_sync import api
from nri_sync.api import PluginId, nri_pb2
from nri_sync.codes import StatusCode
from nri_sync.deadline import Deadline
from nri_sync.rpc.context import RequestContext
from nri_sync.runtime.older import OlderRelease
from nri_sync.threads import Latch

__all__ = ["Registration"]

# The name stands in log lines, errors and metrics. The limit is that of a file name.
_NAME_MAX = 255


class Registration:
    """Serves RegisterPlugin once, and lets threads wait for the end of that call. Thread-safe."""

    def __init__(self, launched: PluginId | None, older: OlderRelease | None) -> None:
        """``launched`` is the identity of a launched plugin: it overrides the identity in the request."""
        self._launched = launched is not None
        self._older = older
        #: Empty strings before the registration.
        self.identity = launched or PluginId("", "")
        #: The NRI release of the plugin, as in the request.
        self.nri_version = ""
        #: The reason why the request was refused; empty if it was accepted.
        self.refusal = ""
        # Counts the requests atomically, so that of simultaneous requests exactly one is the first.
        self._requests = itertools.count()
        # Set when the first request has come, or when the connection has ended.
        self._requested = Latch()
        # Set when the answer to the first request has been sent.
        self._answered: Latch | None = None

    def register(
        self, request: nri_pb2.RegisterPluginRequest, context: RequestContext
    ) -> nri_pb2.Empty:
        """The handler of the RPC."""
        if next(self._requests):
            self._requested.wait()  # the handler of the first request may still run
            name = f"{self.identity.idx}-{self.identity.name}"
            reason = (
                f"this connection's first request was refused: {self.refusal}"
                if self.refusal
                else f"plugin {name} is registered already"
            )
            context.abort(StatusCode.FAILED_PRECONDITION, reason)
        self._answered = context.when_answered()
        if not self._launched:
            self.refusal = _invalid(request)
        if not self.refusal:
            if not self._launched:
                self.identity = PluginId(request.plugin_idx, request.plugin_name)
            if self._older is not None:
                # A release without NRI_version clears it here. The field is not worth a report.
                self._older.strip_unknown(request)
            self.nri_version = request.NRI_version
        self._requested.set()
        if self.refusal:
            context.abort(StatusCode.UNKNOWN, self.refusal)
        return nri_pb2.Empty()

    def wait(self, deadline: Deadline) -> bool:
        """Block until the answer has been sent, :meth:`cancel`, or the deadline; returns whether it was sent."""
        self._requested.wait(deadline)
        answered = self._answered
        return answered is not None and answered.wait(deadline)

    def cancel(self) -> None:
        """Wake the threads that wait for a request, because the connection has ended."""
        self._requested.set()


def _invalid(request: nri_pb2.RegisterPluginRequest) -> str:
    """The reason why the name or the index of a request is invalid; empty if both are valid."""
    for part, check, value in (
        ("name", api.check_name, request.plugin_name),
        ("index", api.check_index, request.plugin_idx),
    ):
        try:
            check(value)
        except ValueError as error:
            return f"invalid plugin {part}: {error}"
    if len(request.plugin_name) > _NAME_MAX:
        return f"invalid plugin name: it has more than {_NAME_MAX} characters"
    return ""
