"""The two sides of the lock: operations of the runtime, or synchronizations of plugins, and never both."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest

from nri_sync.deadline import Deadline
from nri_sync.errors import RuntimeStopped, WouldDeadlock
from nri_sync.runtime.sync_lock import SyncBlock, SyncLock
from tests.plugin.harness import eventually
from tests.runtime.rig import LONG, interrupted_at, on_thread

__all__: list[str] = []


def _waiting(sync_lock: SyncLock, side: int, count: int) -> None:
    """Wait until ``count`` threads wait on a side. Polls, because no event reports it."""
    eventually(lambda: sync_lock.waiting[side] == count)


def _enter(sync_lock: SyncLock, inside: threading.Event, leave: threading.Event) -> Any:
    def synchronize() -> None:
        with sync_lock:
            inside.set()
            assert leave.wait(LONG)

    return on_thread(synchronize)


def test_many_blocks_at_once() -> None:
    sync_lock = SyncLock()
    blocks = [on_thread(sync_lock.block)() for _ in range(3)]
    for block in blocks:
        block.unblock()
    with sync_lock:
        pass


def test_many_synchronizations_at_once() -> None:
    sync_lock = SyncLock()
    barrier = threading.Barrier(3)

    def synchronize() -> None:
        with sync_lock:
            barrier.wait(LONG)

    for result in [on_thread(synchronize) for _ in range(3)]:
        result()


def test_a_block_holds_off_synchronizations_until_it_is_lifted() -> None:
    sync_lock = SyncLock()
    inside, leave = threading.Event(), threading.Event()
    leave.set()
    with sync_lock.block():
        result = _enter(sync_lock, inside, leave)
        _waiting(sync_lock, 1, 1)
        assert not inside.is_set()
    result()


def test_a_synchronization_holds_off_blocks() -> None:
    sync_lock = SyncLock()
    inside, leave = threading.Event(), threading.Event()
    result = _enter(sync_lock, inside, leave)
    assert inside.wait(LONG)
    with pytest.raises(TimeoutError, match="synchronized for too long"):
        sync_lock.block(0.01)
    leave.set()
    result()
    sync_lock.block().unblock()


def test_a_synchronization_that_waits_goes_first() -> None:
    sync_lock = SyncLock()
    inside, leave = threading.Event(), threading.Event()
    block = sync_lock.block()
    result = _enter(sync_lock, inside, leave)
    _waiting(sync_lock, 1, 1)
    late = on_thread(sync_lock.block)
    _waiting(sync_lock, 0, 1)
    block.unblock()
    assert inside.wait(LONG)
    leave.set()
    result()
    late().unblock()


def test_blocks_that_wait_go_before_further_synchronizations() -> None:
    sync_lock = SyncLock()
    inside, leave = threading.Event(), threading.Event()
    first = _enter(sync_lock, inside, leave)
    assert inside.wait(LONG)
    block = on_thread(sync_lock.block)
    _waiting(sync_lock, 0, 1)
    later_inside = threading.Event()
    second = _enter(sync_lock, later_inside, leave)
    _waiting(sync_lock, 1, 1)
    leave.set()
    first()
    held = block()
    assert not later_inside.is_set()
    held.unblock()
    second()


def test_a_nested_block_does_not_wait_for_waiters() -> None:
    sync_lock = SyncLock()
    inside, leave = threading.Event(), threading.Event()
    leave.set()
    with sync_lock.block():
        result = _enter(sync_lock, inside, leave)
        _waiting(sync_lock, 1, 1)
        with sync_lock.block(LONG):
            assert not inside.is_set()
        assert not inside.is_set()
    result()


def test_a_synchronizing_thread_cannot_block() -> None:
    sync_lock = SyncLock()
    with sync_lock, pytest.raises(WouldDeadlock):
        sync_lock.block()
    sync_lock.block().unblock()


def test_lifting_a_block_is_idempotent_and_from_any_thread() -> None:
    sync_lock = SyncLock()
    first, second = sync_lock.block(), sync_lock.block()
    on_thread(first.unblock)()
    first.unblock()
    with pytest.raises(TimeoutError, match="a block was held for too long"):
        sync_lock.enter(0.01)
    second.unblock()
    with sync_lock:
        pass


def test_a_waiter_that_gives_up_delays_no_other() -> None:
    sync_lock = SyncLock()
    block = sync_lock.block()
    with pytest.raises(TimeoutError, match="a block was held for too long"):
        sync_lock.enter(0.01)
    on_thread(sync_lock.block)().unblock()
    block.unblock()


class _Ending(Deadline):
    """A deadline that passes when the test says so, and not before."""

    __slots__ = ("passed",)

    def __init__(self) -> None:
        super().__init__(LONG)
        self.passed = False

    def remaining(self) -> float:
        return 0.0 if self.passed else LONG


def test_waiters_enter_when_the_block_ahead_of_them_times_out() -> None:
    sync_lock = SyncLock()
    inside, leave = threading.Event(), threading.Event()
    result = _enter(sync_lock, inside, leave)
    assert inside.wait(LONG)
    deadline = _Ending()
    block = on_thread(lambda: sync_lock.take(SyncBlock(sync_lock, threading.get_ident()), deadline))
    _waiting(sync_lock, 0, 1)
    later_inside = threading.Event()
    later = _enter(sync_lock, later_inside, leave)
    _waiting(sync_lock, 1, 1)
    assert not later_inside.is_set()
    with sync_lock._changed:
        deadline.passed = True
        sync_lock._changed.notify_all()
    with pytest.raises(TimeoutError):
        block()
    assert later_inside.wait(LONG)
    leave.set()
    result()
    later()


def test_closing_ends_all_waiting() -> None:
    sync_lock = SyncLock()
    block = sync_lock.block()
    inside = threading.Event()
    result = _enter(sync_lock, inside, inside)
    _waiting(sync_lock, 1, 1)
    sync_lock.close()
    with pytest.raises(RuntimeStopped):
        result()
    with pytest.raises(RuntimeStopped):
        sync_lock.block()
    block.unblock()


def test_a_block_that_an_interrupt_has_kept_back_is_lifted() -> None:
    number = left = 0
    sync_lock = SyncLock()
    tasks = len(os.listdir("/proc/self/task"))
    while interrupted_at(number, sync_lock.block):
        give_up = time.monotonic() + LONG
        while len(os.listdir("/proc/self/task")) > tasks:
            assert time.monotonic() < give_up
            time.sleep(0.0005)
        left += sync_lock.inside != (0, 0)
        number += 1
        sync_lock = SyncLock()
    assert sync_lock.inside == (1, 0)
    assert number > 100
    # The last bytecode returns: an interrupt there is the same as one in the caller.
    assert left <= 9
