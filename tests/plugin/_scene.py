"""Shared parts of the tests of the lifecycle: a model that checks every move, a stub for whose
connections the test plays the runtime, and gates that hold a thread at a chosen step.
"""

from __future__ import annotations

import collections
import os
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

import nri_sync
from nri_sync.api import nri_pb2
from nri_sync.plugin.lifecycle import Attempt
from nri_sync.plugin.state import Move, State
from nri_sync.threads import Latch
from tests.plugin.harness import (
    LONG,
    RawRuntime,
    Recorder,
    configuration,
    descriptors,
    eventually,
    frame_of,
)

__all__ = [
    "EVENT",
    "SHORT",
    "SOON",
    "Call",
    "Gate",
    "Make",
    "Model",
    "Scene",
    "handled",
    "held_locks",
    "nothing_left",
    "threads",
]

# Seconds. A step that does not wait may take SOON, on a busy machine; a wait that has to time out gets SHORT.
SOON = 5.0
SHORT = 0.05

#: An event to call the plugin with.
EVENT = "RunPodSandbox"

# The specification, written down again.
_MOVES = {
    (State.IDLE, Move.START, State.STARTING),
    (State.STARTING, Move.CONFIGURED, State.STARTED),
    (State.STARTING, Move.END, State.STOPPING),
    (State.STARTING, Move.ENDED, State.IDLE),
    (State.STARTED, Move.END, State.STOPPING),
    (State.STARTED, Move.ENDED, State.IDLE),
    (State.STOPPING, Move.ENDED, State.IDLE),
}


class Model:
    """Watches the lifecycle of a stub, and notes each wrong move in ``wrong``."""

    def __init__(self, stub: nri_sync.Stub) -> None:
        self.stub = stub
        self.wrong: list[str] = []
        #: Sessions that were lost, and moves made, of each kind.
        self.losses = 0
        self.made: collections.Counter[Move] = collections.Counter()
        #: The attempts that were current last.
        self.attempts: list[Attempt] = []
        self._state = State.IDLE
        self._attempt: Attempt | None = None
        self._move_locked = stub._lifecycle._move_locked
        stub._lifecycle._move_locked = self._watch  # type: ignore[method-assign]

    def _watch(self, move: Move) -> None:
        """Stands in for the method that makes a move; called with the lock."""
        lifecycle = self.stub._lifecycle
        before = lifecycle.state
        self._move_locked(move)
        self.made[move] += 1
        step = (before, move, lifecycle.state)
        if step not in _MOVES or before is not self._state:
            self.wrong.append(f"{step} after {self._state}")
        if move is Move.START:
            assert lifecycle.current is not None
            for attempt in self.attempts:
                if attempt.session is not None and attempt.session.link.is_open:
                    self.wrong.append("a second session, while the sockets of the first are open")
            del self.attempts[:-3]
            self.attempts.append(lifecycle.current)
        elif lifecycle.current is not self._attempt:
            self.wrong.append(f"{step} of another attempt")
        if step == (State.STARTED, Move.ENDED, State.IDLE):
            self.losses += 1
        self._state = lifecycle.state
        self._attempt = None if move is Move.ENDED else lifecycle.current


def threads() -> set[int]:
    """The threads of this process, as the kernel counts them."""
    return {int(name) for name in os.listdir("/proc/self/task")}


@contextmanager
def nothing_left() -> Iterator[None]:
    """Check that no thread and no descriptor outlives the block by more than a moment."""
    before = threads(), descriptors()
    yield
    eventually(lambda: threads() <= before[0], "the end of all threads")
    eventually(lambda: descriptors() <= before[1], "the end of all descriptors")


def held_locks(stub: nri_sync.Stub, attempts: list[Attempt]) -> list[str]:
    """The locks of the stub and its attempts that a thread holds."""
    locks: dict[str, Any] = {
        "lifecycle": stub._lifecycle._changed,
        "tally": stub._spec.tally._lock,
    }
    for number, attempt in enumerate(attempts):
        session = attempt.session
        if session is not None:
            link, client, server = session.link, session.client, session.server
            locks.update(
                {
                    f"{number}: token": link.token._lock,
                    f"{number}: link": link._lock,
                    f"{number}: writing": link.writer._lock,
                    f"{number}: workers": link.workers._lock,
                    f"{number}: timer": link.timer._lock,
                    f"{number}: sending": client._send_lock,
                    f"{number}: client": client._lock,
                    f"{number}: server": server._lock,
                }
            )
    held = []
    for name, lock in locks.items():
        if lock.acquire(timeout=LONG):
            lock.release()
        else:
            held.append(name)
    return held


class Call:
    """A function that runs in a new thread, and its outcome."""

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._function = function
        self._args, self._kwargs = args, kwargs
        self.value: Any = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=f"test-{function.__name__}")
        self.thread.start()

    def _run(self) -> None:
        try:
            self.value = self._function(*self._args, **self._kwargs)
        except BaseException as error:
            self.error = error

    @property
    def done(self) -> bool:
        return not self.thread.is_alive()

    def result(self, within: float = LONG) -> Any:
        """Return the result of the function, or raise its exception."""
        self.thread.join(within)
        assert self.done, f"{self._function.__name__} has not returned within {within} s"
        if self.error is not None:
            raise self.error
        return self.value

    def outcome(self) -> BaseException | None:
        """The exception of the function; ``None`` when it returned."""
        self.thread.join(LONG)
        assert self.done, f"{self._function.__name__} has not returned"
        return self.error

    def settle(self) -> None:
        """Wait until it is done, or waits for something that the stub is to bring about."""
        eventually(lambda: self.done or self._waits(), f"the wait of {self._function.__name__}")

    def _waits(self) -> bool:
        frame = frame_of(self.thread.ident)
        return frame is not None and frame.f_code is Latch.wait.__code__


