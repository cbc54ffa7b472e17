"""Interrupts objects with locks on the main thread, and checks their state. Runs in a separate process.

For each call of a subject, and before each bytecode that the main thread executes in the package, in ``threading``
and in ``concurrent.futures``: a signal handler makes all calls of the subject (``reenter``), or raises
KeyboardInterrupt (``raise``). After that, another thread must be able to use the subject, no lock may be held, and
the subject's own check must hold.

Prints the figures as JSON. A hang ends the process with the stacks of all threads.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import faulthandler
import gc
import json
import os
import queue
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import _base
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import nri_sync
from nri_sync import api, errors, kit, testing, ttrpc
from nri_sync.rpc.context import RequestContext
from tests.plugin._signals import _PACKAGE, Stepper, prepare, sample
from tests.plugin.harness import LONG, eventually, tasks

__all__: list[str] = []

_LOCKS = (type(threading.Lock()), type(threading.RLock()), threading.Condition)

POD = api.PodSandbox(id="p", name="pod", namespace="default", uid="u")
CONTAINER = api.Container(id="c", pod_sandbox_id="p", name="container")


class WideStepper(Stepper):
    """Also counts the bytecodes of standard-library code that takes locks."""

    within = (_PACKAGE, str(threading.__file__), str(_base.__file__))


class Plugin:
    def create_container(self, pod: Any, container: Any) -> None: ...


class Answered(RequestContext):
    """The context of a request that has been answered."""

    def __init__(self) -> None: ...

    def is_active(self) -> bool:
        return False

    def add_callback(self, callback: Callable[[], object]) -> bool:
        return False


class Subject:
    """An object, and the calls that a signal handler may make on it."""

    def __init__(self) -> None:
        #: The calls by name. Each may be made any number of times.
        self.calls: dict[str, Callable[[], Any]] = {}
        #: The objects whose attributes may be locks.
        self.parts: list[object] = []

    def before(self, call: str) -> None:
        """Called before each case: makes the call have something to do."""

    def check(self) -> None:
        """Raise AssertionError if a value is lost or incomplete. Called on another thread."""

    def close(self) -> None: ...

    def held(self) -> list[str]:
        """The locks that stay held."""
        held = []
        for part in self.parts:
            for name, lock in vars(part).items():
                if not isinstance(lock, _LOCKS):
                    continue
                if lock.acquire(timeout=LONG):
                    lock.release()
                else:
                    held.append(f"{type(part).__name__}.{name}")
        return held


class Queue(Subject):
    """A queue without a session, so that all entries are still there at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 0
        self.queue = kit.UpdateQueue(limit=100_000, on_failed=self._count)
        stub = nri_sync.Stub(
            Plugin(), name="test", idx="10", socket_path="/nonexistent", interceptors=[self.queue]
        )
        # The first request starts the thread.
        elsewhere(lambda: self.queue.serve("Configure", None, Answered(), lambda *_: None))
        self.parts = [self.queue]
        self.futures: list[kit.PendingUpdate] = []
        self.number = 0
        self.calls = {
            "attach": lambda: self.queue.attach(stub),
            "put": self.put,
            "drop": lambda: self.queue.drop(f"c{self.number - 1}"),
            "counters": lambda: self.queue.counters,
            "holds_up": self.queue.holds_up,
        }

    def _count(self, failure: errors.UpdateFailed) -> None:
        self.failures += 1

    def put(self) -> None:
        self.number += 1
        update = api.Update(f"c{self.number}").set_memory(limit=1 << 20)
        self.futures.append(self.queue.put(update))

    def check(self) -> None:
        counters = self.queue.counters
        assert counters.put == sum(counters[1:6]) + counters.pending, counters
        # After an interrupt, put() has either taken effect or not.
        assert len(self.futures) <= counters.put <= self.number, (counters, self.number)
        eventually(lambda: self.failures == self.queue.counters.removed, "a report of all failures")

    def close(self) -> None:
        self.queue.close(LONG)
        counters = self.queue.counters
        assert not counters.pending
        assert self.failures == counters.put, (self.failures, counters)
        assert all(
            isinstance(future.exception(LONG), errors.UpdateFailed) for future in self.futures
        )


class ClosedQueue(Queue):
    """Each case closes the queue, with an entry in it or during its close()."""

    def __init__(self) -> None:
        super().__init__()
        self.put()
        self.put()
        self.calls = {"close": lambda: self.queue.close(LONG)}

    def check(self) -> None:
        self.close()


