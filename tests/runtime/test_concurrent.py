"""Several blocking calls at the same time."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest

from nri_sync.errors import NoThread
from nri_sync.runtime import concurrent as module
from nri_sync.runtime.concurrent import run_concurrently
from tests.runtime.rig import LONG

__all__: list[str] = []


def test_nothing_to_do() -> None:
    assert run_concurrently("test", []) == []


def test_results_come_in_order_of_the_calls_which_run_at_the_same_time() -> None:
    barrier = threading.Barrier(3)

    def call(number: int) -> int:
        barrier.wait(LONG)
        return number

    assert run_concurrently("test", [partial(call, number) for number in range(3)]) == [0, 1, 2]


def test_without_threads_the_calls_run_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def spawn(*_arguments: Any) -> None:
        raise NoThread("can't start new thread")

    monkeypatch.setattr(module, "spawn", spawn)
    me = threading.get_ident()
    assert run_concurrently("test", [threading.get_ident] * 3) == [me, me, me]
