"""The pods, or the containers, that an inventory has lost: their last records, and which events add them again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from nri_sync.kit.inventory.records import ContainerRecord, PodRecord

__all__ = ["Gone", "How"]

_Record = TypeVar("_Record", PodRecord, ContainerRecord)

#: How it went: a Remove event named it, a Synchronize did not list it, or it ended before its first event came.
How = Literal["removed", "vanished", "early"]

# The last pods, and the last containers, that are remembered.
_REMEMBERED = 1000

# A runtime sends each of them once for a pod or container, before all its other events.
_FIRST = frozenset(("run_pod_sandbox", "create_container"))


class _Entry(NamedTuple):
    # Generic named tuples came with Python 3.11.
    record: Any
    how: How


class Gone(Generic[_Record]):
    """Remembers the last 1,000 that went. Not locked, except that any thread may call :meth:`record`.

    A stub runs each handler on a thread, and a runtime goes on after a timeout: an event can be handled after the
    removal of its pod or container. Such a late event must not add it again, as no second removal would follow.
    """

    def __init__(self, first: str) -> None:
        """``first`` is the handler of the first event in a life, ``run_pod_sandbox`` or ``create_container``."""
        self._first = first
        self._entries: dict[str, _Entry] = {}
        # Those that are known by a later event, while the first is outstanding.
        self._overtaken: set[str] = set()

    def __contains__(self, record_id: str) -> bool:
        return record_id in self._entries

    def record(self, record_id: str) -> _Record | None:
        """The last record; None for one that was never known, or went too long ago."""
        entry = self._entries.get(record_id)
        return None if entry is None else entry.record

    def ended(self, record_id: str) -> None:
        """An event has ended a pod or container that is not known."""
        entry = self._entries.get(record_id)
        if entry is None:
            self._put(record_id, _Entry(None, "early"))
        elif entry.how == "vanished":
            self._put(record_id, entry._replace(how="removed"))

    def remember(self, records: Iterable[_Record], how: How) -> None:
        """These were known, and are no more."""
        for record in records:
            if record.id in self._overtaken:
                self._overtaken.remove(record.id)
                self._put(record.id, _Entry(record, "early" if how == "removed" else how))
            else:
                self._put(record.id, _Entry(record, how))

    def _put(self, record_id: str, entry: _Entry) -> None:
        self._entries.pop(record_id, None)
        self._entries[record_id] = entry
        while len(self._entries) > _REMEMBERED:
            del self._entries[next(iter(self._entries))]

    def listed(self, record_id: str) -> None:
        """A Synchronize lists it: it exists, and its first event has been."""
        self._entries.pop(record_id, None)
        self._overtaken.discard(record_id)

    def admits(self, record_id: str, event: str, *, known: bool) -> bool:
        """Whether an event changes or adds a pod or container; to be called once for each event.

        The first event of a life begins a new one under an old id, unless it is the outstanding first event of
        one that ended early. A pod that a Synchronize did not list exists if a container is created in it.
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