class Background(Subject):
    def __init__(self) -> None:
        super().__init__()
        self.runs: collections.Counter[str] = collections.Counter()
        self.background = kit.Background(threads=2, limit=100_000)
        self.task = self.background.latest(lambda: self.runs.update(["task"]))
        self.parts = [self.background._pool]
        self.futures: list[concurrent.futures.Future[Any]] = []
        self.begun = 0
        self.calls = {
            "submit": self.submit,
            "task": self.task,
            "every": self.every,
            "latest": lambda: self.background.latest(print),
            "counters": lambda: self.background.counters,
        }

    def submit(self) -> None:
        self.begun += 1
        self.futures.append(self.background.submit(self.runs.update, ["submit"]))

    def every(self) -> None:
        self.background.every(1e6, lambda: self.runs.update(["every"])).stop()

    def check(self) -> None:
        def is_idle() -> bool:
            counters = self.background.counters
            return not counters.queued and not counters.running

        eventually(is_idle, "the end of all that was begun")
        assert len(self.futures) <= self.runs["submit"] <= self.begun
        assert all(future.done() for future in self.futures)

    def close(self) -> None:
        assert self.background.close(LONG)


class ClosedBackground(Background):
    """Each case closes the background, with jobs that have not begun."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        for _ in range(3):
            self.futures.append(self.background.submit(self.gate.wait, LONG))
        eventually(lambda: self.background.counters.running == 2, "two threads at work")
        self.calls = {"close": lambda: self.background.close(0.001)}

    def check(self) -> None:
        self.background.close(0.0)
        self.gate.set()
        eventually(lambda: not self.background.counters.threads, "the end of the threads")
        assert all(future.done() for future in self.futures)
        assert self.background.counters.cancelled == 1

    def close(self) -> None:
        self.gate.set()
        self.background.close(LONG)


class Future(Subject):
    def __init__(self) -> None:
        super().__init__()
        self.background = kit.Background(threads=1)
        self.gate: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.busy = self.background.submit(self.gate.get, True, LONG)
        self.future = self.background.submit(int)
        self.called: list[object] = []
        self.parts = [self.future, self.busy, self.background._pool]
        self.calls = {
            "result": lambda: self.ended(self.busy.result),
            "exception": lambda: self.ended(self.busy.exception),
            "done": self.future.done,
            "running": self.future.running,
            "cancelled": self.future.cancelled,
            "add_done_callback": lambda: self.future.add_done_callback(self.called.append),
            "repr": lambda: repr(self.future),
            "cancel": self.future.cancel,
        }

    def ended(self, wait: Callable[[float], Any]) -> Any:
        self.gate.put(None)
        return wait(LONG)

    def check(self) -> None:
        assert self.future.done() in (True, False)

    def close(self) -> None:
        self.gate.put(None)
        assert self.background.close(LONG)
        assert self.future.done()


class Inventory(Subject):
    """An inventory with a listener that takes each change, and with a store."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="nri")
        self.store = kit.InventoryStore(Path(self.directory.name) / "store", interval=0.001)
        self.versions: list[int] = []
        self.inventory = kit.Inventory(
            lambda changes: self.versions.append(changes.after.version), store=self.store
        )
        self.parts = [self.inventory, self.inventory._delivery, self.store]
        self.number = 0
        self.calls = {
            "run_pod_sandbox": lambda: self.inventory.run_pod_sandbox(POD),
            "create_container": self.create,
            "remove_container": lambda: self.inventory.remove_container(POD, self.container()),
            "remove_pod_sandbox": lambda: self.inventory.remove_pod_sandbox(POD),
            "configure": lambda: self.inventory.configure("", "", ""),
            "synchronize": lambda: self.inventory.synchronize([POD], [self.container()]),
            "snapshot": lambda: self.inventory.snapshot().pods,
            "recall_pod": lambda: self.inventory.recall_pod("p"),
            "flush": lambda: self.store.flush(LONG),
            "save": lambda: self.store.save(self.inventory.snapshot()),
        }

    def container(self) -> api.Container:
        return api.Container(id=f"c{self.number}", pod_sandbox_id="p", name="container")

    def create(self) -> None:
        self.number += 1
        self.inventory.create_container(POD, self.container())

    def check(self) -> None:
        pod = api.PodSandbox(id="check", name="check", namespace="default", uid="check")
        self.inventory.run_pod_sandbox(pod)
        self.inventory.remove_pod_sandbox(pod)
        assert self.versions == sorted(self.versions)
        snapshot = self.inventory.snapshot()
        assert self.versions[-1] == snapshot.version
        assert all(container.pod_id in snapshot.pods for container in snapshot.containers.values())
        assert self.store.flush(LONG)

    def close(self) -> None:
        self.store.close(LONG)
        with kit.InventoryStore(self.store.path) as store:
            stored = kit.Inventory(store=store).snapshot()
        assert stored.pods.keys() == self.inventory.snapshot().pods.keys()
        assert stored.containers.keys() == self.inventory.snapshot().containers.keys()
        self.directory.cleanup()


