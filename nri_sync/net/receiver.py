"""The interfaces of the code that uses a link: the receiver of its bytes, and the lane for plain requests."""

from __future__ import annotations

import enum
import math
from typing import Callable, Union

from nri_sync.errors import NRIError
from nri_sync.net.workers import Job

__all__ = ["HEADER", "Lane", "Part", "Receiver"]


class Receiver:
    """The user of a link. The link calls each method from one thread at a time."""

    def receive(self, data: memoryview, jobs: list[Job]) -> None:
        """Take bytes in, and append the jobs in them to ``jobs``. Runs no user code.

        May block where :meth:`may_block` is true: one second at most if other calls wait, ten if none does.

        ``data`` is valid during the call only. An NRIError that is raised here ends the link, after the jobs
        in the list were started.
        """
        raise NotImplementedError

    def may_block(self) -> bool:
        """Whether the next :meth:`receive` may block. Then no thread that waits for an answer calls it."""
        return False

    def tick(self, now: float) -> float:
        """Handle the deadlines that have passed, without blocking. Returns the next one, or ``math.inf``."""
        return math.inf

    def lost(self, cause: NRIError | None) -> None:
        """The link is over, its descriptors are closed. ``cause`` is ``None`` after ``close()``. Called once."""
        raise NotImplementedError

    def after_fork_in_child(self) -> None:
        """In a forked child, in place of :meth:`lost`: the connection is still the parent's.

        Make new locks, and end the waits of this process; call no code of the application.
        """


class Part(enum.Enum):
    """The result of a lane for the beginning of a frame."""

    HEADER = enum.auto()


# Before Python 3.12, each look-up of a member costs a call.
HEADER = Part.HEADER

#: ``lane(view, count)`` serves the first ``count`` bytes of ``view``, a whole request that needs nothing but its
#: handler. Called with the token. Returns None when the receiver has to take the bytes, which the lane has left
#: alone; HEADER when the lane has left them alone, and takes them with the rest of the frame; otherwise the result
#: of :meth:`Link.answer`.
Lane = Callable[[memoryview, int], Union[bool, Part, None]]
