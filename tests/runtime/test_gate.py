"""Who is let in: the runtime's operations, or plugins that are being synchronized; never both."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest

from nri_sync.deadline import Deadline
from nri_sync.errors import RuntimeStopped, WouldDeadlock
from nri_sync.runtime.gate import Gate
from tests.runtime.rig import LONG, interrupted_at, on_thread

__all__: list[str] = []


def _waiting(gate: Gate, side: int, count: int) -> None:
    """Wait until so many wait on that side: nothing announces it."""
    with gate._changed:
        while gate._waiting[side] != count:
            gate._changed.wait(0.001)


def _enter(gate: Gate, inside: threading.Event, leave: threading.Event) -> Any:
    def synchronize() -> None:
        with gate:
            inside.set()
            assert leave.wait(LONG)

    return on_thread(synchronize)


def test_many_blocks_at_once() -> None:
    gate = Gate()
    blocks = [on_thread(gate.block)() for _ in range(3)]
    for block in blocks:
        block.unblock()
    with gate:
        pass


def test_many_synchronizations_at_once() -> None:
    gate = Gate()
    barrier = threading.Barrier(3)

    def synchronize() -> None:
        with gate:
            barrier.wait(LONG)

    for result in [on_thread(synchronize) for _ in range(3)]:
        result()


def test_a_block_holds_off_synchronizations_until_it_is_lifted() -> None:
    gate = Gate()
    inside, leave = threading.Event(), threading.Event()
    leave.set()
    with gate.block():
        result = _enter(gate, inside, leave)
        _waiting(gate, 1, 1)
        assert not inside.is_set()
    result()


def test_a_synchronization_holds_off_blocks() -> None:
    gate = Gate()
    inside, leave = threading.Event(), threading.Event()
    result = _enter(gate, inside, leave)
    assert inside.wait(LONG)
    with pytest.raises(TimeoutError, match="synchronized for too long"):
        gate.block(0.01)
    leave.set()
    result()
    gate.block().unblock()


def test_a_synchronization_that_waits_goes_first() -> None:
    gate = Gate()
    inside, leave = threading.Event(), threading.Event()
    block = gate.block()
    result = _enter(gate, inside, leave)
    _waiting(gate, 1, 1)
    late = on_thread(gate.block)
    _waiting(gate, 0, 1)
    block.unblock()
    assert inside.wait(LONG)
    leave.set()
    result()
    late().unblock()


def test_blocks_that_wait_go_before_further_synchronizations() -> None:
    gate = Gate()
    inside, leave = threading.Event(), threading.Event()
    first = _enter(gate, inside, leave)
    assert inside.wait(LONG)
    block = on_thread(gate.block)
    _waiting(gate, 0, 1)
    later_inside = threading.Event()
    second = _enter(gate, later_inside, leave)
    _waiting(gate, 1, 1)
    leave.set()
    first()
    held = block()
    assert not later_inside.is_set()
    held.unblock()
    second()


def test_a_nested_block_does_not_wait_for_who_waits_for_the_outer_one() -> None:
    gate = Gate()
    inside, leave = threading.Event(), threading.Event()
    leave.set()
    with gate.block():
        result = _enter(gate, inside, leave)
        _waiting(gate, 1, 1)
        with gate.block(LONG):
            assert not inside.is_set()
        assert not inside.is_set()
    result()


def test_who_synchronizes_cannot_block() -> None:
    gate = Gate()
    with gate, pytest.raises(WouldDeadlock):
        gate.block()
    gate.block().unblock()


def test_lifting_a_block_is_idempotent_and_from_any_thread() -> None:
    gate = Gate()
    first, second = gate.block(), gate.block()
    on_thread(first.unblock)()
    first.unblock()
    with pytest.raises(TimeoutError):
        _try_sync(gate)
    second.unblock()
    with gate:
        pass


def _try_sync(gate: Gate) -> None:
    with gate._changed:
        gate._enter_locked(1, Deadline(0.01), False)


def test_who_gives_up_holds_nobody_off() -> None:
    gate = Gate()
    block = gate.block()
    with pytest.raises(TimeoutError):
        _try_sync(gate)
    on_thread(gate.block)().unblock()
    block.unblock()


def test_others_are_let_in_when_the_one_they_waited_for_gives_up() -> None:
    gate = Gate()
    inside, leave = threading.Event(), threading.Event()
    result = _enter(gate, inside, leave)
    assert inside.wait(LONG)
    block = on_thread(lambda: gate.block(0.05))
    _waiting(gate, 0, 1)
    later_inside = threading.Event()
    later = _enter(gate, later_inside, leave)
    with pytest.raises(TimeoutError):
        block()
    assert later_inside.wait(LONG)
    leave.set()
    result()
    later()


def test_closing_ends_all_waiting() -> None:
    gate = Gate()
    block = gate.block()
    inside = threading.Event()
    result = _enter(gate, inside, inside)
    _waiting(gate, 1, 1)
    gate.close()
    with pytest.raises(RuntimeStopped):
        result()
    with pytest.raises(RuntimeStopped):
        gate.block()
    block.unblock()


def test_a_block_that_an_interrupt_has_kept_back_is_lifted() -> None:
    number = left = 0
    gate = Gate()
    tasks = len(os.listdir("/proc/self/task"))
    while interrupted_at(number, gate.block):
        give_up = time.monotonic() + LONG
        while len(os.listdir("/proc/self/task")) > tasks:
            assert time.monotonic() < give_up
            time.sleep(0.0005)
        left += gate._inside != [0, 0]
        number += 1
        gate = Gate()
    assert gate._inside == [1, 0]
    assert number > 100
    # As it returns: what strikes then might as well strike a moment later, in the caller.
    assert left <= 9
