"""Thousands of restarts of a plugin that stops itself, with records of each request's fate.

Each test runs as a separate process, so that its memory can be measured. NRI_SYNC_TORTURE_RESTARTS is the number
of restarts of each test; `make torture` sets it to 2,000.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Union

from examples.self_stopping.plugin import SelfStopping
from nri_sync import Stub, api, errors

__all__ = ["PROMPTLY", "RESTARTS", "TEMPLATES", "Books", "Tormented", "run_alone", "survive"]

RESTARTS = int(os.environ.get("NRI_SYNC_TORTURE_RESTARTS", "100"))
# Time limit for a plugin to register again, on a busy machine, in seconds.
PROMPTLY = 15.0
# The growth in bytes that the process may have, while caches and the allocator's pools fill.
GROWTH = 4 << 20
# The number of samples of the resident memory.
SAMPLES = 16
MOST_REQUESTS = 1 << 20
_ROOT = Path(__file__).parents[2]


def run_alone(module: str, *arguments: str, timeout: float) -> str:
    """Run a module as a separate process; returns its output. Fails if the process fails."""
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-m", module, *arguments],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # prints the stacks of its threads
            output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


class Books:
    """The fate of each request. Requests have numbers, which are the ids of their containers.

    There is one byte for each request and kind of record, so that memory hardly grows, and threads need no lock.
    """

    def __init__(self) -> None:
        self.sent = 0
        #: The handler has run.
        self.entered = bytearray(MOST_REQUESTS)
        #: The runtime has received the plugin's answer.
        self.answered = bytearray(MOST_REQUESTS)
        #: The runtime waited for the answer when it ended.
        self.cut = bytearray(MOST_REQUESTS)
        #: The number of runtimes at which the plugin has registered, and was configured.
        self.registrations = 0

    def send(self) -> int:
        """The number of the next request."""
        self.sent += 1
        return self.sent

    def lost(self) -> list[int]:
        """Requests that the plugin has received, and for which a running runtime has received no answer."""
        return [
            number
            for number in range(self.sent + 1)
            if self.entered[number] and not self.answered[number] and not self.cut[number]
        ]

    def __str__(self) -> str:
        answered, cut = self.answered.count(1), self.cut.count(1)
        return (
            f"{self.registrations} registrations, {self.sent} requests: {answered} answered, {cut} cut off by the "
            f"runtime, {len(self.lost())} lost, {self.sent - answered - cut} that the plugin was not there for"
        )


class Recorded(SelfStopping):
    """The self-stopping template, with records, and with handlers that take a moment."""

    def __init__(self, books: Books, socket_path: str) -> None:
        super().__init__(requests=7, seconds=0.05, pause=0.002, socket_path=socket_path)
        self.books = books
        self.random = random.Random(0)

    def create_container(self, pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        self.books.entered[int(container.id)] = 1
        time.sleep(self.random.uniform(0, 0.002))  # simulated work
        return super().create_container(pod, container).add_annotation("id", container.id)


class Comeback:
    """The other template: a plugin that restarts inside ``on_close``, and is never stopped."""

    def __init__(self, books: Books, socket_path: str) -> None:
        self.books = books
        self.finished = threading.Event()
        self.stub = Stub(
            self, name="comeback", idx="30", socket_path=socket_path, on_close=self._come_back
        )

    def create_container(self, pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        self.books.entered[int(container.id)] = 1
        return api.Adjustment().add_annotation("id", container.id)

    def begin(self) -> None:
        threading.Thread(target=self._come_back, args=(self.stub,)).start()

    def finish(self) -> None:
        self.finished.set()
        self.stub.stop()

    def _come_back(self, stub: Stub) -> None:
        while not self.finished.is_set():
            try:
                stub.start()
            except (errors.StartError, errors.StubStopped):
                self.finished.wait(0.002)
            else:
                if self.finished.is_set():
                    stub.stop()  # finish() may have run before this session existed
                return


Tormented = Union[Recorded, Comeback]

#: Constructors of plugins, by the name of their way to reconnect.
TEMPLATES: dict[str, Callable[[Books, str], Tormented]] = {
    "stops-itself": Recorded,
    "starts-in-on-close": Comeback,
}


class Usage(NamedTuple):
    """The resources of the process."""

    threads: int
    descriptors: int
    resident: int

    @classmethod
    def now(cls) -> Usage:
        with open("/proc/self/statm") as statm:
            pages = int(statm.read().split()[1])
        return cls(
            len(os.listdir("/proc/self/task")),
            len(os.listdir("/proc/self/fd")),
            pages * os.sysconf("SC_PAGE_SIZE"),
        )


def survive(plugin: Tormented, books: Books, live: Callable[[], None]) -> str:
    """Run a plugin through RESTARTS runtimes, check the invariants, and return the figures."""
    before = Usage.now()
    plugin.begin()
    trend = []
    try:
        for number in range(RESTARTS):
            live()
            if number % max(1, RESTARTS // SAMPLES) == 0:
                # Collect garbage first, which Python otherwise collects later.
                gc.collect()
                trend.append(Usage.now().resident)
    finally:
        plugin.finish()
    assert books.lost() == []
    assert books.cut.count(1) > 0
    return f"{books}\n{_check_usage(before, trend)}"


def _check_usage(before: Usage, trend: list[int]) -> str:
    """Wait until all resources are free again, and fail if they are not. Returns the figures.

    ``before`` was taken before the first session. ``trend`` is the resident memory in the course of the test.
    """
    give_up = time.monotonic() + PROMPTLY
    after = Usage.now()
    while (
        after.threads > before.threads or after.descriptors > before.descriptors
    ) and time.monotonic() < give_up:
        time.sleep(0.01)
        after = Usage.now()
    assert after.threads <= before.threads
    assert after.descriptors <= before.descriptors
    # The first quarter is for warming up.
    quarter = len(trend) // 4
    early, late = min(trend[quarter : 2 * quarter]), min(trend[-quarter:])
    figures = (
        f"threads {before.threads} -> {after.threads}, descriptors {before.descriptors} -> {after.descriptors}, "
        f"of {RESTARTS} restarts: resident {early >> 10} KiB in the second quarter, {late >> 10} in the last"
    )
    assert late - early < GROWTH, figures
    return figures
