"""Runs several blocking calls at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, TypeVar

from nri_sync.errors import NoThread
from nri_sync.threads import Latch, spawn

__all__ = ["run_concurrently"]

T = TypeVar("T")


def run_concurrently(name: str, calls: Sequence[Callable[[], T]]) -> list[T]:
    """Run the calls at the same time, and return their results in the order of ``calls``. They must not raise.

    The first call runs on the calling thread, the others on threads called ``name``-1, ``name``-2 and so on.
    """
    results: dict[int, T] = {}
    done = [Latch() for _ in calls]

    def run(number: int) -> None:
        try:
            results[number] = calls[number]()
        finally:
            done[number].set()

    for number in range(1, len(calls)):
        try:
            spawn(f"{name}-{number}", run, number)
        except NoThread:  # then run the call here, before the next one
            run(number)
    if calls:
        run(0)
    for latch in done:
        latch.wait()
    return [results[number] for number in range(len(calls))]
