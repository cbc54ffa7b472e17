"""The lifecycle of a stub, as one table.

::

            START            CONFIGURED
    IDLE ----------> STARTING ----------> STARTED
     ^                 |   |                |  |
     |  ENDED          |   | END        END |  | ENDED
     +-----------------+   v                v  |
     +------------------ STOPPING <---------+  |
     |  ENDED                                  |
     +-----------------------------------------+

This file has all transitions, and knows neither their meaning nor the threads that make them. A move that the
table does not list is a bug of the caller: it raises, and changes nothing.
"""

from __future__ import annotations

import enum

__all__ = ["TRANSITIONS", "Move", "State", "following"]


class State(enum.Enum):
    """The state of a stub."""

    #: No session, no threads, no sockets.
    IDLE = "idle"
    #: Connecting, registering, or waiting to be configured.
    STARTING = "starting"
    #: Configured: the runtime may send events.
    STARTED = "started"
    #: The session is being ended by this side.
    STOPPING = "stopping"


class Move(enum.Enum):
    """An event that changes the state of a stub."""

    START = "start"
    CONFIGURED = "configured"
    #: This side begins to end the session.
    END = "end"
    #: The session is over, its sockets are closed.
    ENDED = "ended"


TRANSITIONS = {
    (State.IDLE, Move.START): State.STARTING,
    (State.STARTING, Move.CONFIGURED): State.STARTED,
    (State.STARTING, Move.END): State.STOPPING,
    (State.STARTING, Move.ENDED): State.IDLE,
    (State.STARTED, Move.END): State.STOPPING,
    (State.STARTED, Move.ENDED): State.IDLE,
    (State.STOPPING, Move.ENDED): State.IDLE,
}


def following(state: State, move: Move) -> State:
    """The state after ``move``; RuntimeError when it is not allowed in ``state``."""
    try:
        return TRANSITIONS[state, move]
    except KeyError:
        raise RuntimeError(f"{move.value!r} is not possible while {state.value}") from None
