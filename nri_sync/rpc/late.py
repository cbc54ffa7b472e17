"""Answering for handlers that take too long."""

from __future__ import annotations

from typing import Protocol

from nri_sync.rpc.context import RequestContext
from nri_sync.rpc.status import Status
from nri_sync.wire.ttrpc import Data

__all__ = ["LateCall", "LatePolicy"]


class LateCall(Protocol):
    """A call that a policy answers for."""

    #: The full method name, or empty where the request cannot be parsed.
    method: str
    #: For the policy: a few words about the request, for the log.
    about: str
    #: None while the call waits for a thread.
    context: RequestContext | None

    def payload(self) -> Data:
        """The request as it came, of a call that waits for a thread; afterwards it is empty.

        Raises an exception for a request that cannot be parsed.
        """


class LatePolicy:
    """When, and how, a call is answered for whose handler takes too long."""

    def limit(self) -> float | None:
        """Seconds after which a call that arrives now is answered for; ``None``: never."""
        return None

    def answer(self, call: LateCall) -> bytes | Status | None:
        """The answer in place of the handler's: a serialized message, or an error; ``None``: no answer."""
        raise NotImplementedError

    def clock_ran(self, delay: float) -> None:
        """The thread that gives late answers ran ``delay`` seconds after its time. Must not block."""

    def ahead(self) -> float:
        """Seconds by which late answers are given before :meth:`limit`, as that thread is slow to run."""
        return 0.0

    def won(self, call: LateCall) -> None:
        """The call gets the late answer, which is about to be sent. Must not block or raise."""

    def answered(self, call: LateCall, outcome: bytes | Status) -> None:
        """The late answer has been sent, or waits for room. May block: it delays further late answers only."""

    def finished(self, call: LateCall, error: Status | None) -> None:
        """The handler has ended after the late answer. ``error`` is its failure, if it failed."""
