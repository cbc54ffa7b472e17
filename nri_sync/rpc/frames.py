"""Finds the frames of a handler in a traceback, and leaves out those of its callers."""

from __future__ import annotations

import os
from types import CodeType, TracebackType

__all__ = ["calls_handlers", "own_frames"]

_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep

# Functions that call a handler, or an interceptor around one.
_callers: set[CodeType] = set()


def calls_handlers(code: CodeType) -> None:
    """Note the code of a function that calls handlers: frames up to its own are not the handler's."""
    _callers.add(code)


def own_frames(trace: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that begins with the handler's own frame.

    A traceback without a frame of a handler is returned as a whole: the fault is in the caller.
    """
    found = found_outside = None
    entry = trace
    while entry is not None:
        if entry.tb_frame.f_code in _callers:
            found, found_outside = entry.tb_next, None
        elif found_outside is None and not entry.tb_frame.f_code.co_filename.startswith(_PACKAGE):
            found_outside = entry
        entry = entry.tb_next
    # Handlers of the toolkit that call a plugin's are left out as well.
    return found_outside or found or trace
