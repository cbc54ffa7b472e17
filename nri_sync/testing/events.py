"""The events of pods and containers, sent to plugins in the order of containerd."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Callable

import grpc

from nri_sync.api.nri_pb2 import (
    Container,
    ContainerAdjustment,
    ContainerState,
    ContainerUpdate,
    CreateContainerResponse,
    LinuxResources,
    PodSandbox,
)
from nri_sync.api.runtimes import RuntimeFacts
from nri_sync.errors import (
    ConflictError,
    NRIError,
    RequestFailed,
    RequestTimeout,
    SpecError,
    ValidationRejected,
)
from nri_sync.runtime.oci_container import adjust_container, container_to_oci
from nri_sync.testing.builders import new_pid
from nri_sync.testing.common import WITHIN
from nri_sync.testing.embedded import Embedded, Recorder
from nri_sync.testing.node import Node, set_resources
from nri_sync.testing.refusals import possible, refuse_adjustments, refuse_updates
from nri_sync.testing.removals import NoEffectWarning, ineffective_removals
from nri_sync.testing.result import Answer, Result, merge

__all__ = ["Events", "InjectCDI", "rdt_class"]

#: Changes a specification in place for CDI devices, by their names.
InjectCDI = Callable[[dict[str, Any], list[str]], object]

# The exit code of a container that could not be started (``errorStartExitCode`` in containerd).
_START_FAILED = 128
# How plugins can make an event fail; all else is a mistake of the test.
_FAILURES = (RequestFailed, ConflictError, ValidationRejected, RequestTimeout, SpecError)


class _Event:
    """One event, or a few that belong together: the answers, and the first failure. A context manager."""

    def __init__(
        self,
        name: str,
        check: bool,
        explain: Callable[[RequestFailed], object],
        look_at: Callable[[Sequence[Answer]], object],
        *around: Any,
    ) -> None:
        """``around`` are context managers; the last one yields the list of answers. ``look_at`` is called with
        that at the end.
        """
        self._name = name
        self._check = check
        self._explain = explain
        self._look_at = look_at
        self._around = around
        self._entered = ExitStack()
        #: The answers of plugins so far.
        self.answers: list[Answer] = []
        #: The value that the last call of tell() has returned.
        self.reply: Any = None
        self.error: NRIError | None = None

    def __enter__(self) -> _Event:
        with ExitStack() as entered:
            for context in self._around:
                self.answers = entered.enter_context(context)
            self._entered = entered.pop_all()
        return self

    def __exit__(self, kind: object, *_exc_info: object) -> None:
        """Raise the error that has failed the event, if the caller checks it."""
        # Of a test that fails by it, pytest shows the handler's frames and the test's.
        __tracebackhide__ = True
        self._entered.close()
        self._look_at(self.answers)
        if kind is None and self._check and self.error is not None:
            raise self.error.with_traceback(None)

    def tell(self, call: Callable[..., Any], *arguments: Any) -> bool:
        """Call a method of the Runtime, or another function that can fail the event; False if it fails."""
        self.reply = None
        try:
            self.reply = call(*arguments)
        except _FAILURES as error:
            if self.error is None:
                self.error = error
                if isinstance(error, RequestFailed):
                    self._explain(error)
            return False
        return True

    def result(self, pod: PodSandbox, container: Container | None = None, **more: Any) -> Result:
        return Result(self._name, pod, container, answers=self.answers, error=self.error, **more)


class Events:
    """The methods of a runtime that send events, and keep the resulting pods and containers."""

    #: The NRI release that it acts as.
    nri_version: str
    #: The facts about the release that it acts as.
    facts: RuntimeFacts

    def __init__(self, node: Node, recorder: Recorder, inject_cdi: InjectCDI | None) -> None:
        self._node = node
        self._recorder = recorder
        self._inject_cdi = inject_cdi

    def _started(self) -> Embedded:
        """The runtime side. Raises RuntimeStopped where there is none."""
        raise NotImplementedError

    def _settle(self) -> None:
        """Block until plugins that have left are not asked any more."""
        raise NotImplementedError

    def _raised(self, plugin: str, rpc: str) -> BaseException | None:
        """The exception that a handler of a plugin has raised; each is returned once."""
        raise NotImplementedError

    def _event(self, name: str, check: bool) -> tuple[_Event, Embedded]:
        runtime = self._started()
        self._settle()
        around = runtime.block_plugin_sync(WITHIN), self._recorder.answers()
        return _Event(name, check, self._explain, self._warn_of_ignored, *around), runtime

    def _warn_of_ignored(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            for field in answer.ignored:
                text = f"plugin {answer.plugin}: {field} has no effect: NRI {self.nri_version} does not know it"
                # The caller of the method that tells of the event.
                self._warn_of_no_effect(text, 4, logged=True)
            if answer.adjustment is not None:
                for field, reason in self.facts.without_effect(answer.adjustment).items():
                    text = f"plugin {answer.plugin}: {field} has no effect: {reason}"
                    # What becomes of memory is logged where the adjustment is applied.
                    self._warn_of_no_effect(text, 4, logged=".memory." in field)

    def _warn_of_no_effect(self, text: str, stacklevel: int, *, logged: bool = False) -> None:
        """``logged``: the runtime has logged it."""
        warnings.warn(text, NoEffectWarning, stacklevel=stacklevel + 1)

    def _explain(self, failed: RequestFailed) -> None:
        """Make the exception in the plugin the cause of the failure."""
        error = self._raised(failed.plugin, failed.event)
        if error is not None and isinstance(failed.__cause__, grpc.RpcError):
            failed.__cause__ = error.with_traceback(_from_handler(error.__traceback__))

    def _apply(self, updates: Iterable[ContainerUpdate]) -> None:
        for update in possible(updates):
            self._node.update(update)

    def _applied(self, updates: Sequence[ContainerUpdate]) -> None:
        """Apply updates. Raises SpecError, and applies none, when a runtime could not apply one."""
        refuse_updates(updates)
        self._apply(updates)

    # Pods

    def add(self, *items: PodSandbox | Container) -> None:
        """Add pods and containers without an event: plugins see them when they are synchronized.

        Raises ValueError for an id that is taken, and for a container whose pod is not there yet.
        """
        for item in items:
            self._node.new(item)
            self._node.put(item)

    def run_pod(self, pod: PodSandbox, *, check: bool = True) -> Result:
        """RunPodSandbox. If a plugin fails it, RemovePodSandbox follows, and the pod is not there."""
        self._node.new(pod)
        __tracebackhide__ = True
        telling, runtime = self._event("RunPodSandbox", check)
        with telling as event:
            if event.tell(runtime.run_pod_sandbox, pod):
                self._node.put(pod)
            else:
                # Its error does not count.
                event.tell(runtime.remove_pod_sandbox, pod)
            return event.result(pod)

    def update_pod(
        self,
        pod: PodSandbox | str,
        overhead: LinuxResources | None = None,
        resources: LinuxResources | None = None,
        *,
        check: bool = True,
    ) -> Result:
        """UpdatePodSandbox, then PostUpdatePodSandbox."""
        pod = self._node.pod(pod)
        __tracebackhide__ = True
        telling, runtime = self._event("UpdatePodSandbox", check)
        with telling as event:
            if event.tell(runtime.update_pod_sandbox, pod, overhead, resources):
                if overhead is not None:
                    set_resources(pod.linux.pod_overhead, overhead)
                if resources is not None:
                    set_resources(pod.linux.pod_resources, resources)
                self._node.put(pod)
                event.tell(runtime.post_update_pod_sandbox, pod)
            return event.result(pod)

    def stop_pod(self, pod: PodSandbox | str, *, check: bool = True) -> Result:
        """:meth:`stop_container` for each container, then StopPodSandbox, unless it is stopped already.

        Errors do not keep it from going on.
        """
        pod = self._node.pod(pod)
        __tracebackhide__ = True
        telling, runtime = self._event("StopPodSandbox", check)
        with telling as event:
            self._stop_pod(event, runtime, pod)
            return event.result(pod)

    def remove_pod(self, pod: PodSandbox | str, *, check: bool = True) -> Result:
        """:meth:`stop_pod`, :meth:`remove_container` for each container, then RemovePodSandbox.

        Errors do not keep it from going on.
        """
        pod = self._node.pod(pod)
        __tracebackhide__ = True
        telling, runtime = self._event("RemovePodSandbox", check)
        with telling as event:
            self._stop_pod(event, runtime, pod)
            for container in self._node.containers_of(pod):
                self._remove(event, runtime, pod, container)
            event.tell(runtime.remove_pod_sandbox, pod)
            self._node.remove(pod)
            return event.result(pod)

    # Containers

    def create_container(
        self, pod: PodSandbox | str, container: Container, *, check: bool = True
    ) -> Result:
        """CreateContainer, then PostCreateContainer with the container that a runtime makes of the answers.

        From then on the container has the settings of its OCI specification, as with containerd and CRI-O. A
        setting that merging or the specification loses (docs/merging.md) is not in it. If a plugin fails the
        event, or the specification cannot be made, StopContainer and RemoveContainer follow, and there is no
        container.

        A removal without an effect is a :class:`NoEffectWarning`, by way of :mod:`warnings`.
        """
        pod = self._node.pod(pod)
        if container.pod_sandbox_id != pod.id:
            raise ValueError(
                f"container {container.name!r} belongs to pod {container.pod_sandbox_id!r}, "
                f"not to {pod.name!r}, whose id is {pod.id!r}"
            )
        self._node.new(container)
        __tracebackhide__ = True
        telling, runtime = self._event("CreateContainer", check)
        with telling as event:
            event.tell(runtime.create_container, pod, container)
            reply = event.reply
            answers = [item for item in event.answers if item.event == "CreateContainer"]
            adjusted, owners = merge(pod, container, answers)
            if reply is not None and event.tell(self._made, container, reply, answers):
                adjusted = event.reply
                self._node.put(adjusted)
                self._apply(reply.update)
                event.tell(runtime.post_create_container, pod, adjusted)
            else:
                # Errors of these two do not count.
                event.tell(runtime.stop_container, pod, container)
                event.tell(runtime.remove_container, pod, container)
            result = event.result(pod, adjusted, reply=reply, owners=owners)
        if self._node.has(container):
            self._warn_of_removals(answers, adjusted)
        return result

    def _made(
        self, container: Container, reply: CreateContainerResponse, answers: Iterable[Answer]
    ) -> Container:
        """The container that a runtime makes. Raises SpecError if it can make none."""
        refuse_adjustments(answers)
        refuse_updates(reply.update)
        adjust = ContainerAdjustment()
        adjust.CopyFrom(reply.adjust)
        self.facts.without_effect(adjust, clear=True)
        made = adjust_container(
            container, adjust, inject_cdi=self._inject_cdi, resolve_rdt=rdt_class
        )
        made.state = ContainerState.CONTAINER_CREATED
        made.created_at = time.time_ns()
        return made

    def _warn_of_removals(self, answers: Iterable[Answer], made: Container) -> None:
        asked = [(item.plugin, item.adjustment) for item in answers if item.adjustment is not None]
        for text in ineffective_removals(asked, container_to_oci(made)):
            # The caller of create_container().
            warnings.warn(text, NoEffectWarning, stacklevel=3)

    def start_container(self, container: Container | str, *, check: bool = True) -> Result:
        """StartContainer, then PostStartContainer. If a plugin fails it, StopContainer follows."""
        pod, container = self._pod_and(container)
        __tracebackhide__ = True
        telling, runtime = self._event("StartContainer", check)
        with telling as event:
            container.pid = new_pid()
            if event.tell(runtime.start_container, pod, container):
                container.state = ContainerState.CONTAINER_RUNNING
                container.started_at = time.time_ns()
                self._node.put(container)
                event.tell(runtime.post_start_container, pod, container)
            else:
                self._stop(event, runtime, pod, container, _START_FAILED)
            return event.result(pod, container)

    def update_container(
        self,
        container: Container | str,
        resources: LinuxResources | None = None,
        *,
        check: bool = True,
    ) -> Result:
        """UpdateContainer, then PostUpdateContainer. The updates of plugins go before ``resources``."""
        pod, container = self._pod_and(container)
        __tracebackhide__ = True
        telling, runtime = self._event("UpdateContainer", check)
        with telling as event:
            updated = event.tell(runtime.update_container, pod, container, resources)
            updates = list(event.reply.update) if updated else []
            if updated:
                wanted = ContainerUpdate(container_id=container.id)
                if resources is not None:
                    wanted.linux.resources.CopyFrom(resources)
                # Where plugins have changed it, it is among their updates as a whole.
                if event.tell(self._applied, [wanted, *updates]):
                    container = self._node.container(container)
                    event.tell(runtime.post_update_container, pod, container)
            return event.result(pod, container, updates=updates)

    def stop_container(
        self, container: Container | str, exit_code: int = 0, *, check: bool = True
    ) -> Result:
        """StopContainer; the container stops also if plugins fail. One that has stopped sends no event.

        As from containerd, which calls after the stop: the state is CONTAINER_STOPPED, ``exit_code`` and the time
        are set, and the process id is still there.
        """
        pod, container = self._pod_and(container)
        __tracebackhide__ = True
        telling, runtime = self._event("StopContainer", check)
        with telling as event:
            updates = self._stop(event, runtime, pod, container, exit_code)
            return event.result(pod, container, updates=updates)

    def remove_container(self, container: Container | str, *, check: bool = True) -> Result:
        """StopContainer, if it is not stopped, then RemoveContainer; errors of plugins do not keep the container.

        As from containerd, the state is then CONTAINER_UNKNOWN, which is 0, and there is no process id.
        """
        pod, container = self._pod_and(container)
        __tracebackhide__ = True
        telling, runtime = self._event("RemoveContainer", check)
        with telling as event:
            updates = self._remove(event, runtime, pod, container)
            return event.result(pod, container, updates=updates)

    def _pod_and(self, container: Container | str) -> tuple[PodSandbox, Container]:
        known = self._node.container(container)
        return self._node.pod(known.pod_sandbox_id), known

    def _stop_pod(self, event: _Event, runtime: Embedded, pod: PodSandbox) -> None:
        for container in self._node.containers_of(pod):
            self._stop(event, runtime, pod, container)
        if self._node.stop(pod):
            pod.pid = 0
            event.tell(runtime.stop_pod_sandbox, pod)
            # Torn down then, and left out from then on.
            namespaces = [item for item in pod.linux.namespaces if item.type != "network"]
            del pod.linux.namespaces[:]
            pod.linux.namespaces.extend(namespaces)
            self._node.put(pod)

    def _stop(
        self,
        event: _Event,
        runtime: Embedded,
        pod: PodSandbox,
        container: Container,
        exit_code: int = 0,
    ) -> list[ContainerUpdate]:
        if container.state == ContainerState.CONTAINER_STOPPED:
            return []
        updates: list[ContainerUpdate] = []
        if container.state in (ContainerState.CONTAINER_RUNNING, ContainerState.CONTAINER_PAUSED):
            # containerd sends StopContainer when the process has exited (``NotifyContainerExit``).
            container.state = ContainerState.CONTAINER_STOPPED
            container.exit_code = exit_code
            container.finished_at = time.time_ns()
        if event.tell(runtime.stop_container, pod, container):
            updates = list(event.reply.update)
            event.tell(self._applied, updates)
        container.state = ContainerState.CONTAINER_STOPPED
        container.pid = 0
        container.exit_code = exit_code
        container.finished_at = container.finished_at or time.time_ns()
        self._node.put(container)
        return updates

    def _remove(
        self, event: _Event, runtime: Embedded, pod: PodSandbox, container: Container
    ) -> list[ContainerUpdate]:
        updates = self._stop(event, runtime, pod, container)
        removed = Container()
        removed.CopyFrom(container)
        # A container that has exited has no state in NRI (``GetStatus`` in ``internal/cri/nri``).
        removed.state = ContainerState.CONTAINER_UNKNOWN
        event.tell(runtime.remove_container, pod, removed)
        self._node.remove(container)
        return updates


def rdt_class(name: str) -> dict[str, Any] | None:
    """The ``intelRdt`` of a class, as containerd resolves it: the class names the group of the kernel."""
    return {"closID": name} if name else None


def _from_handler(traceback: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames of this package at its beginning; all of it if there are no others."""
    rest = traceback
    while rest is not None and rest.tb_frame.f_globals.get("__name__", "").startswith("nri_sync."):
        rest = rest.tb_next
    return rest or traceback
