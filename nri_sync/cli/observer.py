"""The plugin of ``nri-sync events``: it queues events for the thread that prints them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Callable

from google.protobuf.json_format import MessageToDict

import nri_sync
from nri_sync.api import Container, EventMask, PodSandbox
from nri_sync.api.handlers import HANDLERS, Handler
from nri_sync.deadline import Deadline
from nri_sync.errors import NRIError
from nri_sync.threads import Latch, off_main, spawn

__all__ = ["QUEUE_MAX", "Observation", "Observer", "StubThread"]

# The maximum number of queued observations. The queue is bounded and handlers never wait for it, so that a stopped
# terminal cannot delay the containers of the node.
QUEUE_MAX = 10_000
_EVENTS = [
    handler
    for handler in HANDLERS
    if handler.event and handler.name != "validate_container_adjustment"
]
_ALL_EVENTS = EventMask.of(*(handler.event for handler in _EVENTS))


@dataclass
class Observation:
    """An event of a pod or container, or a change of the connection."""

    event: str
    pod: PodSandbox | None = None
    container: Container | None = None
    note: str = ""
    at: float = field(default_factory=time.time)

    def as_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "time": datetime.fromtimestamp(self.at).astimezone().isoformat(timespec="milliseconds"),
            "event": self.event,
        }
        if self.note:
            values["note"] = self.note
        if self.pod is not None:
            values["pod"] = _plain(self.pod)
        if self.container is not None:
            values["container"] = _plain(self.container)
        return values


def _plain(message: Any) -> Any:
    return MessageToDict(message, preserving_proto_field_name=True)


class Observer:
    """A plugin that requests no changes, and queues its events as observations for another thread.

    The main thread takes observations without a lock: if an interrupt came while it held one, the lock would stay
    locked, and the handlers would wait for ever.
    """

    def __init__(
        self,
        events: EventMask,
        selector: Callable[[PodSandbox], bool],
        *,
        queue_max: int = QUEUE_MAX,
    ) -> None:
        """``queue_max`` is the greatest number of observations that wait; further ones are counted."""
        self._events, self._selector = events & _ALL_EVENTS, selector
        self._queue_max = queue_max
        self._queue: deque[Observation] = deque()
        self._closed = False
        # A handler sets the latch after it has queued an observation. wait() replaces the latch first.
        self._changed = Latch()
        # Serialises the threads that queue.
        self._lock = threading.Lock()
        self._dropped = 0

    def configure(self, config: str, runtime: str, version: str) -> EventMask:
        self.note("connected", f"to {runtime} {version}")
        return self._events

    def synchronize(self, pods: Sequence[PodSandbox], containers: Sequence[Container]) -> None:
        by_id = {pod.id: pod for pod in pods}
        for pod in pods:
            self._observe("Synchronize", pod, None)
        for container in containers:
            pod = by_id.get(container.pod_sandbox_id, PodSandbox(id=container.pod_sandbox_id))
            self._observe("Synchronize", pod, container)

    def _observe(self, event: str, pod: PodSandbox, container: Container | None) -> None:
        if self._selector(pod):
            self._queue_up(Observation(event, pod, container))

    def note(self, event: str, note: str) -> None:
        """Queue a note about the connection."""
        self._queue_up(Observation(event, note=note))

    def close(self) -> None:
        """Mark the end: the observer queues no more observations."""
        with self._lock:
            self._report_dropped_locked()
            self._closed = True
        self._changed.set()

    def _queue_up(self, observation: Observation) -> None:
        with self._lock:
            if len(self._queue) >= self._queue_max:
                self._dropped += 1
                return
            self._report_dropped_locked()
            self._queue.append(observation)
        self._changed.set()

    def _report_dropped_locked(self) -> None:
        assert self._lock.locked()
        if self._dropped:
            note = f"{self._dropped} events dropped: they came faster than they could be printed"
            self._queue.append(Observation("lost", note=note))
            self._dropped = 0

    def __iter__(self) -> Iterator[Observation]:
        while self.wait():
            yield from self.take()

    def take(self) -> Iterator[Observation]:
        """The queued observations, without waiting."""
        while self._queue:
            yield self._queue.popleft()

    def wait(self, seconds: float | None = None) -> bool:
        """Block until there is an observation, or for ``seconds``. False: the observer is closed and empty."""
        # First publish the latch, then look at the queue: handlers do both in the reverse order, so that wait()
        # misses no observation.
        self._changed = changed = Latch()
        if not (self._queue or self._closed):
            changed.wait(Deadline(seconds))
        return not self._closed or bool(self._queue)


def _handler(handler: Handler) -> Any:
    def handle(self: Observer, pod: PodSandbox, *rest: Any) -> None:
        container = rest[0] if rest and isinstance(rest[0], Container) else None
        self._observe(handler.rpc, pod, container)

    return handle


for _event in _EVENTS:
    setattr(Observer, _event.name, _handler(_event))


class StubThread:
    """Keeps the stub connected, on a separate thread."""

    def __init__(self, stub: nri_sync.Stub, observer: Observer, *, reconnect: bool) -> None:
        self.stub = stub
        #: The error that has ended the connection for good.
        self.error: NRIError | None = None
        self._observer = observer
        self._reconnect = reconnect
        self._stopping = threading.Event()
        self._ended = Latch()

    def start(self) -> None:
        spawn("events", self._run)

    def _run(self) -> None:
        try:
            nri_sync.run_forever(
                self.stub,
                stop_event=self._stopping,
                fail_fast=True,
                on_disconnected=self._disconnected,
            )
        except NRIError as error:
            self.error = error
        finally:
            self._observer.close()
            self._ended.set()

    def _disconnected(self, stub: nri_sync.Stub, reason: NRIError) -> None:
        if not self._reconnect:
            raise reason
        self._observer.note("disconnected", str(reason))

    def end(self) -> None:
        """Stop the stub. Blocks until the thread has ended."""
        # Event.set() takes a lock, which an interrupt must not leave locked: hence another thread.
        off_main("events-end", self._stopping.set)
        self.stub.stop()
        self._ended.wait()
