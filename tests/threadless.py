"""A process without idle threads, or whose system can start no more threads."""

from __future__ import annotations

import _thread
import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from nri_sync import threads

__all__ = ["no_idle_threads", "no_threads"]


def _refuse(*_: object, **__: object) -> int:
    raise RuntimeError("can't start new thread")


@contextlib.contextmanager
def no_idle_threads() -> Iterator[None]:
    """During the block every target that is started gets a new thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "MOST_IDLE", 0)
        while threads.IDLE_NAME in {thread.name for thread in threading.enumerate()}:
            time.sleep(0.001)  # an idle thread ends after threads.IDLE_WAIT
        yield


@contextlib.contextmanager
def no_threads() -> Iterator[None]:
    """During the block no thread can be started, by any function, and no idle thread is there to take over."""
    with no_idle_threads(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", _refuse)
        patch.setattr(threading.Thread, "start", _refuse)
        yield
