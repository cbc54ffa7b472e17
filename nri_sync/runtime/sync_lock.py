"""Who may change what there is: the runtime's own operations, or plugins that are being synchronized.

A plugin that is told what exists while a container is being created would miss it, or be told twice. So there
are two sides, BLOCK and SYNC, each of which may have any number inside, but never both at once. When the last
of one side leaves, all that wait on the other are let in together: neither side can starve the other.
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


class SyncLock:
    """Lets in one side at a time. Thread-safe."""

    def __init__(self) -> None:
        # Guards what follows; never held while anything but its own wait() blocks.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside = [0, 0]
        self._waiting = [0, 0]
        # How often the waiting ones of a side were let in.
        self._turns = [0, 0]
        # The blocks that each thread holds: one more of them never waits.
        self._holders: dict[int, int] = {}
        # The threads that are inside to synchronize: they would wait for themselves.
        self._synchronizing: set[int] = set()
        self._closed = False

    def block(self, timeout: float | None = None) -> SyncBlock:
        """Wait for the synchronizations that go on, and hold off further ones.

        Raises:
            TimeoutError: they went on for ``timeout`` seconds.
            RuntimeStopped: the lock was closed.
            WouldDeadlock: this thread is synchronizing a plugin.
        """
        block = SyncBlock(self, _thread.get_ident())
        take = partial(self.take, block, Deadline(timeout))
        call_off_main("nri-block", take, undo=block.unblock)
        return block

    def take(self, block: SyncBlock, deadline: Deadline) -> None:
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
        with self._changed:
            if not block.held:
                return
            block.held = False
            self._holders[block.thread] -= 1
            if not self._holders[block.thread]:
                del self._holders[block.thread]
            self._leave_locked(_BLOCK)

    def __enter__(self) -> None:
        """Wait for all blocks, to synchronize a plugin.

        Raises:
            RuntimeStopped: the lock was closed.
        """
        with self._changed:
            self._enter_locked(_SYNC, Deadline(None), False)
            self._synchronizing.add(_thread.get_ident())

    def __exit__(self, *_exc_info: object) -> None:
        with self._changed:
            self._synchronizing.discard(_thread.get_ident())
            self._leave_locked(_SYNC)

    def close(self) -> None:
        """Let nobody in any more; idempotent."""
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
        turn = self._turns[side]
        try:
            while turn == self._turns[side]:
                if self._closed:
                    raise RuntimeStopped("the runtime was stopped meanwhile")
                if not self._changed.wait(deadline.remaining()) and turn == self._turns[side]:
                    raise TimeoutError("plugins were being synchronized for too long")
        except BaseException:
            if turn != self._turns[side]:
                self._leave_locked(side)
            else:
                self._waiting[side] -= 1
                # Perhaps the others have waited for this one only.
                if not self._waiting[side] and not self._inside[side]:
                    self._let_in_locked(other)
            raise

    def _leave_locked(self, side: int) -> None:
        assert self._lock.locked()
        self._inside[side] -= 1
        if not self._inside[side]:
            self._let_in_locked(1 - side)

    def _let_in_locked(self, side: int) -> None:
        assert self._lock.locked()
        if self._waiting[side]:
            self._inside[side] += self._waiting[side]
            self._waiting[side] = 0
            self._turns[side] += 1
            self._changed.notify_all()


class SyncBlock:
    """Holds off the synchronization of plugins until it is lifted; a context manager that does so at its end."""

    def __init__(self, sync_lock: SyncLock, thread: int) -> None:
        self._sync_lock = sync_lock
        #: The one that asked for it.
        self.thread = thread
        #: The lock's to change.
        self.held = False

    def unblock(self) -> None:
        """Lift it. From any thread; idempotent."""
        call_off_main("nri-unblock", partial(self._sync_lock.lift, self))

    def __enter__(self) -> SyncBlock:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.unblock()
