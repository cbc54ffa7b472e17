"""Simulates the lifecycle of a pod, event by event, with the answers of plugins."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Callable

from nri_sync.api.nri_pb2 import (
    Container,
    ContainerState,
    ContainerUpdate,
    LinuxResources,
)
from nri_sync.flood import records
from nri_sync.logger import get_logger
from nri_sync.runtime.oci import adjust_spec
from nri_sync.testing.events import InjectCDI, rdt_class
from nri_sync.testing.fake import FakeRuntime
from nri_sync.testing.manifests import Kind, Workload, WorkloadContainer
from nri_sync.testing.manifests.ids import process_id
from nri_sync.testing.result import Result
from nri_sync.testing.simulation.outcomes import (
    calls_of,
    container_report,
    failure_of,
    synchronize_call,
)
from nri_sync.testing.simulation.plugins import Handled, HandlerRecorder
from nri_sync.testing.simulation.report import (
    Event,
    Unsolicited,
    UpdatedContainer,
)
from nri_sync.testing.simulation.resize import Step, growth, resize
from nri_sync.testing.simulation.specs import Specs

__all__ = ["LifecycleSimulator", "Node"]

_RUNTIME_LOG = "nri_sync.runtime"
# The exit code of a process that ignores SIGTERM, as most do as process 1, and is killed finally.
_KILLED = 137


class Node(FakeRuntime):
    """The runtime of a simulation. The report has its warnings."""

    def _warn_of_removals(self, answers: object, made: object) -> None:
        """The runtime has logged these warnings already."""

    def _warn_of_no_effect(self, text: str, stacklevel: int, *, logged: bool = False) -> None:
        if not logged:
            get_logger(_RUNTIME_LOG).warning("%s", text)


class _Warnings(logging.Handler):
    """Collects the warnings of the runtime."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())

    def take(self) -> list[str]:
        """Returns each text once: an adjustment is applied to a container's message, and to its specification."""
        taken, self.texts = self.texts, []
        return list(dict.fromkeys(taken))


