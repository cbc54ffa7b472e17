"""The state of an inventory: immutable snapshots, and drafts of the next snapshot.

A snapshot shares its unchanged parts with the one before. So reading the current snapshot is free, and making
the next one takes a few microseconds, for any number of containers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from nri_sync.kit.fields.cgroups import pod_uid_of_cgroup
from nri_sync.kit.inventory.records import ContainerRecord, Key, PodRecord, cgroup_key, ip_key
from nri_sync.kit.inventory.table import Edit, Table

__all__ = ["Changes", "Difference", "Draft", "Snapshot"]

_Record = TypeVar("_Record", PodRecord, ContainerRecord)


class Snapshot:
    """The records of an inventory at one moment. Immutable: any thread may keep and read it.

    If several pods or containers share a name, an address or another key, lookups return the one that appeared
    last.
    """

    __slots__ = ("_index", "containers", "pods", "stale", "version")

    def __init__(
        self,
        pods: Table[str, PodRecord],
        containers: Table[str, ContainerRecord],
        index: Table[Key, tuple[str, ...]],
        version: int,
        stale: bool,
    ) -> None:
        #: All pods by their sandbox ids.
        self.pods = pods
        #: All containers by their ids.
        self.containers = containers
        self._index = index
        #: A number that each change increases.
        self.version = version
        #: True until a Synchronize of this session has confirmed the records, which may be old or missing.
        self.stale = stale

    def pod(self, sandbox_id: str) -> PodRecord | None:
        return self.pods.get(sandbox_id)

    def pod_by_uid(self, uid: str) -> PodRecord | None:
        """Return the newest sandbox of the Kubernetes pod with that uid."""
        return self._newest_pod("uid", uid)

    def pod_by_name(self, namespace: str, name: str) -> PodRecord | None:
        return self._newest_pod("pod", namespace, name)

    def pod_by_ip(self, address: object) -> PodRecord | None:
        """Return the newest pod with that address that has not been stopped.

        ``address`` is a text, or an object of :mod:`ipaddress`. Pods in the host's network share its addresses,
        if the runtime sends addresses for them at all.
        """
        return self._newest_pod("ip", ip_key(str(address)))

    def pod_by_cgroup(self, path: str) -> PodRecord | None:
        """Return the pod of a cgroup: a container's cgroup, or one that the kubelet has made for the pod.

        ``path`` as for :meth:`container_by_cgroup`.
        """
        container = self.container_by_cgroup(path)
        if container is not None:
            return self.pods.get(container.pod_id)
        uid = pod_uid_of_cgroup(path)
        return None if uid is None else self.pod_by_uid(uid)

    def pod_of(self, container: ContainerRecord) -> PodRecord | None:
        return self.pods.get(container.pod_id)

    def container(self, container_id: str) -> ContainerRecord | None:
        return self.containers.get(container_id)

    def containers_of(self, sandbox_id: str) -> list[ContainerRecord]:
        """Return the containers of a pod, in the order in which they appeared."""
        return [self.containers[found] for found in self._index.get(("in pod", sandbox_id), ())]

    def container_by_name(self, sandbox_id: str, name: str) -> ContainerRecord | None:
        """Return the newest container of that name in a pod. A restart makes a new container."""
        found = (record for record in self.containers_of(sandbox_id)[::-1] if record.name == name)
        return next(found, None)

    def container_by_cgroup(self, path: str) -> ContainerRecord | None:
        """Return the container of a cgroup, or of a cgroup above it. If several match, the outermost one.

        ``path`` as the runtime sends it, or as /proc/<pid>/cgroup shows it, for any cgroup driver.
        """
        # The outermost one, because a process may be allowed to make cgroups of any name below its own.
        for above in _downwards(path):
            container = self._newest_container("cgroup", cgroup_key(above))
            if container is not None:
                return container
        return None

    def container_by_pid(self, pid: int) -> ContainerRecord | None:
        """Return the container with that first process, unless it is stopped. Find other processes by cgroup.

        CRI-O before 1.36 sends no process id. Other runtimes send it from StartContainer on.
        """
        return self._newest_container("pid", str(pid))

    def _newest_pod(self, *key: str) -> PodRecord | None:
        found = self._index.get(key)
        return self.pods[found[-1]] if found else None

    def _newest_container(self, *key: str) -> ContainerRecord | None:
        found = self._index.get(key)
        return self.containers[found[-1]] if found else None

    def __repr__(self) -> str:
        stale = ", stale" if self.stale else ""
        return f"<snapshot {self.version}: {len(self.pods)} pods, {len(self.containers)} containers{stale}>"


def _downwards(path: str) -> Iterator[str]:
    """Yield the path and all paths above it, the shortest first."""
    path = path.rstrip("/")
    for slash in re.finditer("/", path):
        if slash.start():
            yield path[: slash.start()]
    if path:
        yield path


@dataclass(frozen=True)
class Difference(Generic[_Record]):
    """The differences between the pods, or the containers, of two snapshots, in the order of appearance."""

    appeared: tuple[_Record, ...] = ()
    #: The last records.
    vanished: tuple[_Record, ...] = ()
    #: Pairs of the old record and the new one.
    changed: tuple[tuple[_Record, _Record], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.appeared or self.vanished or self.changed)


@dataclass(frozen=True)
class Changes:
    """The changes by one event. False if there are none."""

    #: The name of the event's handler; ``"synchronize"`` for a comparison with all existing containers.
    event: str
    pods: Difference[PodRecord]
    containers: Difference[ContainerRecord]
    before: Snapshot
    after: Snapshot

    def __bool__(self) -> bool:
        return bool(self.pods or self.containers)


class Draft:
    """The next snapshot, while one thread makes it."""

    def __init__(self, before: Snapshot) -> None:
        self._before = before
        self._index = before._index.edit()
        self.pods = _Half(before.pods, self._index)
        self.containers = _Half(before.containers, self._index)

    def finish(self, event: str, *, stale: bool) -> Changes:
        """Return the changes; their ``after`` is the finished snapshot."""
        after = Snapshot(
            self.pods.edit.done(),
            self.containers.edit.done(),
            self._index.done(),
            self._before.version + 1,
            stale,
        )
        return Changes(
            event, self.pods.difference(), self.containers.difference(), self._before, after
        )


class _Half(Generic[_Record]):
    """The pods of a draft, or its containers."""

    def __init__(self, table: Table[str, _Record], index: Edit[Key, tuple[str, ...]]) -> None:
        self._before: Table[str, _Record] = table
        self._index = index
        self._touched: set[str] = set()
        self.edit: Edit[str, _Record] = table.edit()

    def get(self, record_id: str) -> _Record | None:
        return self.edit.get(record_id)

    def put(self, record: _Record) -> None:
        """Add a record, or replace the record with the same id."""
        old = self.edit.get(record.id)
        if old is record:
            return
        self._touched.add(record.id)
        self.edit[record.id] = record
        before: set[Key] = set() if old is None else old.index_keys()
        after = record.index_keys()
        for key in before - after:
            self._unlist(key, record.id)
        for key in after - before:
            self._list(key, record.id)

    def drop(self, record_id: str) -> None:
        """Remove a record, if it exists."""
        old = self.edit.get(record_id)
        if old is not None:
            self._touched.add(record_id)
            for key in old.index_keys():
                self._unlist(key, record_id)
            del self.edit[record_id]

    def _list(self, key: Key, record_id: str) -> None:
        others: tuple[str, ...] = self._index.get(key) or ()
        if not others or self._sequence(others[-1]) < self._sequence(record_id):
            self._index[key] = (*others, record_id)
        else:  # an older record has got a new key
            self._index[key] = tuple(sorted((*others, record_id), key=self._sequence))

    def _unlist(self, key: Key, record_id: str) -> None:
        listed = tuple(other for other in self._index.get(key) or () if other != record_id)
        if listed:
            self._index[key] = listed
        else:
            del self._index[key]

    def _sequence(self, record_id: str) -> int:
        record = self.edit.get(record_id)
        assert record is not None, f"{record_id} is in the index, but does not exist"
        return record.sequence

    def difference(self) -> Difference[_Record]:
        """Return the differences from the snapshot before."""
        appeared: list[_Record] = []
        vanished: list[_Record] = []
        changed: list[tuple[_Record, _Record]] = []
        for record_id in self._touched:
            old, new = self._before.get(record_id), self.edit.get(record_id)
            if old is None:
                if new is not None:
                    appeared.append(new)
            elif new is None:
                vanished.append(old)
            elif old != new:
                changed.append((old, new))
        return Difference(
            tuple(sorted(appeared, key=_by_sequence)),
            tuple(sorted(vanished, key=_by_sequence)),
            tuple(sorted(changed, key=lambda pair: pair[0].sequence)),
        )


def _by_sequence(record: PodRecord | ContainerRecord) -> int:
    return record.sequence
