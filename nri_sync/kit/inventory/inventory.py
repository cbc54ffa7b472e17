"""The pods and containers that a plugin knows: :class:`Inventory`."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Callable, TypeVar

from nri_sync import fork
from nri_sync.api import Container, LinuxResources, PodSandbox
from nri_sync.errors import WouldDeadlock
from nri_sync.kit.inventory.gone import Gone, How
from nri_sync.kit.inventory.index import Changes, Draft, Snapshot
from nri_sync.kit.inventory.records import ContainerRecord, Omit, PodRecord
from nri_sync.kit.inventory.table import Table
from nri_sync.threads import signal_safe

if TYPE_CHECKING:
    from nri_sync.kit.inventory.store import InventoryStore

__all__ = ["Inventory"]

_Record = TypeVar("_Record", PodRecord, ContainerRecord)


class Inventory:
    """Keeps the pods and containers of a runtime, from its events. A plugin object, for a Stub or a chain::

        inventory = Inventory()
        stub = Stub(chain(inventory, plugin))

    Put the inventory in front of the plugin, so that the plugin's handlers find the pod and the container of
    their event in it. The inventory subscribes to all events of pods and containers, and answers each with an
    empty response. All methods may be called from any thread. Lookups never block.
    """

    def __init__(
        self,
        on_change: Callable[[Changes], object] | None = None,
        *,
        store: InventoryStore | None = None,
        omit: Iterable[str] = ("env", "linux.seccomp_policy"),
    ) -> None:
        """Load the records of the store. They stay ``stale`` until a Synchronize has confirmed or replaced them.

        Args:
            on_change: called after each event that has changed a record, and after every Synchronize. It runs on
                the handler's thread, one call at a time, in the order of the changes. The handler returns after
                it, so on_change is done before a chain calls the next plugin. The handler raises its exceptions.
                on_change may look up records, but must not call the handlers of this inventory. If the
                application calls a handler on the main thread, on_change runs on another thread.
            store: keeps the records across restarts of the plugin.
            omit: fields of containers that the inventory does not keep, as paths in the message. The default is
                the environment, which holds secrets, and the seccomp filter, which is larger than the rest.

        Raises:
            ValueError: ``omit`` names a field that a Container does not have, or that the inventory needs.
            StoreError: the content of the store cannot be read.
        """
        self._on_change = on_change
        self._store = store
        self._omit = Omit((omit,) if isinstance(omit, str) else omit)
        # Serialises calls of synchronize(). Acquired before _lock.
        self._synchronizing = threading.Lock()
        # Guards all attributes below. _snapshot may be read without it.
        self._lock = threading.Lock()
        self._sequence = 0
        self._since: _Since | None = None
        self._gone_pods: Gone[PodRecord] = Gone("run_pod_sandbox")
        self._gone_containers: Gone[ContainerRecord] = Gone("create_container")
        self._delivery = _TicketLock()
        self._snapshot = self._stored()
        fork.in_child(self._after_fork_in_child)

    def _after_fork_in_child(self) -> None:
        # The snapshot is that of one moment. A change that another thread was making is the parent's.
        self._synchronizing = threading.Lock()
        self._lock = threading.Lock()
        self._since = None
        self._delivery.after_fork_in_child()

    def _stored(self) -> Snapshot:
        draft = Draft(Snapshot(Table(), Table(), Table(), version=0, stale=True))
        if self._store is not None:
            stored = self._store.load()
            for pod, sequence, stopped in stored.pods:
                draft.pods.put(PodRecord.of(pod, None, sequence, stopped))
                self._sequence = max(self._sequence, sequence)
            for container, sequence in stored.containers:
                self._omit.clear(container)
                draft.containers.put(ContainerRecord.of(container, None, sequence))
                self._sequence = max(self._sequence, sequence)
        return draft.finish("load", stale=True).after

    def snapshot(self) -> Snapshot:
        """Return the current snapshot. Constant time, for any number of containers."""
        return self._snapshot

    def recall_pod(self, sandbox_id: str) -> PodRecord | None:
        """Return the last record of a pod, also of one of the 1,000 pods that were removed last; else None.

        For example in a plugin's ``remove_pod_sandbox``, which runs after the inventory's.
        """
        return self._snapshot.pod(sandbox_id) or self._gone_pods.record(sandbox_id)

    def recall_container(self, container_id: str) -> ContainerRecord | None:
        """Return the last record of a container, also of one of the 1,000 that were removed last; else None."""
        return self._snapshot.container(container_id) or self._gone_containers.record(container_id)

    # The handlers

    @signal_safe
    def configure(self, config: str, runtime: str, version: str) -> None:
        """A session begins: the records are stale until the runtime has synchronized the plugin."""
        with self._lock:
            self._since = _Since()
            self._snapshot = Draft(self._snapshot).finish("configure", stale=True).after

    @signal_safe
    def synchronize(self, pods: Sequence[PodSandbox], containers: Sequence[Container]) -> None:
        """Replace all records in one step, except those that events have changed meanwhile.

        The runtime has collected the lists of a Synchronize earlier. An event that came after Configure, or after
        the beginning of this call, is newer.
        """
        self._check("synchronize")
        with self._synchronizing:
            with self._lock:
                since = self._since = self._since or _Since()
            # Changes from here on are noted in ``since``, so ``known`` is current for all other records.
            known = self._snapshot
            pod_records = {
                pod.id: PodRecord.of(pod, known.pod(pod.id), 0) for pod in pods if pod.id
            }
            container_records = {
                container.id: ContainerRecord.of(
                    self._omit.copy(container), known.container(container.id), 0
                )
                for container in containers
                if container.id
            }
            with self._lock:
                draft = Draft(self._snapshot)
                self._replace(draft, pod_records, container_records, since)
                self._since = None
                changes = self._commit("synchronize", draft)
        self._deliver(changes)

    def _replace(
        self,
        draft: Draft,
        pods: dict[str, PodRecord],
        containers: dict[str, ContainerRecord],
        since: _Since,
    ) -> None:
        """Requires the lock. Puts the listed pods and containers into the draft, and drops all others."""
        for pod_id in self._snapshot.pods.keys() - pods.keys() - since.pods:
            draft.pods.drop(pod_id)
        for container_id in self._snapshot.containers.keys() - containers.keys() - since.containers:
            draft.containers.drop(container_id)
        # The lists have no order. A sandbox without a process is left over from an earlier instance of the pod.
        for pod in sorted(pods.values(), key=lambda pod: pod.pid != 0):
            if pod.id not in since.pods:
                self._gone_pods.listed(pod.id)
                if pod.id in since.stopped:
                    pod = PodRecord.of(pod.message, pod, 0, stopped=True)
                draft.pods.put(self._numbered(pod))
        for container in sorted(containers.values(), key=lambda container: container.created_at):
            if container.id not in since.containers and container.pod_id not in since.removed_pods:
                self._gone_containers.listed(container.id)
                if container.id in since.stopped:
                    container = ContainerRecord.of(
                        container.message, container, 0, "stop_container"
                    )
                draft.containers.put(self._numbered(container))

    def run_pod_sandbox(self, pod: PodSandbox) -> None:
        self._seen("run_pod_sandbox", pod)

    def update_pod_sandbox(
        self, pod: PodSandbox, overhead: LinuxResources, resources: LinuxResources
    ) -> None:
        self._seen("update_pod_sandbox", pod)

    def post_update_pod_sandbox(self, pod: PodSandbox) -> None:
        self._seen("post_update_pod_sandbox", pod)

    def stop_pod_sandbox(self, pod: PodSandbox) -> None:
        self._seen("stop_pod_sandbox", pod)

    @signal_safe
    def remove_pod_sandbox(self, pod: PodSandbox) -> None:
        """Remove the pod, and all containers that it still has."""
        with self._changing("remove_pod_sandbox") as draft:
            if self._since is not None:
                self._since.pods.add(pod.id)
                self._since.removed_pods.add(pod.id)
            for container in self._snapshot.containers_of(pod.id):
                draft.containers.drop(container.id)
                if self._since is not None:
                    self._since.containers.add(container.id)
            if draft.pods.get(pod.id) is None:
                self._gone_pods.ended(pod.id)
            draft.pods.drop(pod.id)

    def create_container(self, pod: PodSandbox, container: Container) -> None:
        self._seen("create_container", pod, container)

    def post_create_container(self, pod: PodSandbox, container: Container) -> None:
        self._seen("post_create_container", pod, container)

    def start_container(self, pod: PodSandbox, container: Container) -> None:
        self._seen("start_container", pod, container)

    def post_start_container(self, pod: PodSandbox, container: Container) -> None:
        self._seen("post_start_container", pod, container)

    def update_container(
        self, pod: PodSandbox, container: Container, resources: LinuxResources
    ) -> None:
        self._seen("update_container", pod, container)

    def post_update_container(self, pod: PodSandbox, container: Container) -> None:
        self._seen("post_update_container", pod, container)

    def stop_container(self, pod: PodSandbox, container: Container) -> None:
        self._seen("stop_container", pod, container)

    @signal_safe
    def remove_container(self, pod: PodSandbox, container: Container) -> None:
        with self._changing("remove_container") as draft:
            if self._since is not None:
                self._since.containers.add(container.id)
            if draft.containers.get(container.id) is None:
                self._gone_containers.ended(container.id)
            draft.containers.drop(container.id)

    # Changing

    @signal_safe
    def _seen(self, event: str, pod: PodSandbox, container: Container | None = None) -> None:
        """Merge the message of an event into the record of its pod or container, or add a record."""
        with self._changing(event) as draft:
            if pod.id:
                self._see_pod(draft, event, pod)
            if container is not None and container.id:
                self._see_container(draft, event, pod, container)

    def _see_pod(self, draft: Draft, event: str, pod: PodSandbox) -> None:
        """Requires the lock. Merges a pod's message into the draft."""
        old = draft.pods.get(pod.id)
        stopped = event == "stop_pod_sandbox"
        if old is None and event.startswith("stop_"):
            # Do not add an unknown pod or container that is being stopped.
            if stopped:
                self._gone_pods.ended(pod.id)
                self._note_stopped(pod.id)
            return
        if not self._gone_pods.admits(pod.id, event, known=old is not None):
            return
        draft.pods.put(self._numbered(PodRecord.of(pod, old, 0, stopped)))
        if self._since is not None:
            self._since.pods.add(pod.id)

    def _see_container(
        self, draft: Draft, event: str, pod: PodSandbox, container: Container
    ) -> None:
        """Requires the lock. Merges a container's message into the draft."""
        old = draft.containers.get(container.id)
        pod_id = container.pod_sandbox_id or pod.id
        if old is None and event == "stop_container":
            self._gone_containers.ended(container.id)
            self._note_stopped(container.id)
            return
        if old is None and pod_id in self._gone_pods:
            return
        if not self._gone_containers.admits(container.id, event, known=old is not None):
            return
        message = self._omit.copy(container)
        message.pod_sandbox_id = pod_id
        draft.containers.put(self._numbered(ContainerRecord.of(message, old, 0, event)))
        if self._since is not None:
            self._since.containers.add(container.id)

    def _note_stopped(self, record_id: str) -> None:
        """Requires the lock. A Synchronize under way may list the pod or container in its earlier state."""
        if self._since is not None:
            self._since.stopped.add(record_id)

    @contextmanager
    def _changing(self, event: str) -> Iterator[Draft]:
        """Yield a draft with the lock held, and commit it. Then call on_change without the lock."""
        self._check(event)
        with self._lock:
            draft = Draft(self._snapshot)
            yield draft
            changes = self._commit(event, draft)
        self._deliver(changes)

    def _numbered(self, record: _Record) -> _Record:
        """Requires the lock. Returns the record with the next sequence number, unless it has a number."""
        if record.sequence:
            return record
        self._sequence += 1
        return record._replace(sequence=self._sequence)

    def _commit(self, event: str, draft: Draft) -> tuple[int, Changes] | None:
        """Requires the lock. Returns the argument of :meth:`_deliver`; None if there is no call to make."""
        synchronized = event == "synchronize"
        changes = draft.finish(event, stale=self._snapshot.stale and not synchronized)
        if not changes and not synchronized:
            return None
        # Before the new snapshot: recall_pod() looks there first, and then in _gone_pods.
        how: How = "vanished" if synchronized else "removed"
        self._gone_pods.remember(changes.pods.vanished, how)
        self._gone_containers.remember(changes.containers.vanished, how)
        self._snapshot = changes.after
        if self._store is not None:
            self._store.save(changes.after)
        return None if self._on_change is None else (self._delivery.ticket(), changes)

    def _deliver(self, delivery: tuple[int, Changes] | None) -> None:
        if delivery is not None and self._on_change is not None:
            ticket, changes = delivery
            with self._delivery.holding(ticket):
                self._on_change(changes)

    def _check(self, event: str) -> None:
        if self._delivery.holder == _thread.get_ident():
            raise WouldDeadlock(
                f"inventory.{event}() was called inside on_change, and would wait for on_change to return; "
                "call it on another thread"
            )