class ClosedStore(Subject):
    """Each case closes the store, with a pending write."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="nri")
        self.store = kit.InventoryStore(Path(self.directory.name) / "store", interval=LONG)
        self.inventory = kit.Inventory(store=self.store)
        elsewhere(lambda: self.inventory.run_pod_sandbox(POD))
        self.parts = [self.store]
        self.calls = {"close": lambda: self.store.close(LONG)}

    def check(self) -> None:
        self.store.close(LONG)
        with kit.InventoryStore(self.store.path) as store:
            assert [pod.id for pod, *_ in store.load().pods] == ["p"]

    def close(self) -> None:
        self.store.close(LONG)
        self.directory.cleanup()


class LiveConfig(Subject):
    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="nri")
        path = Path(self.directory.name) / "config.json"
        path.write_text("{}")
        self.plugin = Configured()
        self.of_file = kit.LiveConfig(self.plugin, Config, path)
        self.of_text = kit.LiveConfig(self.plugin, Config)
        self.parts = [self.of_file, self.of_text]
        self.number = 0
        self.calls = {"read_file": self.of_file.read_file, "read_text": self.read_text}

    def read_text(self) -> None:
        self.number += 1
        self.of_text.read_text(json.dumps({"number": self.number}))

    def check(self) -> None:
        assert not self.plugin.applying
        # The last apply that began is the last one that finished.
        assert self.plugin.config is None or self.plugin.config is self.plugin.last
        self.of_file.read_file()
        assert self.plugin.config is self.plugin.last

    def close(self) -> None:
        self.directory.cleanup()


@dataclasses.dataclass
class Config:
    number: int = 0


class Configured:
    config: Config | None = None
    last: Config | None = None
    applying = 0

    def on_config(self, config: Config) -> None:
        self.applying += 1
        self.last = config
        self.applying -= 1

    def create_container(self, pod: Any, container: Any) -> None: ...


class Health(Subject):
    """The health, its figures, and their server and file."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="nri")
        self.health = kit.Health()
        self.stub = nri_sync.Stub(
            Plugin(), name="test", idx="10", socket_path="/nonexistent", interceptors=[self.health]
        )
        self.path = Path(self.directory.name)
        self.server = kit.HealthServer(self.health, f"unix://{self.path}/socket")
        self.file = kit.HealthFile(self.health, self.path / "health", interval=LONG)
        self.parts = [self.health, self.health.requests, self.server, self.file]
        self.calls = {
            "report": self.health.report,
            "details": self.health.details,
            "figures": self.health.requests.figures,
            "slowest": self.health.requests.slowest,
            "running": self.health.requests.running,
            "answers": self.health.requests.answers,
            "server.start": self.server.start,
            "server.stop": self.server.stop,
            "file.start": self.file.start,
            "file.beat": self.file.beat,
            "file.stop": self.file.stop,
        }

    def before(self, call: str) -> None:
        if call.endswith(".stop"):
            self.server.start()
            self.file.start()

    def check(self) -> None:
        assert not self.health.report().ready
        for shown, path in ((self.server, "socket"), (self.file, "health")):
            shown.start()
            assert (self.path / path).exists()
            shown.stop()
            assert not (self.path / path).exists()

    def close(self) -> None:
        self.server.stop()
        self.file.stop()
        self.directory.cleanup()