class Gate:
    """Holds the first thread, or all, that gets to a method of ``owner``, before or after it runs.

    ``owner`` is an object; or a class: then the method of all its objects, until the gate is removed.
    """

    def __init__(self, owner: Any, method: str, when: str, *, first_only: bool = True) -> None:
        self.reached = threading.Event()
        self._go = threading.Event()
        self._first_only = first_only
        self._first = threading.Lock()
        self._owner, self._name, self._when = owner, method, when
        self._method = getattr(owner, method)
        # A class makes methods of functions only.
        by_class = isinstance(owner, type)
        setattr(owner, method, (lambda *args: self._pass(*args)) if by_class else self._pass)

    def _pass(self, *args: Any, **kwargs: Any) -> Any:
        held = not self._first_only or self._first.acquire(blocking=False)
        if held and self._when == "before":
            self._hold()
        value = self._method(*args, **kwargs)
        if held and self._when == "after":
            self._hold()
        return value

    def _hold(self) -> None:
        self.reached.set()
        assert self._go.wait(LONG), f"nobody has opened the gate at {self._name}"

    def wait(self) -> None:
        """Until a thread is held."""
        assert self.reached.wait(LONG), f"nobody came to {self._name}"

    def open(self) -> None:
        self._go.set()

    def remove(self) -> None:
        """Open it, and let all that come later pass by."""
        self.open()
        if isinstance(self._owner, type):
            setattr(self._owner, self._name, self._method)


class Scene:
    """A stub, and the test in the part of the runtime: each connection comes out of :meth:`runtime`."""

    def __init__(self, plugin: Any, **options: Any) -> None:
        self.reasons: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self.closes = 0
        self.then: Callable[[nri_sync.Stub], object] | None = options.pop("on_close", None)
        self.dialed: queue.SimpleQueue[RawRuntime | None] = queue.SimpleQueue()
        self.runtimes: list[RawRuntime] = []
        self._gates: list[Gate] = []
        options.setdefault("dialer", self.dial)
        self.stub = nri_sync.Stub(plugin, name="test", idx="10", on_close=self._on_close, **options)
        self.model = Model(self.stub)

    def dial(self, path: str) -> socket.socket:
        ours, theirs = socket.socketpair()
        self.dialed.put(RawRuntime(theirs))
        return ours

    def _on_close(self, stub: nri_sync.Stub) -> None:
        self.closes += 1
        self.reasons.put(stub.close_reason)
        if self.then is not None:
            self.then(stub)

    def runtime(self) -> RawRuntime:
        """The other end of the next connection."""
        runtime = self.dialed.get(timeout=LONG)
        if runtime is None:
            raise queue.Empty
        self.runtimes.append(runtime)
        return runtime

    def no_more(self) -> None:
        """End the current or next wait in :meth:`runtime`: there are no more connections."""
        self.dialed.put(None)

    def configure(self, runtime: RawRuntime, **fields: Any) -> None:
        """Answer the registration, configure the plugin and take its answer."""
        runtime.accept_registration()
        self.call(runtime, 1, "Configure", configuration(**fields))

    def call(self, runtime: RawRuntime, stream_id: int, method: str, message: Any = None) -> Any:
        """Call the plugin, and take its answer."""
        runtime.call(stream_id, method, message)
        return runtime.response(stream_id)

    def synchronize(self, runtime: RawRuntime) -> None:
        self.call(runtime, 3, "Synchronize", nri_pb2.SynchronizeRequest())

    def up(self) -> RawRuntime:
        """Start a session, and bring it to where it serves."""
        start = Call(self.stub.start)
        runtime = self.runtime()
        self.configure(runtime)
        self.synchronize(runtime)
        start.result()
        return runtime

    def gate(self, method: str, when: str, owner: Any = None, *, first_only: bool = True) -> Gate:
        """Hold the next thread that calls a method of the lifecycle (or of ``owner``)."""
        owner = self.stub._lifecycle if owner is None else owner
        gate = Gate(owner, method, when, first_only=first_only)
        self._gates.append(gate)
        return gate

    def finish(self) -> None:
        """End everything, and check that nothing is left, and that all was as it has to be."""
        for gate in self._gates:
            gate.remove()
        Call(self.stub.stop).result()
        name = self.stub.name
        eventually(
            lambda: not any(thread.name == name for thread in threading.enumerate()),
            "the end of the threads that connect",
        )
        while not self.dialed.empty():
            left = self.dialed.get()
            if left is not None:
                self.runtimes.append(left)
        for runtime in self.runtimes:
            runtime.sock.close()
        eventually(lambda: self.closes == self.model.losses, "on_close for each loss")
        assert self.model.wrong == []
        assert self.stub.state is State.IDLE
        assert self.stub._lifecycle.current is None
        eventually(lambda: not self.stub._conns, "that no connection is left")
        assert held_locks(self.stub, self.model.attempts) == []
        assert Call(self.stub.wait, 0).result() is True


#: The type of the fixture ``scene``.
Make = Callable[..., Scene]


def handled(
    scene: Make, rpc: str, action: Callable[[nri_sync.Stub], object]
) -> tuple[Scene, list[Any]]:
    """A scene in which the handler for ``rpc`` does ``action``, and the list of the outcomes."""
    outcomes: list[Any] = []

    def handler(*_: Any) -> None:
        try:
            outcomes.append(action(it.stub))
        except Exception as error:
            outcomes.append(error)

    it: Scene = scene(Recorder(**{rpc: handler}))
    return it, outcomes
