"""The events of pods and containers, sent to plugins in the order of containerd."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Callable

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
from nri_sync.errors import CallFailed, RequestFailed
from nri_sync.runtime.oci_container import adjust_container, container_to_oci
from nri_sync.testing.builders import new_pid
from nri_sync.testing.common import WITHIN
from nri_sync.testing.embedded import AnswerRecorder, Embedded
from nri_sync.testing.node import Node
from nri_sync.testing.refusals import possible, refuse_adjustments, refuse_updates
from nri_sync.testing.removals import NoEffectWarning, ineffective_removals
from nri_sync.testing.result import Answer, Result, merge
from nri_sync.testing.runtime_traits import RuntimeTraits
from nri_sync.testing.sent_event import SentEvent, from_handler

__all__ = ["Events", "InjectCDI", "rdt_class"]

#: Changes a specification in place for CDI devices, given by name.
InjectCDI = Callable[[dict[str, Any], list[str]], object]

# The exit code of a container that could not start (``errorStartExitCode`` in containerd).
_START_FAILED = 128


class Events:
    """The methods of a runtime that send events, and keep the resulting pods and containers."""

    #: The NRI release to act as.
    nri_version: str
    #: The facts about that release.
    facts: RuntimeFacts
    #: The values in its messages.
    traits: RuntimeTraits

    def __init__(self, node: Node, recorder: AnswerRecorder, inject_cdi: InjectCDI | None) -> None:
        self._node = node
        self._recorder = recorder
        self._inject_cdi = inject_cdi

    def _started(self) -> Embedded:
        """The runtime side. Raises RuntimeStopped if it has not been started."""
        raise NotImplementedError

    def _settle(self) -> None:
        """Block until the runtime has dropped plugins that have disconnected."""
        raise NotImplementedError

    def _raised(self, plugin: str, rpc: str) -> BaseException | None:
        """An exception that a handler of the plugin has raised. Each call returns another one."""
        raise NotImplementedError

    def _event(self, name: str, check: bool) -> tuple[SentEvent, Embedded]:
        runtime = self._started()
        self._settle()
        around = runtime.block_plugin_sync(WITHIN), self._recorder.answers()
        return SentEvent(name, check, self._explain, self._warn_of_ignored, *around), runtime

    def _warn_of_ignored(self, answers: Iterable[Answer]) -> None:
        for answer in answers:
            for field in answer.ignored:
                text = f"plugin {answer.plugin}: {field} has no effect: NRI {self.nri_version} does not know it"
                # Level 4 is the caller of the method that sends the event.
                self._warn_of_no_effect(text, 4, logged=True)
            if answer.adjustment is not None:
                for field, reason in self.facts.without_effect(answer.adjustment).items():
                    text = f"plugin {answer.plugin}: {field} has no effect: {reason}"
                    # The code that applies the adjustment logs the memory fields.
                    self._warn_of_no_effect(text, 4, logged=".memory." in field)

    def _warn_of_no_effect(self, text: str, stacklevel: int, *, logged: bool = False) -> None:
        """Warn of a field without an effect. ``logged``: the runtime has logged it already."""
        warnings.warn(text, NoEffectWarning, stacklevel=stacklevel + 1)

    def _explain(self, failed: RequestFailed) -> None:
        """Set the exception of the plugin's handler as the cause of the failure."""
        error = self._raised(failed.plugin, failed.event)
        if error is not None and isinstance(failed.__cause__, CallFailed):
            failed.__cause__ = error.with_traceback(from_handler(error.__traceback__))

    def _apply(self, updates: Iterable[ContainerUpdate]) -> None:
        for update in possible(updates):
            self._node.update(update)

    def _applied(self, updates: Sequence[ContainerUpdate]) -> None:
        """Apply updates. Raises SpecError, and applies none, if a runtime could not apply one."""
        refuse_updates(updates)
        self._apply(updates)

    # Pods

    def add(self, *items: PodSandbox | Container) -> None:
        """Add pods and containers without an event: plugins receive them by Synchronize.

        Raises ValueError for an id that is taken, and for a container without its pod.
        """
        for item in items:
            self._node.new(item)
            self._node.put(item)

    def run_pod(self, pod: PodSandbox, *, check: bool = True) -> Result:
        """RunPodSandbox. If a plugin fails it, RemovePodSandbox follows, and the pod does not exist."""
        self._node.new(pod)
        __tracebackhide__ = True
        sending, runtime = self._event("RunPodSandbox", check)
        with sending as event:
            if event.send(runtime.run_pod_sandbox, pod):
                self._node.put(pod)
            else:
                # An error of this event is ignored.
                event.send(runtime.remove_pod_sandbox, pod)
            return event.result(pod)

    def update_pod(
        self,
        pod: PodSandbox | str,
        overhead: LinuxResources | None = None,
        resources: LinuxResources | None = None,
        *,
        check: bool = True,
    ) -> Result:
        """UpdatePodSandbox, then PostUpdatePodSandbox.

        The pod stays as it is: messages of containerd and CRI-O have the resources that it was made with.
        """
        pod = self._node.pod(pod)
        __tracebackhide__ = True
        sending, runtime = self._event("UpdatePodSandbox", check)
        with sending as event:
            if event.send(runtime.update_pod_sandbox, pod, overhead, resources):
                event.send(runtime.post_update_pod_sandbox, pod)
            return event.result(pod)

    def stop_pod(self, pod: PodSandbox | str, *, check: bool = True) -> Result:
        """:meth:`stop_container` for each container, then StopPodSandbox, unless the pod is stopped already.

        Errors of plugins do not stop the sequence.
        """
        pod = self._node.pod(pod)
        __tracebackhide__ = True
        sending, runtime = self._event("StopPodSandbox", check)
        with sending as event:
            self._stop_pod(event, runtime, pod)
            return event.result(pod)

    def remove_pod(self, pod: PodSandbox | str, *, check: bool = True) -> Result:
        """:meth:`stop_pod`, :meth:`remove_container` for each container, then RemovePodSandbox.

        Errors of plugins do not stop the sequence.
        """
        pod = self._node.pod(pod)
        __tracebackhide__ = True
        sending, runtime = self._event("RemovePodSandbox", check)
        with sending as event:
            self._stop_pod(event, runtime, pod)
            for container in self._node.containers_of(pod):
                self._remove(event, runtime, pod, container)
            event.send(runtime.remove_pod_sandbox, pod)
            self._node.remove(pod)
            return event.result(pod)

    # Containers

    def create_container(
        self, pod: PodSandbox | str, container: Container, *, check: bool = True
    ) -> Result:
        """CreateContainer, then PostCreateContainer with the container that a runtime makes from the answers.

        The container then has the settings of its OCI specification, as with containerd and CRI-O. It lacks the
        settings that merging or the specification loses (docs/merging.md). If a plugin fails the event, or the
        specification is impossible, StopContainer and RemoveContainer follow, and the container does not exist.

        A removal without an effect is a :class:`NoEffectWarning`, issued by :mod:`warnings`.
        """
        pod = self._node.pod(pod)
        if container.pod_sandbox_id != pod.id:
            raise ValueError(
                f"container {container.name!r} belongs to pod {container.pod_sandbox_id!r}, "
                f"not to {pod.name!r}, whose id is {pod.id!r}"
            )
        self._node.new(container)
        __tracebackhide__ = True
        sending, runtime = self._event("CreateContainer", check)
        with sending as event:
            event.send(runtime.create_container, pod, container)
            reply = event.reply
            answers = [item for item in event.answers if item.event == "CreateContainer"]
            adjusted, owners = merge(pod, container, answers)
            if reply is not None and event.send(self._made, container, reply, answers):
                adjusted = event.reply
                self._node.put(adjusted)
                self._apply(reply.update)
                event.send(runtime.post_create_container, pod, adjusted)
            else:
                # Errors of these two events are ignored.
                event.send(runtime.stop_container, pod, container)
                event.send(runtime.remove_container, pod, container)
            result = event.result(pod, adjusted, reply=reply, owners=owners)
        if self._node.has(container):
            self._warn_of_removals(answers, adjusted)
        return result

    def _made(
        self, container: Container, reply: CreateContainerResponse, answers: Iterable[Answer]
    ) -> Container:
        """The container that a runtime makes. Raises SpecError if that is impossible."""
        refuse_adjustments(answers)
        refuse_updates(reply.update)
        adjust = ContainerAdjustment()
        adjust.CopyFrom(reply.adjust)
        self.facts.without_effect(adjust, clear=True)
        made = adjust_container(
            container, adjust, inject_cdi=self._inject_cdi, resolve_rdt=rdt_class
        )
        if not made.hooks.ByteSize():
            # NRI puts them, empty, into CreateContainer only (``collectCreateContainerResult``).
            made.ClearField("hooks")
        made.state = ContainerState.CONTAINER_CREATED
        made.created_at = time.time_ns()
        return made

    def _warn_of_removals(self, answers: Iterable[Answer], made: Container) -> None:
        asked = [(item.plugin, item.adjustment) for item in answers if item.adjustment is not None]
        for text in ineffective_removals(asked, container_to_oci(made)):
            # Level 3 is the caller of create_container().
            warnings.warn(text, NoEffectWarning, stacklevel=3)

    def start_container(
        self, container: Container | str, *, pid: int = 0, check: bool = True
    ) -> Result:
        """StartContainer, then PostStartContainer. If a plugin fails it, StopContainer follows.

        ``pid`` is the container's process id from then on; the default is an id that belongs to no process.
        """
        pod, container = self._pod_and(container)
        __tracebackhide__ = True
        sending, runtime = self._event("StartContainer", check)
        with sending as event:
            if self.traits.pid:
                container.pid = pid or new_pid()
            if event.send(runtime.start_container, pod, container):
                sent = container
                if not self.traits.running_at_post_start:
                    sent = Container()
                    sent.CopyFrom(container)
                container.state = ContainerState.CONTAINER_RUNNING
                container.started_at = time.time_ns()
                self._node.put(container)
                event.send(runtime.post_start_container, pod, sent)
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
        sending, runtime = self._event("UpdateContainer", check)
        with sending as event:
            updated = event.send(runtime.update_container, pod, container, resources)
            updates = list(event.reply.update) if updated else []
            if updated:
                wanted = ContainerUpdate(container_id=container.id)
                if resources is not None:
                    wanted.linux.resources.CopyFrom(resources)
                # If plugins change this container, too, their updates contain all its resources.
                if event.send(self._applied, [wanted, *updates]):
                    container = self._node.container(container)
                    event.send(runtime.post_update_container, pod, container)
            return event.result(pod, container, updates=updates)

    def stop_container(
        self, container: Container | str, exit_code: int = 0, *, check: bool = True
    ) -> Result:
        """StopContainer. The container stops even if plugins fail. For a stopped container, no event is sent.

        containerd sends the event after the stop, and so does this method: the state is CONTAINER_STOPPED,
        ``exit_code`` and the time are set, and the process id is still present.
        """
        pod, container = self._pod_and(container)
        __tracebackhide__ = True
        sending, runtime = self._event("StopContainer", check)
        with sending as event:
            updates = self._stop(event, runtime, pod, container, exit_code)
            return event.result(pod, container, updates=updates)

    def remove_container(self, container: Container | str, *, check: bool = True) -> Result:
        """StopContainer, unless stopped, then RemoveContainer. The container is removed even if plugins fail.

        As with containerd, RemoveContainer has the state CONTAINER_UNKNOWN, which is 0, and no process id.
        """
        pod, container = self._pod_and(container)
        __tracebackhide__ = True
        sending, runtime = self._event("RemoveContainer", check)
        with sending as event:
            updates = self._remove(event, runtime, pod, container)
            return event.result(pod, container, updates=updates)

    def _pod_and(self, container: Container | str) -> tuple[PodSandbox, Container]:
        known = self._node.container(container)
        return self._node.pod(known.pod_sandbox_id), known

    def _stop_pod(self, event: SentEvent, runtime: Embedded, pod: PodSandbox) -> None:
        for container in self._node.containers_of(pod):
            self._stop(event, runtime, pod, container)
        if self._node.stop(pod):
            pod.pid = 0
            event.send(runtime.stop_pod_sandbox, pod)
            if self.traits.network_ends:
                namespaces = [item for item in pod.linux.namespaces if item.type != "network"]
                del pod.linux.namespaces[:]
                pod.linux.namespaces.extend(namespaces)
            self._node.put(pod)

    def _stop(
        self,
        event: SentEvent,
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
        if event.send(runtime.stop_container, pod, container):
            updates = list(event.reply.update)
            event.send(self._applied, updates)
        container.state = ContainerState.CONTAINER_STOPPED
        container.pid = 0
        container.exit_code = exit_code
        container.finished_at = container.finished_at or time.time_ns()
        self._node.put(container)
        return updates

    def _remove(
        self, event: SentEvent, runtime: Embedded, pod: PodSandbox, container: Container
    ) -> list[ContainerUpdate]:
        updates = self._stop(event, runtime, pod, container)
        removed = Container()
        removed.CopyFrom(container)
        if not self.traits.state_at_remove:
            removed.state = ContainerState.CONTAINER_UNKNOWN
        event.send(runtime.remove_container, pod, removed)
        self._node.remove(container)
        return updates


def rdt_class(name: str) -> dict[str, Any] | None:
    """The ``intelRdt`` of a class, as containerd resolves it: the class name is the name of the kernel's group."""
    return {"closID": name} if name else None