class LifecycleSimulator:
    """Takes workloads through their lifecycles on a runtime. Not thread-safe."""

    def __init__(
        self,
        runtime: FakeRuntime,
        *,
        resources: LinuxResources | None = None,
        resize: Mapping[str, Workload] | None = None,
        inject_cdi: InjectCDI | None = None,
        advance: Callable[[], object] = lambda: None,
    ) -> None:
        """
        Args:
            resources: the resources in UpdateContainer; default are the kubelet's for a resize.
            resize: the pods to resize, with their new resources, by ``namespace/name``; by default each pod grows
                to its present resources.
            advance: called for each finished pod and container.
        """
        self.runtime = runtime
        #: The recorders of the plugins, after these have started.
        self.recorders: Sequence[HandlerRecorder] = ()
        self._resources = resources
        self._resize = resize
        self._inject_cdi = inject_cdi
        self._advance = advance
        self._compared = True
        self._specs = Specs()
        self._warnings = _Warnings()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Collect the warnings that the runtime logs in the block, for its events."""
        logger = logging.getLogger(_RUNTIME_LOG)
        logger.addHandler(self._warnings)
        try:
            with records.unlimited():
                yield
        finally:
            logger.removeHandler(self._warnings)

    def add(self, workload: Workload) -> None:
        """Add a workload whose containers already run: plugins receive it by Synchronize."""
        self.runtime.add(workload.pod)
        for item in workload.containers:
            if item.kind is not Kind.INIT:
                running = Container()
                running.CopyFrom(item.container)
                if not running.hooks.ByteSize():
                    running.ClearField("hooks")
                running.state = ContainerState.CONTAINER_RUNNING
                self.runtime.add(running)
                self._specs.put(running.id, workload.pod.name, item.name, item.spec)

    def synchronized(self) -> Event:
        """The answers of plugins to Synchronize."""
        calls, asked = [], []
        for recorder in self.recorders:
            for item in recorder.take_handled():
                if item.event == "Synchronize" and item.response is not None:
                    calls.append(synchronize_call(recorder.name, item))
                    asked.append((recorder.name, list(item.response.update)))
        updates = [
            self._specs.update(update, [(name, [update])])
            for name, wanted in asked
            for update in wanted
        ]
        return Event(
            "Synchronize",
            calls=calls,
            updates=updates,
            unsolicited=self.take_unsolicited(),
            warnings=self._warnings.take(),
        )

    def update(self, update: ContainerUpdate, plugin: str = "") -> UpdatedContainer:
        """The changes by an unsolicited update that the runtime has applied."""
        return self._specs.update(update, [(plugin, [update])])

    def take_unsolicited(self) -> list[Unsolicited]:
        """The unsolicited requests of plugins since the last call."""
        found = []
        for recorder in self.recorders:
            for request in recorder.take_requests():
                asked = [(recorder.name, request.update)]
                updates = [self._specs.update(update, asked) for update in request.update]
                evictions = {item.container_id: item.reason for item in request.evict}
                found.append(Unsolicited(recorder.name, updates, evictions))
        return found

    # Lifecycles

    def life(self, workload: Workload, *, compared: bool = True) -> Iterator[Event]:
        """All events in the lifecycle of a pod, each after its answers.

        Without ``compared``, the events have no specifications, and no changes by updates.

        As with the kubelet, init containers run to their ends, one after the other. The failure of an init
        container ends the pod; that of another container does not. Sidecars are stopped last, in reverse order.
        """
        running = yield from self.begin(workload, compared=compared)
        if running is None:
            return
        yield from self._updates(workload, running)
        yield from self.end(workload, running)

    def begin(
        self, workload: Workload, *, compared: bool = True
    ) -> Generator[Event, None, list[WorkloadContainer] | None]:
        """The events until the pod runs. Returns the running containers; None if the pod has failed."""
        self._compared = compared
        event = self._outcome(self.runtime.run_pod(workload.pod, check=False), workload)
        yield event
        self._advance()
        if event.failure is not None:
            return None
        running: list[WorkloadContainer] = []
        for item in workload.containers:
            has_run = yield from self._begin(workload, item)
            self._advance()
            if has_run and item.kind is not Kind.INIT:
                running.append(item)
            elif not has_run and item.kind in (Kind.INIT, Kind.SIDECAR):
                break
        return running

    def _begin(self, workload: Workload, item: WorkloadContainer) -> Generator[Event, None, bool]:
        """Create and start a container, and end an init container. Returns whether the container has run."""
        id = item.container.id
        event = self._create(workload, item)
        yield event
        if self._state(id) is None:
            return False
        # The namespaces of other containers may refer to that process.
        started = self.runtime.start_container(id, pid=process_id(id), check=False)
        yield self._outcome(started, workload, item)
        if self._state(id) != ContainerState.CONTAINER_RUNNING:
            return False
        if item.kind is Kind.INIT:
            yield self._outcome(self.runtime.stop_container(id, check=False), workload, item)
        return True

    def _state(self, id: str) -> int | None:
        """The state of a container; None if it does not exist."""
        try:
            return self.runtime.container(id).state
        except ValueError:
            return None

    def _updates(self, workload: Workload, running: Sequence[WorkloadContainer]) -> Iterator[Event]:
        for step in self._steps(workload, running):
            if step.container is None:
                overhead = workload.pod.linux.pod_overhead
                result = self.runtime.update_pod(
                    workload.pod, overhead, step.resources, check=False
                )
                yield self._outcome(result, workload)
            else:
                container = step.container.container
                result = self.runtime.update_container(container, step.resources, check=False)
                yield self._outcome(result, workload, step.container, requested=step.resources)

    def _steps(self, workload: Workload, running: Sequence[WorkloadContainer]) -> Iterable[Step]:
        if self._resources is not None:
            resources = workload.resized or workload.pod.linux.pod_resources
            return [Step(resources), *(Step(self._wanted(item), item) for item in running)]
        if self._resize is None:
            return growth(workload, running, self._wanted)
        target = self._resize.get(workload.name)
        return () if target is None else resize(workload, target, running)

    def _wanted(self, item: WorkloadContainer) -> LinuxResources:
        """The resources in UpdateContainer."""
        if self._resources is not None:
            return self._resources
        return item.resized or _present(self.runtime.container(item.container))

    def end(self, workload: Workload, running: Sequence[WorkloadContainer]) -> Iterator[Event]:
        """The events from the stop of the pod's containers to its removal."""
        ordinary = [item for item in running if item.kind is not Kind.SIDECAR]
        sidecars = [item for item in running if item.kind is Kind.SIDECAR]
        for item in [*ordinary, *reversed(sidecars)]:
            result = self.runtime.stop_container(item.container, _KILLED, check=False)
            yield self._outcome(result, workload, item)
        yield self._outcome(self.runtime.stop_pod(workload.pod, check=False), workload)
        for item in workload.containers:
            if self._state(item.container.id) is not None:
                result = self.runtime.remove_container(item.container, check=False)
                yield self._outcome(result, workload, item)
                self._specs.remove(item.container.id)
        yield self._outcome(self.runtime.remove_pod(workload.pod, check=False), workload)

    # Events

    def _create(self, workload: Workload, item: WorkloadContainer) -> Event:
        result = self.runtime.create_container(workload.pod, item.container, check=False)
        event = self._outcome(result, workload, item)
        if not self._compared:
            return event
        after: Mapping[str, Any] | None = None
        # The container exists even if a later event of its creation has failed.
        if self._state(item.container.id) is not None:
            after = self._adjusted(item, result)
            event.warnings = list(dict.fromkeys([*event.warnings, *self._warnings.take()]))
        event.created = container_report(item, result, after)
        if after is not None:
            self._specs.put(item.container.id, workload.pod.name, item.name, after)
        return event

    def _adjusted(self, item: WorkloadContainer, result: Result) -> dict[str, Any]:
        return adjust_spec(
            item.spec, result.adjustment, inject_cdi=self._inject_cdi, resolve_rdt=rdt_class
        )

    def _outcome(
        self,
        result: Result,
        workload: Workload,
        item: WorkloadContainer | None = None,
        *,
        requested: LinuxResources | None = None,
    ) -> Event:
        """The outcome of an event."""
        handled = {recorder.name: recorder.take_handled() for recorder in self.recorders}
        event = Event(result.event, pod=workload.pod.name)
        if item is not None:
            event.container, event.id, event.kind = item.name, item.container.id, item.kind.value
        event.calls = calls_of(result, handled)
        event.failure = failure_of(result.error, event.calls)
        # The answer may repeat an earlier request of the plugin, so apply the unsolicited requests first.
        event.unsolicited = self.take_unsolicited()
        event.updates = self._updated(result, handled, item, requested)
        event.warnings = self._warnings.take()
        return event

    def _updated(
        self,
        result: Result,
        handled: Mapping[str, Sequence[Handled]],
        item: WorkloadContainer | None,
        requested: LinuxResources | None,
    ) -> list[UpdatedContainer]:
        if result.error is not None or not self._compared:
            return []
        asked = [
            (name, list(entry.response.update))
            for name, entries in handled.items()
            for entry in entries
            if hasattr(entry.response, "update")
        ]
        updates = list(result.updates)
        if item is not None and requested is not None:
            known = {update.container_id for update in updates}
            if item.container.id not in known:
                update = ContainerUpdate(container_id=item.container.id)
                update.linux.resources.CopyFrom(requested)
                updates.append(update)
        return [self._specs.update(update, asked) for update in updates]


def _present(container: Container) -> LinuxResources:
    """The resources of a container that the kubelet sets in an update."""
    has = container.linux.resources
    wanted = LinuxResources(hugepage_limits=has.hugepage_limits, unified=has.unified)
    wanted.cpu.CopyFrom(has.cpu)
    if has.memory.HasField("limit"):
        wanted.memory.limit.CopyFrom(has.memory.limit)
    return wanted
