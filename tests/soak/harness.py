"""Thousands of faults between a plugin and a runtime, with a check of the invariants after each one.

The invariants: every call ends in time; on_close is called once for a lost session, and never after stop(); the
plugin reconnects; no threads, descriptors or memory remain; another plugin of the same runtime is served without
interruption.
"""

from __future__ import annotations

import contextlib
import functools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from nri_sync import Stub, api, errors
from nri_sync.deadline import Deadline
from nri_sync.errors import CallFailed
from nri_sync.testing import Fault, FaultProxy, FaultyConnection
from nri_sync.testing.faults import SENDERS
from nri_sync.threads import Latch
from tests.soak.figures import Figures, Sample, usage
from tests.soak.runtimes import REQUEST_TIMEOUT, RUNTIMES, RequestError, SoakRuntime

__all__ = ["Soak", "Violation", "check_memory", "soaking"]

# The time that a call may take beyond its own timeout, on a busy machine, in seconds.
SLACK = 20.0
# The timeouts of the plugin's calls, in seconds.
START = 1.0
UPDATE = 1.0
# After this time without an answer, most connections are cut, so that the soak continues. In seconds.
IMPATIENCE = 0.15
# One connection in this number is left to the timeouts of the two sides.
PATIENT = 12
# An idle link keeps up to eight threads, and the threads of the other plugin start and end.
SPARE_THREADS = 20
# Faults of one kind are injected in blocks, so that a growth of the memory can be attributed to a kind.
BLOCK = 50

# The growth in bytes that the memory may have after the first quarter, while the allocator's pools fill.
GROWTH = 4 << 20

# Short messages, so that a session has few bytes, and a soak reaches each of them.
_POD = api.PodSandbox(id="pod", name="soak", namespace="default", uid="1", labels={"app": "soak"})
_CONTAINER = api.Container(
    id="container", pod_sandbox_id="pod", name="c", args=["sleep"], env=["A=b"]
)
_UPDATE = api.Update("another").set_cpu(shares=2)


class Violation(AssertionError):
    """An invariant does not hold."""


