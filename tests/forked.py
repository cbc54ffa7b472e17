"""Runs a part of a test in a forked child."""

from __future__ import annotations

import os
import signal
import time
import traceback
from typing import Callable

import pytest

__all__ = ["WARNS", "in_child"]

#: Python 3.12 and newer warn of a fork with threads, which these tests need.
WARNS = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

# A child that has not ended after this time hangs. Seconds.
_WITHIN = 20.0


def in_child(action: Callable[[], object], leave: Callable[[int], object] = os._exit) -> None:
    """Call ``action()`` in a forked child, and wait for the child's end; fails when the action does, or hangs.

    ``leave(0)`` ends the child.
    """
    pid = os.fork()
    if not pid:
        try:
            action()
            leave(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    ends = time.monotonic() + _WITHIN
    ended, status = os.waitpid(pid, os.WNOHANG)
    while not ended:
        if time.monotonic() > ends:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            pytest.fail("the forked child hangs")
        time.sleep(0.005)
        ended, status = os.waitpid(pid, os.WNOHANG)
    assert os.WIFEXITED(status)
    assert os.WEXITSTATUS(status) == 0
