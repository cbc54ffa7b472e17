"""Futures that signals cannot break, on the main thread and on others."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
import weakref
from concurrent.futures import CancelledError
from typing import Any, Callable

import pytest

from nri_sync.kit.futures import SafeFuture
from tests.plugin.harness import LONG, eventually
from tests.runtime.rig import on_thread

__all__: list[str] = []

Run = Callable[[Callable[[], Any]], Any]


def here(function: Callable[[], Any]) -> Any:
    return function()


def elsewhere(function: Callable[[], Any]) -> Any:
    return on_thread(function)()


@pytest.fixture(params=[here, elsewhere], ids=["main", "other"])
def run(request: pytest.FixtureRequest) -> Run:
    chosen: Run = request.param
    return chosen


def test_a_result(run: Run) -> None:
    future: SafeFuture[int] = SafeFuture()
    assert not run(future.done)
    assert run(future.set_running_or_notify_cancel)
    assert run(future.running)
    future.set_result(7)
    assert run(future.result) == 7
    assert run(future.exception) is None
    assert run(future.done)


def test_an_exception(run: Run) -> None:
    future: SafeFuture[int] = SafeFuture()
    error = ValueError("wrong")
    future.set_exception(error)
    assert run(lambda: future.exception(0)) is error
    with pytest.raises(ValueError, match="wrong"):
        run(lambda: future.result(LONG))


def test_out_of_time(run: Run) -> None:
    future: SafeFuture[int] = SafeFuture()
    for call in (future.result, future.exception):
        for timeout in (0.001, 0, -1):
            with pytest.raises(concurrent.futures.TimeoutError):
                run(lambda call=call, timeout=timeout: call(timeout))  # type: ignore[misc]


def test_the_main_thread_waits_for_another() -> None:
    future: SafeFuture[int] = SafeFuture()

    def set_result() -> None:
        eventually(lambda: future._settled.waiters > 0)
        future.set_result(3)

    setting = on_thread(set_result)
    assert future.result(LONG) == 3
    setting()


def test_cancelled(run: Run) -> None:
    future: SafeFuture[int] = SafeFuture()
    assert run(future.cancel)
    assert run(future.cancelled)
    with pytest.raises(CancelledError):
        run(lambda: future.result(LONG))


def test_callbacks(run: Run) -> None:
    future: SafeFuture[int] = SafeFuture()
    called: list[Any] = []
    run(lambda: future.add_done_callback(called.append))
    assert called == []
    run(lambda: future.set_result(1))
    run(lambda: future.add_done_callback(called.append))
    assert called == [future, future]


def test_with_the_functions_of_the_standard_library() -> None:
    futures: list[SafeFuture[int]] = [SafeFuture(), SafeFuture()]
    setting = on_thread(lambda: [future.set_result(1) for future in futures])
    assert concurrent.futures.wait(futures, LONG).not_done == set()
    setting()

    async def main() -> int:
        future: SafeFuture[int] = SafeFuture()
        setting = on_thread(lambda: future.set_result(5))
        result = await asyncio.wait_for(asyncio.wrap_future(future), LONG)
        setting()
        return result

    assert asyncio.run(main()) == 5


def test_a_future_is_freed_with_its_last_reference() -> None:
    gc.disable()
    try:
        future: SafeFuture[int] = SafeFuture()
        future.set_result(1)
        gone = threading.Event()
        weakref.finalize(future, gone.set)
        del future
        assert gone.wait(LONG)
    finally:
        gc.enable()
