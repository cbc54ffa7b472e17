"""Gives memory back to the system after the state of a large node.

The C library keeps the pages of freed messages for later allocations: after 50,000 containers a few hundred MB. A
plugin needs that much once a session.
"""

from __future__ import annotations

import time

from nri_sync.deadline import Deadline
from nri_sync.errors import NoThread
from nri_sync.logger import get_logger
from nri_sync.threads import Latch, spawn

__all__ = ["MOMENT", "give_back", "give_back_after"]

logger = get_logger("nri_sync.stub")

# How long the answer may take to be sent, in seconds; past that, the memory is given back all the same.
_LONGEST = 30.0
# The thread that has sent the answer still refers to the last part of the state, for less than this (seconds).
MOMENT = 0.05


def give_back() -> bool:
    """Give all free pages of the C library back to the system; False where it cannot (musl).

    Takes some 10 ms for each 100 MB. Other threads run meanwhile, if they need no memory of the C library.
    """
    try:
        import ctypes  # only here: 0.4 MB that a plugin on a small node does not need

        trim = ctypes.CDLL(None).malloc_trim
    except (ImportError, OSError, AttributeError):
        return False
    trim.argtypes = (ctypes.c_size_t,)
    trim(0)
    return True


def give_back_after(answered: Latch, name: str) -> None:
    """:func:`give_back` on a thread called ``name``, when ``answered`` is set. Does not block."""
    try:
        spawn(name, _give_back_after, answered)
    except NoThread as error:
        logger.debug("%s: the memory of the state is kept: %s", name, error)


def _give_back_after(answered: Latch) -> None:
    answered.wait(Deadline(_LONGEST))
    time.sleep(MOMENT)
    give_back()
