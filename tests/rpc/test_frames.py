"""Which frames of a traceback are a handler's."""

from __future__ import annotations

import functools
import traceback
from types import TracebackType
from typing import Any

from nri_sync.kit.chains import chain
from nri_sync.rpc.frames import calls_handlers, own_frames

__all__: list[str] = []


def caller(function: Any) -> None:
    function()


calls_handlers(caller.__code__)


def handler() -> None:
    raise ValueError


def names(function: Any) -> list[str]:
    trace: TracebackType | None = None
    try:
        function()
    except (ValueError, TypeError) as error:
        trace = error.__traceback__
    return [frame.name for frame in traceback.extract_tb(own_frames(trace))]


def test_frames_begin_after_the_last_caller() -> None:
    assert names(lambda: caller(handler)) == ["handler"]
    assert names(lambda: caller(lambda: caller(handler))) == ["handler"]


def test_frames_of_the_package_in_between_are_left_out() -> None:
    class Plugin:
        def run_pod_sandbox(self, pod: object) -> None:
            handler()

    united: Any = chain(Plugin())
    call = functools.partial(united.run_pod_sandbox, None)
    assert names(lambda: caller(call)) == ["run_pod_sandbox", "handler"]


def test_without_a_caller_or_a_handler() -> None:
    assert names(handler) == ["names", "handler"]
    assert names(lambda: caller(None)) == ["names", "<lambda>", "caller"]
    assert own_frames(None) is None
