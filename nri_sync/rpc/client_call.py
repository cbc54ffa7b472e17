"""One call of a client, from its request to its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable

from nri_sync.codes import StatusCode
from nri_sync.deadline import Deadline
from nri_sync.net.link import Job
from nri_sync.rpc.callbacks import Callback, run_callbacks, run_elsewhere
from nri_sync.rpc.inbox import Inbox
from nri_sync.rpc.status import Status
from nri_sync.threads import Latch

__all__ = ["CANCELLED", "Callbacks", "ClientCall"]

#: How a call ends that its caller has cancelled. Only that one is this very object.
CANCELLED = Status(StatusCode.CANCELLED, "cancelled by the caller")


class ClientCall:
    """One call in flight, and then its outcome.

    One of reply, deadline, cancellation and loss of the connection wins; the others find it finished. The end of a
    stream of responses does so when the messages before it have been taken: until then the call can be cancelled.
    """

    __slots__ = (
        "callbacks",
        "cause",
        "deadline",
        "done",
        "inbox",
        "method",
        "on_done",
        "outcome",
        "owner",
        "payload",
        "status",
        "stream_id",
        "timed",
    )

    def __init__(
        self,
        method: str,
        deadline: Deadline,
        inbox: Inbox | None,
        on_done: Callable[[ClientCall], object] | None,
    ) -> None:
        self.method = method
        #: Called once it is done, by whichever thread found out: must not block.
        self.on_done = on_done
        self.deadline = deadline
        #: Set when ``status`` and ``payload`` are final.
        self.done = Latch()
        self.stream_id = 0
        #: Where the messages of a stream of responses arrive.
        self.inbox = inbox
        #: How it ended; OK together with the payload of a unary response.
        self.status: Status | None = None
        self.payload: bytes | None = None
        #: The peer's last word on a stream of responses: status and payload.
        self.outcome: tuple[Status, bytes | None] | None = None
        #: Why this side gave up on the call; ``None`` where the peer has answered, or the caller has cancelled.
        self.cause: Exception | None = None
        #: Leads to the call object of the application, and drops the call when that is gone. Until it is done.
        self.owner: object = None
        #: Whether the timer ends it at its deadline, because no thread waits for it.
        self.timed = False
        #: To be called when it is done; ``None`` once they were.
        self.callbacks: list[Callback] | None = []

    def too_late(self) -> Status:
        """The status of a call whose deadline has passed."""
        return Status(StatusCode.DEADLINE_EXCEEDED, f"{self.method}: no answer before the deadline")

    def not_taken(self) -> Status:
        """The status of a stream whose messages leave no room for others."""
        held = 0 if self.inbox is None else self.inbox.held
        text = f"the responses were not taken: stream {self.stream_id} held up the connection with {held} bytes"
        return Status(StatusCode.RESOURCE_EXHAUSTED, f"{self.method}: {text}")

    def no_stream(self) -> Status:
        """The status of a call with one response whose server sends a stream."""
        text = "the server answered with a stream where one response was expected"
        return Status(StatusCode.INTERNAL, f"{self.method}: {text}")


class Callbacks(Job):
    """Runs the callbacks of a call that is done."""

    def __init__(self, name: str, callbacks: Sequence[Callback]) -> None:
        self._name = name
        self._callbacks = callbacks

    def run(self) -> Sequence[bytes]:
        run_callbacks(self._callbacks)
        return ()

    def refuse(self) -> Sequence[bytes]:
        # The callbacks run all the same: the application waits for the end of the call by them.
        run_elsewhere(self._name, self._callbacks)
        return ()
