"""The last records of removed pods or containers, and the rules by which an event adds one again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from nri_sync.kit.inventory.records import ContainerRecord, PodRecord

__all__ = ["REMEMBERED", "Gone", "How"]

_Record = TypeVar("_Record", PodRecord, ContainerRecord)

#: How a record ended: a Remove event, a Synchronize that did not list it, or its end before its first event.
How = Literal["removed", "vanished", "early"]

# The number of removed pods that are remembered; the same number of containers.
REMEMBERED = 1000

# The runtime sends each of these once for a pod or container, before all its other events.
_FIRST = frozenset(("run_pod_sandbox", "create_container"))


class _Entry(NamedTuple):
    # Any, because generic named tuples need Python 3.11.
    record: Any
    how: How


class Gone(Generic[_Record]):
    """Remembers the 1,000 records that were removed last. Not locked, but any thread may call :meth:`record`.

    A stub runs each handler on a thread, and a runtime continues after a timeout. So the plugin can handle an
    event after the removal of its pod or container. Such a late event must not add the record again, because no
    second removal would follow.
    """

    def __init__(self, first: str, *, limit: int = REMEMBERED) -> None:
        """``first`` is the handler of the first event of a life, ``run_pod_sandbox`` or ``create_container``.

        ``limit`` is the greatest number of remembered records.
        """
        self._first = first
        self._limit = limit
        self._entries: dict[str, _Entry] = {}
        # Ids that a later event has added, while their first event is outstanding.
        self._overtaken: set[str] = set()

    def __contains__(self, record_id: str) -> bool:
        return record_id in self._entries

    def record(self, record_id: str) -> _Record | None:
        """Return the last record; None for an unknown id, or one that was removed too long ago."""
        entry = self._entries.get(record_id)
        return None if entry is None else entry.record

    def ended(self, record_id: str) -> None:
        """Note that an event has ended an unknown pod or container."""
        entry = self._entries.get(record_id)
        if entry is None:
            self._put(record_id, _Entry(None, "early"))
        elif entry.how == "vanished":
            self._put(record_id, entry._replace(how="removed"))

    def remember(self, records: Iterable[_Record], how: How) -> None:
        """Remember records that the inventory has just dropped."""
        for record in records:
            if record.id in self._overtaken:
                self._overtaken.remove(record.id)
                self._put(record.id, _Entry(record, "early" if how == "removed" else how))
            else:
                self._put(record.id, _Entry(record, how))

    def _put(self, record_id: str, entry: _Entry) -> None:
        self._entries.pop(record_id, None)
        self._entries[record_id] = entry
        while len(self._entries) > self._limit:
            del self._entries[next(iter(self._entries))]

    def listed(self, record_id: str) -> None:
        """Note that a Synchronize lists an id: the pod or container exists, and its first event has come."""
        self._entries.pop(record_id, None)
        self._overtaken.discard(record_id)

    def admits(self, record_id: str, event: str, *, known: bool) -> bool:
        """Return whether an event may change or add the record of an id. Call it once for each event.

        The first event of a life begins a new life under an old id, unless it is the outstanding first event of
        a record that ended early. A pod that a Synchronize did not list exists if a container is created in it.
        """
        is_first = event == self._first
        entry = None if known else self._entries.get(record_id)
        if entry is not None:
            if not is_first and not (entry.how == "vanished" and event in _FIRST):
                return False
            if entry.how == "early":
                self._entries[record_id] = entry._replace(how="removed")
                return False
            del self._entries[record_id]
        if is_first:
            self._overtaken.discard(record_id)
        elif not known:
            self._overtaken.add(record_id)
        return True
