"""The entries of an :class:`~nri_sync.kit.UpdateQueue`: picks the next ones, and settles them by the answers.

The backlog has no thread, lock, clock or call. The queue guards it by its own lock, and reports each event to it.
Call :meth:`Backlog.accept` for each new item, and :meth:`Backlog.pick` before a call to the runtime. After the
call, report its outcome: :meth:`~Backlog.answered`, :meth:`~Backlog.lost` or :meth:`~Backlog.failed_together`. A
method that settles an entry removes it and returns it, once. The caller then completes the entry's future.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Callable, Generic, TypeVar, Union

from nri_sync.api import ContainerEviction, ContainerUpdate
from nri_sync.kit.updates.coalesce import overlay

__all__ = ["Backlog", "Entry", "Item"]

Item = Union[ContainerUpdate, ContainerEviction]
_Handle = TypeVar("_Handle")


class Entry(Generic[_Handle]):
    """The items of one container, merged. An entry does not change after it was first sent."""

    __slots__ = (
        "alone", "attempts", "born", "container_id", "eviction", "handle", "in_flight", "update",
    )  # fmt: skip

    def __init__(self, container_id: str, handle: _Handle) -> None:
        self.container_id = container_id
        self.handle = handle
        self.update: ContainerUpdate | None = None
        self.eviction: ContainerEviction | None = None
        #: The session in which the last item was put.
        self.born = 0
        #: The number of refusals by the runtime.
        self.attempts = 0
        self.in_flight = False
        #: Send it without others: they have failed together, and the runtime did not name the culprit.
        self.alone = False

    def add(self, item: Item, session: int) -> None:
        """Merge a copy of the item into the entry."""
        self.born = session
        if isinstance(item, ContainerEviction):
            self.eviction = ContainerEviction()
            self.eviction.CopyFrom(item)
        elif self.update is None:
            self.update = ContainerUpdate()
            self.update.CopyFrom(item)
        else:
            overlay(self.update, item)


class Backlog(Generic[_Handle]):
    """The unsettled entries; at most two of a container: one that was sent, and its successor."""

    def __init__(
        self, *, limit: int, batch: int, attempts: int, delay: Callable[[int], float]
    ) -> None:
        """``delay(n)`` returns the seconds to wait after refusal number n, before attempt n + 1."""
        self._limit = limit
        self._batch = batch
        self._attempts = attempts
        self._delay = delay
        # Each entry is in one of these. _sent: in flight, or due again. _behind: the successor of one in _sent.
        self._waiting: OrderedDict[str, Entry[_Handle]] = OrderedDict()
        self._sent: dict[str, Entry[_Handle]] = {}
        self._behind: dict[str, Entry[_Handle]] = {}
        # The heap of the entries to send again: time, a number for the order, entry. May hold settled entries.
        self._again: list[tuple[float, int, Entry[_Handle]]] = []
        self._order = itertools.count()
        #: The number of items by outcome. The items of unsettled entries have no outcome yet.
        self.tally = dict.fromkeys(("put", "merged", "applied", "refused", "removed", "closed"), 0)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sent) + len(self._behind)

    def __iter__(self) -> Iterator[Entry[_Handle]]:
        return itertools.chain(self._sent.values(), self._waiting.values(), self._behind.values())

    def accept(
        self, item: Item, session: int, make_handle: Callable[[], _Handle]
    ) -> Entry[_Handle] | None:
        """Merge an item into its container's entry, or add one. Returns the entry; None if the backlog is full.

        Copies the message. ``session`` is a number that grows from one session to the next.
        """
        container_id = item.container_id
        table = self._behind if container_id in self._sent else self._waiting
        entry = table.get(container_id)
        if entry is not None:
            self.tally["merged"] += 1
        elif len(self) >= self._limit:
            return None
        else:
            entry = table[container_id] = Entry(container_id, make_handle())
        entry.add(item, session)
        self.tally["put"] += 1
        return entry

    # Sending

    def pick(self, now: float) -> list[Entry[_Handle]]:
        """Return the entries to send now; entries that were sent before come first."""
        batch: list[Entry[_Handle]] = []
        while self._again and len(batch) < self._batch and self._again[0][0] <= now:
            entry = self._again[0][2]
            if entry.alone and batch:
                break
            heapq.heappop(self._again)
            if self._sent.get(entry.container_id) is entry:
                entry.in_flight = True
                batch.append(entry)
                if entry.alone:
                    return batch
        while self._waiting and len(batch) < self._batch and not self._is_alone_next(now):
            container_id, entry = self._waiting.popitem(last=False)
            entry.in_flight = True
            self._sent[container_id] = entry
            batch.append(entry)
        return batch

    def _is_alone_next(self, now: float) -> bool:
        """Whether an entry that must be sent alone is due. The waiting entries come after it."""
        return bool(self._again) and self._again[0][0] <= now and self._again[0][2].alone

    def due(self) -> float | None:
        """Return the time at which the next entry is due again; None if no entry is."""
        return self._again[0][0] if self._again else None

    def lost(self, batch: Iterable[Entry[_Handle]]) -> None:
        """The session was lost during the call of a batch. The outcome is unknown, so send it again."""
        for entry in self._mine(batch):
            self._push(entry, 0.0)

    def failed_together(self, batch: Iterable[Entry[_Handle]]) -> None:
        """The runtime refused a batch of several, and named no container. Send each entry again, alone."""
        for entry in self._mine(batch):
            entry.alone = True
            self._push(entry, 0.0)

    def answered(
        self, batch: Sequence[Entry[_Handle]], failed: Collection[str], now: float
    ) -> tuple[list[Entry[_Handle]], list[Entry[_Handle]]]:
        """The runtime applied a batch except the failed containers. Returns the applied and the refused entries.

        An entry with attempts left is not refused yet: it becomes due again.
        """
        applied: list[Entry[_Handle]] = []
        refused: list[Entry[_Handle]] = []
        for entry in self._mine(batch):
            if entry.container_id not in failed:
                self._settle(entry, "applied")
                applied.append(entry)
                continue
            entry.attempts += 1
            if entry.attempts < self._attempts:
                self._push(entry, now + self._delay(entry.attempts))
            else:
                self._settle(entry, "refused")
                refused.append(entry)
        return applied, refused

    def _mine(self, batch: Iterable[Entry[_Handle]]) -> Iterator[Entry[_Handle]]:
        """Yield the entries of a batch that were not cleared meanwhile, and mark them as not in flight."""
        for entry in batch:
            if self._sent.get(entry.container_id) is entry:
                entry.in_flight = False
                yield entry

    def _push(self, entry: Entry[_Handle], due: float) -> None:
        heapq.heappush(self._again, (due, next(self._order), entry))

    def _settle(self, entry: Entry[_Handle], outcome: str) -> None:
        self.tally[outcome] += 1
        del self._sent[entry.container_id]
        behind = self._behind.pop(entry.container_id, None)
        if behind is not None:
            self._waiting[entry.container_id] = behind

    # Giving up

    def drop(self, container_id: str) -> list[Entry[_Handle]]:
        """The container is gone: settle and return its entries, except one in flight."""
        gone = []
        for table in (self._sent, self._waiting, self._behind):
            entry = table.get(container_id)
            if entry is not None and not entry.in_flight:
                del table[container_id]
                gone.append(entry)
        self.tally["removed"] += len(gone)
        return gone

    def drop_unlisted(self, listed: Collection[str], session: int) -> list[Entry[_Handle]]:
        """Drop the entries from before ``session`` whose containers the runtime did not list at its beginning.

        A later entry may be for a container that was created meanwhile.
        """
        unlisted = {
            entry.container_id
            for entry in self
            if entry.born < session and entry.container_id not in listed
        }
        return [entry for container_id in unlisted for entry in self.drop(container_id)]

    def clear(self) -> list[Entry[_Handle]]:
        """Settle and return all entries."""
        left = list(self)
        for table in (self._sent, self._waiting, self._behind):
            table.clear()
        self._again.clear()
        self.tally["closed"] += len(left)
        return left
