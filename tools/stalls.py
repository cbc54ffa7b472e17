"""A pytest plugin that delays the threads of a test, to find tests and code that need a quick machine.

``python -m pytest -p tools.stalls --stall-seed 7 tests/plugin``: each test gets a random share of all points in
nri_sync and tests, and each thread that reaches one of them sleeps. A point is the call, the return, or the call
of a C function, such as ``send`` or ``acquire``, at one line. The seed and the name of the test determine the
points, so that the same seed delays the same points again. A failure lists the delays of its test.

A test that fails here can fail on a busy machine, unless it measures the time or the calls of the code.
"""

from __future__ import annotations

import random
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

__all__: list[str] = []

_ROOT = Path(__file__).parent.parent
_PLACES = (f"{_ROOT / 'nri_sync'}/", f"{_ROOT / 'tests'}/")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("stalls")
    group.addoption("--stall-seed", type=int, default=random.randrange(10**6))
    group.addoption("--stall-share", type=float, default=0.05, help="the share of the points")
    group.addoption("--stall", type=float, default=0.1, help="the seconds of one delay")
    group.addoption("--stall-most", type=float, default=2.0, help="the seconds of all in a test")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Stalls(config), "stalls-of-this-run")


class _Stalls:
    """Delays the threads of one test after the other."""

    def __init__(self, config: pytest.Config) -> None:
        self._seed: int = config.getoption("--stall-seed")
        self._delay: float = config.getoption("--stall")
        self._most: float = config.getoption("--stall-most")
        # zlib.crc32() of a chosen point is below this value.
        self._below: float = config.getoption("--stall-share") * 2**32
        self._sleep = time.sleep  # a test may replace it
        self._test = ""
        self._left = 0.0
        self._chosen: dict[tuple[CodeType, int, str], bool] = {}
        self._hits: list[str] = []

    def pytest_report_header(self) -> str:
        return f"stalls: --stall-seed {self._seed}"

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._test, self._left = item.nodeid, self._most
        self._chosen, self._hits = {}, []
        threading.setprofile(self._reached)
        sys.setprofile(self._reached)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self) -> Iterator[None]:
        outcome: Any = yield
        report = outcome.get_result()
        if report.failed:
            report.sections.append(("stalls", "\n".join(self._hits)))

    def _reached(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        point = (code, frame.f_lineno, event)
        chosen = self._chosen.get(point)
        if chosen is None:
            chosen = self._chosen[point] = self._chooses(code, frame.f_lineno, event)
        if chosen and self._left > 0:
            self._left -= self._delay
            function = getattr(argument, "__name__", "") if event.startswith("c_") else ""
            self._hits.append(
                f"{code.co_filename}:{frame.f_lineno} {code.co_name} {event} {function}"
            )
            self._sleep(self._delay)

    def _chooses(self, code: CodeType, line: int, event: str) -> bool:
        if not code.co_filename.startswith(_PLACES):
            return False
        # Not the path itself, which differs between two clones.
        place = f"{Path(code.co_filename).relative_to(_ROOT)}:{line} {code.co_name} {event}"
        return zlib.crc32(f"{self._seed} {self._test} {place}".encode()) < self._below
