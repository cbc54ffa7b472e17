"""A lock with two sides: operations that change pods and containers, and synchronizations of plugins.

If a plugin received the state during the creation of a container, it would miss the container or receive it
twice. So the lock has the sides BLOCK and SYNC. Each side admits any number of holders, but never both sides at
once. When the last holder of one side leaves, all waiters of the other side enter together: neither side can
starve the other.
"""

from __future__ import annotations

import _thread
import threading
from functools import partial

from nri_sync.deadline import Deadline
from nri_sync.errors import RuntimeStopped, WouldDeadlock
from nri_sync.threads import call_off_main

__all__ = ["SyncBlock", "SyncLock"]

_BLOCK, _SYNC = 0, 1
_TOO_LONG = ("plugins were being synchronized for too long", "a block was held for too long")


class SyncLock:
    """Admits one side at a time. Thread-safe. ``with lock:`` enters the side SYNC."""

    def __init__(self) -> None:
        # Guards the attributes below. No call blocks while it is held, except its own wait().
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside = [0, 0]
        self._waiting = [0, 0]
        # Per side, how many times its waiters have been admitted.
        self._admissions = [0, 0]
        # Per thread, how many blocks it holds. A thread with a block gets further blocks without waiting.
        self._holders: dict[int, int] = {}
        # The threads that hold SYNC. A block on such a thread would wait for itself.
        self._synchronizing: set[int] = set()
        self._closed = False

    @property
    def inside(self) -> tuple[int, int]:
        """The numbers of blocks and of synchronizations that hold the lock."""
        return self._inside[_BLOCK], self._inside[_SYNC]

    @property
    def waiting(self) -> tuple[int, int]:
        """The numbers of threads that wait for a block and for a synchronization."""
        return self._waiting[_BLOCK], self._waiting[_SYNC]

    def block(self, timeout: float | None = None) -> SyncBlock:
        """Wait until no synchronization runs, and let none begin before ``unblock()``.

        Raises:
            TimeoutError: synchronizations ran for ``timeout`` seconds.
            RuntimeStopped: the lock was closed.
            WouldDeadlock: this thread is synchronizing a plugin.
        """
        block = SyncBlock(self, _thread.get_ident())
        take = partial(self.take, block, Deadline(timeout))
        call_off_main("nri-block", take, undo=block.unblock)
        return block

    def take(self, block: SyncBlock, deadline: Deadline) -> None:
        """Enter the side BLOCK for ``block``. Raises as :meth:`block`."""
        with self._changed:
            thread = block.thread
            if thread in self._synchronizing:
                raise WouldDeadlock(
                    "this thread is synchronizing a plugin, which a block waits for"
                )
            self._enter_locked(_BLOCK, deadline, thread in self._holders)
            self._holders[thread] = self._holders.get(thread, 0) + 1
            block.held = True

    def lift(self, block: SyncBlock) -> None:
        """Leave the side BLOCK for ``block``; idempotent."""
        with self._changed:
            if not block.held:
                return
            block.held = False
            self._holders[block.thread] -= 1
            if not self._holders[block.thread]:
                del self._holders[block.thread]
            self._leave_locked(_BLOCK)

    def enter(self, timeout: float | None = None) -> None:
        """Wait until no block is held, then enter the side SYNC.

        Raises:
            TimeoutError: a block was held for ``timeout`` seconds.
            RuntimeStopped: the lock was closed.
        """
        with self._changed:
            self._enter_locked(_SYNC, Deadline(timeout), False)
            self._synchronizing.add(_thread.get_ident())

    def __enter__(self) -> None:
        self.enter()

    def __exit__(self, *_exc_info: object) -> None:
        with self._changed:
            self._synchronizing.discard(_thread.get_ident())
            self._leave_locked(_SYNC)

    def close(self) -> None:
        """Admit no more holders; the waiters raise RuntimeStopped. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _enter_locked(self, side: int, deadline: Deadline, nested: bool) -> None:
        assert self._lock.locked()
        other = 1 - side
        if self._closed:
            raise RuntimeStopped("the runtime is stopped")
        if nested or not (self._inside[other] or self._waiting[other]):
            self._inside[side] += 1
            return
        self._waiting[side] += 1
        admission = self._admissions[side]
        try:
            while admission == self._admissions[side]:
                if self._closed:
                    raise RuntimeStopped("the runtime was stopped meanwhile")
                waited = self._changed.wait(deadline.remaining())
                if not waited and admission == self._admissions[side]:
                    raise TimeoutError(_TOO_LONG[side])
        except BaseException:
            if admission != self._admissions[side]:
                self._leave_locked(side)
            else:
                self._waiting[side] -= 1
                # The other side may have waited for this waiter only.
                if not self._waiting[side] and not self._inside[side]:
                    self._admit_locked(other)
            raise

    def _leave_locked(self, side: int) -> None:
        assert self._lock.locked()
        self._inside[side] -= 1
        if not self._inside[side]:
            self._admit_locked(1 - side)

    def _admit_locked(self, side: int) -> None:
        assert self._lock.locked()
        if self._waiting[side]:
            self._inside[side] += self._waiting[side]
            self._waiting[side] = 0
            self._admissions[side] += 1
            self._changed.notify_all()


class SyncBlock:
    """Holds off the synchronization of plugins until ``unblock()``, or to the end of a ``with`` statement."""

    def __init__(self, sync_lock: SyncLock, thread: int) -> None:
        self._sync_lock = sync_lock
        #: The identifier of the thread that requested the block.
        self.thread = thread
        #: Whether the block holds the lock. Only the lock changes this.
        self.held = False

    def unblock(self) -> None:
        """Let synchronizations begin again. May be called from any thread; idempotent."""
        call_off_main("nri-unblock", partial(self._sync_lock.lift, self))

    def __enter__(self) -> SyncBlock:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.unblock()
