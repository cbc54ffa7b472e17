"""Deadlines, on a clock that the test moves."""

from __future__ import annotations

import math

import pytest

from nri_sync import deadline
from nri_sync.deadline import Deadline


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(deadline, "time", clock)
    return clock


def test_the_steps_of_a_call_share_the_budget(clock: Clock) -> None:
    limit = Deadline(5)
    assert limit.at == 1005.0
    assert limit.remaining() == 5.0
    clock.now += 2
    assert limit.remaining() == 3.0
    assert not limit.expired


def test_a_deadline_expires_exactly_at_its_time(clock: Clock) -> None:
    limit = Deadline(5)
    clock.now = 1004.75
    assert (limit.expired, limit.remaining()) == (False, 0.25)
    clock.now = 1005.0
    assert (limit.expired, limit.remaining()) == (True, 0.0)
    clock.now = 2000.0
    assert (limit.expired, limit.remaining()) == (True, 0.0)


@pytest.mark.parametrize("timeout", [0, 0.0, -1, -math.inf])
def test_zero_or_less_is_over_at_once(clock: Clock, timeout: float) -> None:
    limit = Deadline(timeout)
    assert limit.expired
    assert limit.remaining() == 0.0


def test_none_is_no_limit(clock: Clock) -> None:
    limit = Deadline(None)
    clock.now = 1e18
    assert limit.at is None
    assert limit.remaining() is None
    assert not limit.expired


def test_infinity_is_no_limit_either(clock: Clock) -> None:
    limit = Deadline(math.inf)
    clock.now = 1e18
    assert limit.remaining() is None
    assert not limit.expired


def test_a_deadline_counts_real_time() -> None:
    before = Deadline(60).remaining()
    assert before is not None
    assert 59 < before <= 60
