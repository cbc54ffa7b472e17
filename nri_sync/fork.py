"""What a forked child resets before it goes on: the one registry for all of nri_sync.

A child of ``fork()`` has the memory and the descriptors of its parent, and one thread, the one that forked. A lock
that another thread held stays locked in the child. A connection is still the parent's: the child may close its
descriptor; anything else that it does happens to the parent's connection. Each object with a lock, a thread or
a socket therefore registers a reset, which makes new locks, and closes descriptors without ``shutdown()`` and
without a change of an epoll set.
"""

from __future__ import annotations

import os
import signal
import types
import weakref
from typing import Any, Callable

from nri_sync.logger import get_logger

__all__ = ["in_child", "reset_if_forked"]

logger = get_logger("nri_sync.fork")

# In the order of registration: functions as they are, a bound method as its function by a weak reference to its
# object. A dict for its single-step operations: another thread may fork between any two.
_resets: dict[Any, Callable[..., object]] = {}

# The process that this module's objects belong to.
_pid = os.getpid()

# Whether a signal handler has caused the resets of this child, before it was their time.
_is_reset_early = False


def in_child(reset: Callable[[], object]) -> None:
    """Have ``reset()`` called in each child that is forked from now on, before ``fork()`` returns there.

    The resets run in the order of their registration, on the child's only thread. They must neither block nor
    start threads. An exception is logged, and the next reset runs. A bound method is held weakly and goes with its
    object; an object has one reset. May be called from any thread.
    """
    if isinstance(reset, types.MethodType):
        # One step in C, and bound here: Python code that runs when an object goes could be interrupted, and the
        # interrupt would be lost; and the object may go when the interpreter has cleared this module already.
        _resets[weakref.ref(reset.__self__, _resets.__delitem__)] = reset.__func__
    else:
        _resets[reset] = reset


def reset_if_forked() -> None:
    """In a forked child whose resets have not run: run them. Elsewhere this does nothing.

    A signal handler may run as soon as there is a child, and hence before the resets. When the handler calls
    nri_sync, this function comes first.
    """
    global _is_reset_early
    if os.getpid() != _pid:
        _is_reset_early = True
        _reset_all()


def _after_fork_in_child() -> None:
    global _is_reset_early
    # The handler of a signal that has arrived runs in this call. Later signals wait.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        if not _is_reset_early:
            _reset_all()
        _is_reset_early = False
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _reset_all() -> None:
    global _pid
    # A list of the keys is made in one step. A list of the items is not: it makes tuples, which may start the
    # garbage collector, and the collector deletes the entries of objects that it frees.
    for key in list(_resets):
        _reset_one(key, _resets.get(key))
    _pid = os.getpid()


def _reset_one(key: Any, reset: Callable[..., object] | None) -> None:
    arguments: tuple[object, ...] = ()
    if isinstance(key, weakref.ref):
        arguments = (key(),)
    if reset is None or arguments == (None,):
        return
    try:
        reset(*arguments)
    except Exception:
        logger.exception("a forked child could not reset what it has of its parent")


os.register_at_fork(after_in_child=_after_fork_in_child)
