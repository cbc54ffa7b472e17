"""Fixtures of all tests: a short directory for sockets, and a check that no thread outlives its test."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from nri_sync.threads import IDLE_NAME
from tests.outputs import is_busy_warning

__all__: list[str] = []

# Seconds that the threads of a test have to end once it is over.
THREADS_END_WITHIN = 20.0

# The duration of a test and of its data depends on the load of the machine.
_LOCAL = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("local", _LOCAL)
# Every failure in CI can be reproduced.
hypothesis.settings.register_profile("ci", _LOCAL, derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "local")


_STATUS = pytest.StashKey[int]()
# The longest text in the id of a test, in characters or bytes.
_LONGEST_ID = 200


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Shorten the id of a long text: pytest before 9 takes all of it, up to 16 MB."""
    if isinstance(val, (str, bytes)) and len(val) > _LONGEST_ID:
        return f"{argname} of {len(val)}"
    return None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "leaves_threads: threads that the test has started may outlive it"
    )
    # A shell script starts background processes with ignored interrupts, and the processes of the tests would
    # inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Do not let threads of a failed test keep the process alive: Python waits for threads that are no daemons."""
    main = threading.main_thread()
    left = [t.name for t in threading.enumerate() if t is not main and not t.daemon]
    status = config.stash.get(_STATUS, 1)
    if left and status:
        print(f"threads that still run: {', '.join(left)}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@pytest.fixture
def socket_dir() -> Iterator[Path]:
    """A directory with a short path, because the path of a Unix socket may have at most 108 bytes."""
    path = Path(tempfile.mkdtemp(prefix="nri"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def _the_machine_may_be_busy(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """Keep the warning of a busy machine from tests that compare the whole log: any test can cause it."""

    def keep(record: logging.LogRecord) -> bool:
        return not is_busy_warning(record.getMessage())

    # All tests share the handler.
    if request.path.name != "test_late.py":
        caplog.handler.addFilter(keep)
    yield
    caplog.handler.removeFilter(keep)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undo the settings of a test that affect the whole process."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    for handler in list(root.handlers):
        if type(handler).__module__.startswith("nri_sync."):
            root.removeHandler(handler)


@pytest.fixture(autouse=True)
def _no_thread_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test whose threads do not end with the test."""
    before = _running()
    yield
    # Threads that threading did not start cannot be joined, and before Python 3.13 threading never forgets them.
    before.update(t for t in threading.enumerate() if isinstance(t, threading._DummyThread))
    if request.node.get_closest_marker("leaves_threads"):
        return
    give_up = time.monotonic() + THREADS_END_WITHIN
    while left := _running() - before:
        if time.monotonic() > give_up:
            pytest.fail(f"the test is over, but its thread {left.pop().name!r} still runs")
        time.sleep(0.001)


def _running() -> set[threading.Thread]:
    """The threads, without those that wait a moment for a target, and then end."""
    return {thread for thread in threading.enumerate() if thread.name != IDLE_NAME}