class Handlers:
    """Adds an annotation with the name of the plugin, and counts the containers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.created = 0
        self.synchronized = Latch()

    def synchronize(self, pods: Sequence[Any], containers: Sequence[Any]) -> None:
        self.synchronized.set()

    def create_container(self, pod: api.PodSandbox, container: api.Container) -> Any:
        self.created += 1
        return api.Adjustment().add_annotation(self.name, container.id)

    def stop_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        pass


class Soak:
    """A runtime, two plugins, and the proxy between the runtime and one of them."""

    def __init__(self, runtime: SoakRuntime, proxy: FaultProxy, direct: str, seed: int) -> None:
        """``direct`` is the runtime's own socket, for the plugin without faults."""
        self.figures: dict[str, Figures] = {}
        self.samples: list[Sample] = []
        #: The errors of starts that failed without a fault, and were repeated.
        self.refusals: list[str] = []
        self._runtime = runtime
        self._proxy = proxy
        self._random = random.Random(seed)
        self._closes = 0
        self._closed = Latch()
        self._handlers = Handlers("faulty")
        self._stub = Stub(
            self._handlers,
            name="faulty",
            idx="50",
            socket_path=proxy.socket_path,
            on_close=self.on_close,
        )
        self._other = Handlers("other")
        # Called before the faulty plugin, whose error would end the request.
        self.other_stub = Stub(self._other, name="other", idx="10", socket_path=direct)
        self._asked = 0
        self._calls = ThreadPoolExecutor(1, "soak-call")
        self._began = time.monotonic()
        self._faults = 0
        self._slowest = 0.0
        self._rest: Sample | None = None
        self._places: dict[str, Iterator[tuple[str, int]]] = {}
        self._carried = dict.fromkeys(SENDERS, 0)

    def open(self) -> None:
        """Start the other plugin, and measure the bytes of a session without faults."""
        self.other_stub.start()
        if not self._runtime.wait_connected("10-other", SLACK):
            raise Violation("the other plugin is not connected")
        for _ in range(3):
            connection = self._proxy.inject()
            self._clean_session()
            self._carried = dict(connection.carried)

    def close(self) -> None:
        self._stub.stop()
        self.other_stub.stop()
        self._calls.shutdown()

    def run(
        self, kinds: Sequence[str], going: Callable[[int], bool], *, block: int = BLOCK
    ) -> None:
        """Inject faults, ``block`` of each kind in turn, while ``going(faults so far)``. Raises Violation."""
        self._sample()
        while going(self._faults):
            for kind in kinds:
                self._block(kind, going, block)

    @property
    def offsets(self) -> int:
        """The number of places at which a fault can strike."""
        return sum(self._carried.values())

    def _block(self, kind: str, going: Callable[[int], bool], block: int) -> None:
        figures = self.figures.setdefault(kind, Figures())
        before = self.samples[-1].resident
        for _ in range(block):
            if not going(self._faults):
                break
            sender, offset = next(self._places.setdefault(kind, self._every_place()))
            fault = Fault.draw(kind, offset, sender, self._random)
            self._faults += 1
            self._slowest = 0.0
            try:
                self._session(fault, figures)
                self._clean_session()
            except Exception as error:
                raise Violation(f"after fault {self._faults}, {fault}: {error!r}") from error
            figures.slowest = max(figures.slowest, self._slowest)
        self._sample()
        figures.growth += self.samples[-1].resident - before

    def _every_place(self) -> Iterator[tuple[str, int]]:
        """Every byte of a session, in both directions, in a random order; repeatedly."""
        places = [(sender, at) for sender in SENDERS for at in range(self._carried[sender])]
        while True:
            self._random.shuffle(places)
            yield from places

    def _session(self, fault: Fault, figures: Figures) -> None:
        closes, self._closed = self._closes, Latch()
        self._handlers.synchronized = Latch()
        connection = self._proxy.inject(fault)
        figures.faults += 1
        try:
            self._call(connection, functools.partial(self._stub.start, START), START)
        except errors.StartError:
            figures.not_started += 1
            self._expect_closes(closes)
        else:
            self._use(connection)
            self._end(connection, closes, figures)
        self._proxy.forget(connection)
        figures.struck += len(connection.struck)
        if connection.carried["plugin"] and not connection.wait_closed(SLACK):
            raise Violation("one side has not closed the connection")

    def _use(self, connection: FaultyConnection) -> None:
        """Send a request in each direction, and one more. With any fault, they must end in time."""
        self._handlers.synchronized.wait(Deadline(IMPATIENCE))
        self._runtime.wait_connected("50-faulty", IMPATIENCE / 10)
        for request in (self._create, self._runtime.stop_container):
            with contextlib.suppress(RequestError):
                ask = functools.partial(request, _POD, _CONTAINER)
                self._call(connection, ask, 2 * REQUEST_TIMEOUT)
        with contextlib.suppress(CallFailed, errors.NRIError):
            update = functools.partial(self._stub.update_containers, [_UPDATE], timeout=UPDATE)
            self._call(connection, update, UPDATE)
        self.expect_other()

    def _create(self, pod: api.PodSandbox, container: api.Container) -> api.ContainerAdjustment:
        self._asked += 1
        return self._runtime.create(pod, container)

    def _call(self, connection: FaultyConnection, call: Callable[[], Any], limit: float) -> Any:
        """The result of a call that must end within its limit."""
        began = time.monotonic()
        future: Future[Any] = self._calls.submit(call)
        if self._random.randrange(PATIENT) and not wait([future], IMPATIENCE).done:
            connection.cut()
        if not wait([future], limit + SLACK).done:
            raise Violation(f"a call has taken more than {limit:g} s and {SLACK:g} s")
        self._slowest = max(self._slowest, time.monotonic() - began)
        return future.result()

    def _end(self, connection: FaultyConnection, closes: int, figures: Figures) -> None:
        """End the session, by a cut or by stop(), unless the fault has ended it."""
        if self._random.random() < 0.5:
            connection.cut()
            if not self._stub.wait(SLACK):
                raise Violation("the session has not ended after the cut")
        else:
            self._stub.stop()
        if self._stub.close_reason is None:
            figures.stopped += 1
            self._expect_closes(closes)
            return
        figures.lost += 1
        if not self._closed.wait(Deadline(SLACK)):
            raise Violation("on_close was not called for a lost session")
        self._expect_closes(closes + 1)

    def _clean_session(self) -> None:
        """Run a session without faults: the plugin reconnects, and stop() ends the session without on_close."""
        closes = self._closes
        self._come_back()
        if not self._runtime.wait_connected("50-faulty", SLACK):
            raise Violation("the plugin has not come back")
        # The runtime may have mistaken the previous session for this one. A request makes it notice the end.
        give_up = time.monotonic() + SLACK
        while not self._is_served():
            if time.monotonic() > give_up:
                raise Violation("the plugin has come back, and gets no requests")
            time.sleep(0.002)
        with contextlib.suppress(RequestError):
            self._runtime.stop_container(_POD, _CONTAINER)
        self._stub.update_containers([_UPDATE], timeout=SLACK)
        self._stub.stop()
        self._expect_closes(closes)
        self.expect_other()

    def _come_back(self) -> None:
        """Start until the runtime accepts the plugin. A Go runtime may close the connection after a broken one."""
        give_up = time.monotonic() + SLACK
        while True:
            try:
                self._stub.start(SLACK)
            except errors.StartError as error:
                self.refusals.append(f"{self._faults}: {error}; {self._runtime.log()}")
                if time.monotonic() > give_up:
                    raise
            else:
                return

    def _is_served(self) -> bool:
        """Send a request to both plugins; whether both have answered."""
        try:
            annotations = self._create(_POD, _CONTAINER).annotations
        except RequestError:
            return False
        return annotations == dict.fromkeys(("other", "faulty"), _CONTAINER.id)

    def _expect_closes(self, number: int) -> None:
        if self._closes != number:
            raise Violation(f"on_close was called {self._closes} times, not {number}")

    def expect_other(self) -> None:
        created, started = self._other.created, self.other_stub.started
        if created != self._asked or not started:
            reason = self.other_stub.close_reason
            raise Violation(
                f"the other plugin has handled {created} of {self._asked} requests; "
                f"started: {started} ({reason}); log of the runtime: {self._runtime.log()}"
            )

    def on_close(self, stub: Stub) -> None:
        self._closes += 1
        self._closed.set()

    def _sample(self) -> None:
        """Take a sample when the threads and descriptors of the last session are gone."""
        give_up = time.monotonic() + SLACK
        while True:
            sample = usage(self._began, self._faults, self._runtime.resident())
            # The previous session may still be closing descriptors at the first sample.
            if self._rest is None or sample.descriptors < self._rest.descriptors:
                self._rest = sample
            too_many = (
                sample.descriptors > self._rest.descriptors
                or sample.threads > self._rest.threads + SPARE_THREADS
            )
            if not too_many:
                break
            if time.monotonic() > give_up:
                raise Violation(f"left behind: {sample} after {self._rest}")
            time.sleep(0.01)
        self.samples.append(sample)


def check_memory(samples: Sequence[Sample]) -> None:
    """Raise Violation if the process, or that of the runtime, has grown in the course of the soak.

    The first quarter of the samples is for warming up, and is ignored. Too few samples are ignored altogether.
    """
    quarter = len(samples) // 4
    if quarter < 4:
        return
    for field in ("resident", "other"):
        taken = [getattr(sample, field) for sample in samples]
        early, late = min(taken[quarter : 2 * quarter]), min(taken[-quarter:])
        if late - early > GROWTH:
            faults = samples[-1].faults - samples[quarter].faults
            raise Violation(f"memory ({field}): {early:,} bytes, {late:,} after {faults:,} faults")


@contextlib.contextmanager
def soaking(runtime: str, directory: Path, seed: int) -> Iterator[Soak]:
    """A soak with a runtime, ``"ours"`` or ``"go"``; sockets are in ``directory``."""
    path = directory / "r"
    with RUNTIMES[runtime](path) as served, FaultProxy(str(path), str(directory / "p")) as proxy:
        soak = Soak(served, proxy, str(path), seed)
        try:
            soak.open()
            yield soak
        finally:
            soak.close()
