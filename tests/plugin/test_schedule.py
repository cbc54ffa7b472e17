"""A random schedule: eight threads, the handlers and on_close call all methods of one stub.

``NRI_SYNC_SCHEDULE`` in the environment is the number of operations, ``NRI_SYNC_SEED`` the seed of the operations;
the system decides when each runs.
"""

from __future__ import annotations

import collections
import itertools
import os
import queue
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

import nri_sync
from nri_sync.api import nri_pb2
from nri_sync.errors import (
    AlreadyStarted,
    CallFailed,
    ConnectionLost,
    NotConnected,
    NRIError,
    StartError,
    StubStopped,
)
from nri_sync.plugin.state import Move, State
from tests.plugin._scene import Call, Model, held_locks, nothing_left
from tests.plugin.harness import LONG, Runtime, eventually

__all__: list[str] = []

OPERATIONS = int(os.environ.get("NRI_SYNC_SCHEDULE", "5000"))
SEED = int(os.environ.get("NRI_SYNC_SEED", "1"))
THREADS = 8

_START = (AlreadyStarted, StubStopped, StartError)


class Schedule:
    """A stub, a runtime that comes and goes, and the operations, with their checks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # About: threads that count at the same time may lose one.
        self.counts: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        self.closes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.over = False
        self._numbers = itertools.count()
        self._starts = itertools.count()
        self._runs = itertools.count()
        # Guards the runtime, for those that replace it.
        self._lock = threading.Lock()
        self.runtime = self._new_runtime()
        self._local = threading.local()
        self.stub = nri_sync.Stub(
            self,
            name="test",
            idx="10",
            socket_path=str(path),
            on_close=self._on_close,
            registration_timeout=2.0,
        )
        self.model = Model(self.stub)
        self._operations: dict[str, tuple[int, Callable[[], object]]] = {
            "start": (200, self._start),
            "stop": (7, self._stop),
            "stop with grace": (5, lambda: self._stop(self._random.choice((0.0, 0.001, 0.01)))),
            "wait": (300, self._wait),
            "run": (40, self._run),
            "update_containers": (400, self._update),
            "look": (50, self._look),
            "close": (12, self._close),
            "restart": (1, self._restart),
        }

    def _new_runtime(self) -> Runtime:
        return Runtime(self.path, update_containers=lambda updates, evict: [])

    @property
    def _random(self) -> random.Random:
        """One for each thread, so that the operations of each thread can be repeated."""
        made: random.Random | None = getattr(self._local, "random", None)
        if made is None:
            made = self._local.random = random.Random(f"{SEED} {next(self._numbers)}")
        return made

    # The plugin

    def synchronize(self, pods: Any, containers: Any) -> None: ...

    def run_pod_sandbox(self, pod: Any) -> None:
        act = self._random.choice((None, None, None, None, "stop", "wait", "update", "start"))
        self.counts[f"{act} in a handler"] += 1
        try:
            if act == "stop":
                self.stub.stop()
            elif act == "wait":
                self.stub.wait(0.001)
            elif act == "update":
                self.stub.update_containers(timeout=0.05)
            elif act == "start":
                self.stub.start(0.5)
                next(self._starts)
        except (NRIError, CallFailed):
            pass

    def _on_close(self, stub: nri_sync.Stub) -> None:
        self.closes.put(None)
        act = self._random.choice(("start", "stop", "run", "nothing"))
        try:
            if act == "start" and not self.over:
                stub.start(0.5)
                next(self._starts)
            elif act == "stop":
                stub.stop()
            elif act == "run" and not self.over:
                next(self._runs)
                stub.run()
        except (*_START, ConnectionLost):
            pass

    # The operations

    def _start(self) -> None:
        try:
            self.stub.start(self._random.choice((0.001, 0.01, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5)))
            next(self._starts)
        except _START as error:
            self.counts[type(error).__name__] += 1
            self._pause()

    def _pause(self) -> None:
        """Leave the others some time, which a refused call takes none of."""
        self.stub.wait(self._random.uniform(0.0, 0.01))

    def _stop(self, grace: float | None = None) -> None:
        conns = self.stub._live()
        self.stub.stop(grace)
        for conn in conns:
            if not conn.attempt.is_over:
                self.wrong.append(f"stop({grace}) has returned before {conn} has ended")

    def _wait(self) -> None:
        timeout = self._random.choice((0.0, 0.001, 0.005))
        conn = self.stub._current()
        began = time.monotonic()
        if self.stub.wait(timeout):
            if conn is not None and self.stub._current() is conn and not conn.attempt.is_over:
                self.wrong.append("wait() has returned True before the end")
        elif time.monotonic() - began < timeout:
            self.wrong.append("wait() has returned False before its time was over")

    def _run(self) -> None:
        next(self._runs)
        try:
            self.stub.run()
        except (*_START, ConnectionLost) as error:
            self.counts[f"run: {type(error).__name__}"] += 1

    def _update(self) -> None:
        try:
            self.stub.update_containers(timeout=0.1)
            self.counts["updated"] += 1
        except (NotConnected, CallFailed):
            self._pause()

    def _look(self) -> None:
        counters = self.stub.counters
        if counters.sessions < counters.losses:
            self.wrong.append(f"impossible: {counters}")
        repr(self.stub)

    def _close(self) -> None:
        for peer in self.runtime.accepted[-2:]:
            peer.close()

    def _restart(self) -> None:
        with self._lock:
            self.runtime.close()
            self.runtime = self._new_runtime()

    def work(self, count: int) -> int:
        """Do so many operations, chosen at random; returns how many it did."""
        done = 0
        names = list(self._operations)
        weights = [weight for weight, _ in self._operations.values()]
        for name in self._random.choices(names, weights, k=count):
            self._operations[name][1]()
            self.counts[name] += 1
            done += 1
            self.wrong += self.model.wrong
            if self.wrong:
                break
        return done

    def relay(self) -> None:
        """Send events to each plugin that comes."""
        while not self.over:
            try:
                peer = self.runtime.peers.get(timeout=0.02)
                for _ in range(50):
                    peer.call("RunPodSandbox", nri_pb2.RunPodSandboxRequest(), 0.5)
            except (queue.Empty, CallFailed, NRIError):
                pass

    def finish(self, workers: list[Call]) -> None:
        # A thread in run() needs another thread that stops the stub.
        while not all(worker.done for worker in workers):
            self.stub.stop()
            threading.Event().wait(0.05)
        self.over = True
        for worker in workers:
            worker.result()
        eventually(lambda: self.closes.qsize() == self.model.losses, "on_close for each loss")
        for thread in threading.enumerate():
            if thread.name.endswith("-on-close"):  # which may be in run()
                while thread.is_alive():
                    self.stub.stop()
                    thread.join(0.05)
        self.stub.stop()

    def check(self) -> None:
        assert not self.wrong
        assert self.model.wrong == []
        assert self.stub.state is State.IDLE
        assert not self.stub._conns
        assert held_locks(self.stub, self.model.attempts) == []
        # A start succeeds exactly when a session has come of it.
        starts, runs = next(self._starts), next(self._runs)
        assert starts <= self.model.made[Move.CONFIGURED] <= starts + runs
        counters = self.stub.counters
        assert counters.sessions == self.model.made[Move.CONFIGURED]
        assert counters.losses == self.model.losses
        assert counters.sessions + counters.failed_starts >= self.model.made[Move.START]


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads switch as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.timeout(60 + OPERATIONS // 20)
@pytest.mark.usefixtures("switching")
def test_a_random_schedule_keeps_to_the_model(socket_dir: Path) -> None:
    with nothing_left():
        began = time.monotonic()
        schedule = Schedule(socket_dir / "nri.sock")
        relay = Call(schedule.relay)
        workers = [Call(schedule.work, OPERATIONS // THREADS) for _ in range(THREADS)]
        for worker in workers:
            while not worker.done and not schedule.wrong:
                # At the end all that are left may be in run().
                worker.thread.join(1.0)
                if schedule.stub.started and sum(not item.done for item in workers) < THREADS:
                    schedule.stub.stop()
        schedule.finish(workers)
        relay.result()
        schedule.runtime.close()
        schedule.check()
        seconds = time.monotonic() - began
    done = sum(worker.value for worker in workers)
    assert done == OPERATIONS // THREADS * THREADS
    # All of it has happened.
    assert schedule.model.losses > OPERATIONS / 1000
    assert schedule.model.made[Move.END] > OPERATIONS / 1000
    assert schedule.counts["updated"] > OPERATIONS / 1000
    print(
        f"{done} operations in {seconds:.0f} s: {dict(schedule.counts)}, "
        f"{dict(schedule.model.made)}, {schedule.stub.counters}"
    )
    assert seconds < LONG + OPERATIONS / 20