class Server(Subject):
    """Each case stops it."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="nri")
        self.server = ttrpc.Server()
        self.parts = [self.server]
        self.number = 0
        self.calls = {"add_insecure_port": self.add, "start": self.start, "stop": self.stop}

    def add(self) -> None:
        self.number += 1
        with contextlib.suppress(RuntimeError):  # the call stopped it
            self.server.add_insecure_port(f"unix://{self.directory.name}/{self.number}")

    def start(self) -> None:
        with contextlib.suppress(ValueError):  # the call started or stopped it
            self.server.start()

    def stop(self) -> None:
        self.server.stop(None)

    def check(self) -> None:
        # Makes this find a socket of the server in most cases.
        self.add()
        assert self.server.stop(None).wait(LONG)
        eventually(lambda: not os.listdir(self.directory.name), "the removal of all sockets")

    def close(self) -> None:
        assert self.server.stop(None).wait(LONG)
        self.directory.cleanup()


class Fake(Subject):
    def __init__(self) -> None:
        super().__init__()
        self.runtime = testing.FakeRuntime()
        self.ends = contextlib.ExitStack()
        elsewhere(self.enter)
        self.parts = [self.runtime, self.runtime._node]
        self.number = 0
        self.calls = {
            "run_pod": self.run_pod,
            "pods": lambda: self.runtime.pods,
            "plugins": lambda: self.runtime.plugins,
            "containers": lambda: self.runtime.containers,
            "updates": lambda: self.runtime.updates,
            "evictions": lambda: self.runtime.evictions,
            "wait_for": lambda: self.runtime.wait_for(lambda: True),
        }

    def enter(self) -> None:
        self.runtime.start()
        self.ends.enter_context(self.runtime.run_plugin(Plugin()))

    def run_pod(self) -> None:
        self.number += 1
        self.runtime.run_pod(testing.make_pod(f"pod-{self.number}"))

    def check(self) -> None:
        self.run_pod()
        assert f"pod-{self.number}" in {pod.name for pod in self.runtime.pods}
        self.runtime.wait_for(lambda: True)

    def close(self) -> None:
        assert self.runtime.plugins == ("10-test",)
        self.ends.close()
        self.runtime.close()


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "queue": Queue,
    "closed queue": ClosedQueue,
    "background": Background,
    "closed background": ClosedBackground,
    "future": Future,
    "inventory": Inventory,
    "closed store": ClosedStore,
    "config": LiveConfig,
    "health": Health,
    "server": Server,
    "fake runtime": Fake,
}
#: The subjects that need a new object for each case.
ANEW = {"closed queue", "closed background", "future", "closed store", "server"}


def elsewhere(function: Callable[[], Any]) -> None:
    """Run a call on another thread. Raises its exception, or AssertionError if it does not return."""
    failure: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(LONG)
    assert not thread.is_alive(), "another thread is blocked"
    if failure:
        raise failure[0]


@contextmanager
def without_collector() -> Iterator[None]:
    """A finalizer that ran during the call would not be a part of it, and would lose the interrupt."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def run_case(subject: Subject, call: str, event: str, at: int) -> WideStepper:
    def strike() -> None:
        if event == "raise":
            raise KeyboardInterrupt
        for other in subject.calls.values():
            other()

    elsewhere(lambda: subject.before(call))
    stepper = WideStepper(at, strike)
    try:
        with without_collector():
            stepper.run(subject.calls[call])
    except KeyboardInterrupt:
        assert event == "raise"
    else:
        assert event == "reenter" or not stepper.happened, "the interrupt is lost"
    held = subject.held()
    assert not held, f"{held} held"
    elsewhere(subject.check)
    return stepper


def run(name: str, cases: int | None) -> collections.Counter[str]:
    figures: collections.Counter[str] = collections.Counter()
    threads = tasks()
    for call in make_and_close(SUBJECTS[name]):
        for event in ("reenter", "raise"):
            figures[f"{call}: {event}"] = run_cases(name, call, event, cases)
            # The threads of calls on the main thread have ended.
            eventually(lambda: tasks() <= threads, f"the end of all threads of {name}")
    return figures


def run_cases(name: str, call: str, event: str, cases: int | None) -> int:
    """Returns how many there were."""
    subject = SUBJECTS[name]()
    count = 0

    def run_at(at: int) -> WideStepper:
        nonlocal subject
        try:
            stepper = run_case(subject, call, event, at)
        except BaseException as error:
            raise AssertionError(f"{event} at {at} in {call} of {name}") from error
        if name in ANEW:
            elsewhere(subject.close)
            subject = SUBJECTS[name]()
        faulthandler.dump_traceback_later(3 * LONG, exit=True)
        return stepper

    def run_next(at: int) -> bool:
        nonlocal count
        happened = bool(run_at(at).happened)
        count += happened
        return happened

    sample(run_at(sys.maxsize).counted, cases, run_next)
    elsewhere(subject.close)
    return count


def make_and_close(make: Callable[[], Subject]) -> list[str]:
    """The names of the calls."""
    subject = make()
    elsewhere(subject.close)
    return list(subject.calls)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument(
        "--cases", type=int, help="bytecodes of each call, at random; default: each one"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    prepare(arguments.seed)
    faulthandler.dump_traceback_later(3 * LONG, exit=True)
    print(json.dumps(run(arguments.subject, arguments.cases)))


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # a remaining thread may hang
