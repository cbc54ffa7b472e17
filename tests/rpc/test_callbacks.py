"""Callbacks run in order, also when others raise."""

from __future__ import annotations

import threading

import pytest

from nri_sync.errors import NoThread
from nri_sync.rpc import callbacks
from nri_sync.rpc.callbacks import run_callbacks, run_elsewhere
from tests.net.rig import LONG

__all__: list[str] = []


def fail() -> None:
    raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), SystemExit("a bug")])
def test_a_callback_that_raises_does_not_stop_the_others(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error

    called: list[int] = []
    run_callbacks([lambda: called.append(1), fail, lambda: called.append(2)])
    assert called == [1, 2]
    assert "a bug" in caplog.text


def test_elsewhere_is_another_thread() -> None:
    ran = threading.Event()
    names: list[str] = []
    run_elsewhere("x", [lambda: names.append(threading.current_thread().name), ran.set])
    assert ran.wait(LONG)
    assert names == ["x-callbacks"]


def test_no_callbacks_need_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "spawn", fail)
    run_elsewhere("x", [])


def test_without_threads_callbacks_run_on_the_calling_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object) -> None:
        raise NoThread("can't start new thread")

    monkeypatch.setattr(callbacks, "spawn", refuse)
    threads: list[threading.Thread] = []
    run_elsewhere("x", [lambda: threads.append(threading.current_thread())])
    assert threads == [threading.current_thread()]
