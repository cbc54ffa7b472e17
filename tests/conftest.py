"""What all tests share: a short directory for sockets, and a check that no thread is left behind."""

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

__all__: list[str] = []

# Seconds that the threads of a test have to end once it is over.
THREADS_END_WITHIN = 5.0

# How long a test and the making of its data take depends on what else the machine does.
_LOCAL = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("local", _LOCAL)
# A failure in CI is one that anybody can repeat.
hypothesis.settings.register_profile("ci", _LOCAL, derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "local")


_STATUS = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "leaves_threads: threads that the test has started may outlive it"
    )
    # A script's shell has what it runs in the background ignore interrupts, and so would all that tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Let no thread keep the process that a failed test has left: Python waits for those that are no daemons."""
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
    """A directory with a short path, as the path of a unix socket has room for 108 bytes only."""
    path = Path(tempfile.mkdtemp(prefix="nri"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undo what a test sets up for the whole process, as programs do."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    for handler in list(root.handlers):
        if type(handler).__module__.startswith("nri_sync."):
            root.removeHandler(handler)


@pytest.fixture(autouse=True)
def _no_thread_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test whose threads do not end with it."""
    before = set(threading.enumerate())
    yield
    # Those that were not started by threading cannot be joined; before Python 3.13 they are never forgotten.
    before.update(t for t in threading.enumerate() if isinstance(t, threading._DummyThread))
    if request.node.get_closest_marker("leaves_threads"):
        return
    give_up = time.monotonic() + THREADS_END_WITHIN
    while left := set(threading.enumerate()) - before:
        thread = left.pop()
        if time.monotonic() > give_up:
            pytest.fail(f"the test is over, but its thread {thread.name!r} still runs")
        try:
            thread.join(give_up - time.monotonic())
        except RuntimeError:  # another thread is starting it just now
            time.sleep(0.001)