class _Since:
    """The ids of the events since Configure, or since the beginning of a Synchronize."""

    def __init__(self) -> None:
        self.pods: set[str] = set()
        self.containers: set[str] = set()
        self.removed_pods: set[str] = set()
        #: Pods and containers that a Stop event named before the inventory knew them.
        self.stopped: set[str] = set()


class _TicketLock:
    """A lock that threads get in the order of their tickets."""

    def __init__(self) -> None:
        #: The thread that holds the lock.
        self.holder: int | None = None
        self._condition = threading.Condition(threading.Lock())
        self._taken = 0
        self._next = 0
        #: Tickets that were interrupted while they waited, and so end before the tickets in front of them.
        self._done: set[int] = set()

    def after_fork_in_child(self) -> None:
        """Forget the tickets of other threads, which the child does not have."""
        self._condition = threading.Condition(threading.Lock())
        if self.holder != _thread.get_ident():
            self.holder = None
        self._next = self._taken
        self._done.clear()

    def ticket(self) -> int:
        """Return the next ticket. Calls must not overlap: the caller holds a lock."""
        self._taken += 1
        return self._taken - 1

    @contextmanager
    def holding(self, number: int) -> Iterator[None]:
        """Block until all earlier tickets are done, and hold the lock. Each ticket must be used exactly once."""
        try:
            with self._condition:
                self._condition.wait_for(lambda: self._next == number)
            self.holder = _thread.get_ident()
            try:
                yield
            finally:
                self.holder = None
        finally:
            with self._condition:
                self._done.add(number)
                while self._next in self._done:
                    self._done.remove(self._next)
                    self._next += 1
                self._condition.notify_all()
