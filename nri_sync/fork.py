"""The registry of the resets that run in a forked child, for all of nri_sync.

A child of ``fork()`` has the memory and the descriptors of its parent, and one thread, the one that forked. A lock
that another thread held stays locked in the child. A connection still belongs to the parent: the child may close
its descriptor, and every other operation affects the connection of the parent. So each object with a lock, a
thread or a socket registers a reset. The reset makes new locks, and closes descriptors without ``shutdown()`` and
without a change of an epoll set.
"""

from __future__ import annotations

import os
import signal
import types
import weakref
from typing import Any, Callable

from nri_sync.flood import records
from nri_sync.logger import get_logger

__all__ = ["in_child", "reset_if_forked", "resets"]

logger = get_logger("nri_sync.fork")

# The resets in the order of registration. The key of a function is the function, and the key of a bound method is
# a weak reference to its object. A dict, because its operations are atomic: another thread may fork between any
# two of them.
resets: dict[Any, Callable[..., object]] = {}

# The process that the objects of this module belong to.
_pid = os.getpid()

# Whether a signal handler has run the resets of this child early.
_is_reset_early = False


def in_child(reset: Callable[[], object]) -> None:
    """Register ``reset()``, which runs in each later child process, before ``fork()`` returns there.

    The resets run in the order of their registration, on the child's only thread. They must not block and must not
    start threads. If a reset raises, the exception is logged, and the next reset runs. The registry holds a bound
    method weakly, so the registration ends with the object. An object has at most one reset. May be called from
    any thread.
    """
    if isinstance(reset, types.MethodType):
        # The callback is a bound method in C. An interrupt in Python code that runs at the end of an object would
        # be lost. It is bound now, because the interpreter may have cleared this module at the end of the object.
        resets[weakref.ref(reset.__self__, resets.__delitem__)] = reset.__func__
    else:
        resets[reset] = reset


def reset_if_forked() -> None:
    """Run the resets in a forked child in which they have not run. Do nothing in other processes.

    In a child, a signal handler may run before the resets. If the handler calls nri_sync, this function runs
    first.
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
    for key in list(resets):
        _reset_one(key, resets.get(key))
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
        logger.exception("a reset in a forked child failed")


os.register_at_fork(after_in_child=_after_fork_in_child)
# Before all other resets, because those may log.
in_child(records.reset)
