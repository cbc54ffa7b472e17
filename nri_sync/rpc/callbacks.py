"""Runs the callbacks that an application has added to a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable

from nri_sync.errors import NoThread
from nri_sync.logger import get_logger
from nri_sync.threads import spawn

__all__ = ["Callback", "run_callbacks", "run_elsewhere"]

logger = get_logger("nri_sync.ttrpc")

Callback = Callable[[], object]


def run_callbacks(callbacks: Sequence[Callback]) -> None:
    """Call all of them, in order. An exception of one is logged, even SystemExit; the others run."""
    for callback in callbacks:
        try:
            callback()
        except BaseException:  # the answer to the call waits for them
            logger.exception("a callback of a finished call failed")


def run_elsewhere(name: str, callbacks: Sequence[Callback]) -> None:
    """Call them on a thread of their own, or here if the system has no more threads. Does not raise."""
    if callbacks:
        try:
            spawn(f"{name}-callbacks", run_callbacks, callbacks)
        except NoThread:
            run_callbacks(callbacks)
