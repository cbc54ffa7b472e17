"""A process whose system can start no more threads."""

from __future__ import annotations

import _thread
import contextlib
import threading
from collections.abc import Iterator

__all__ = ["no_threads"]


def _refuse(*_: object, **__: object) -> int:
    raise RuntimeError("can't start new thread")


@contextlib.contextmanager
def no_threads() -> Iterator[None]:
    """During the block no thread can be started, by any function."""
    start_new_thread, start = _thread.start_new_thread, threading.Thread.start
    _thread.start_new_thread = _refuse
    threading.Thread.start = _refuse  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        _thread.start_new_thread = start_new_thread
        threading.Thread.start = start  # type: ignore[method-assign]
