"""What an :class:`~nri_sync.kit.UpdateQueue` holds: what to send next, and what is decided by an answer.

No thread, no lock, no clock and no call in here: the queue guards it by its own lock, and tells what happened.
Call :meth:`Backlog.accept` for what is put, :meth:`Backlog.pick` before a call to the runtime, and one of
:meth:`~Backlog.answered`, :meth:`~Backlog.lost` and :meth:`~Backlog.failed_together` after it. An entry that is
returned as decided is in the backlog no more, and is returned only once: the caller tells whoever waits for it.
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
    """What is wanted of one container: what was put for it until it was first sent. Then it stays as it is."""

    __slots__ = (
        "alone", "attempts", "born", "container_id", "eviction", "handle", "in_flight", "update",
    )  # fmt: skip

    def __init__(self, container_id: str, handle: _Handle) -> None:
        self.container_id = container_id
        self.handle = handle
        self.update: ContainerUpdate | None = None
        self.eviction: ContainerEviction | None = None
        #: The session in which something was last put.
        self.born = 0
        #: How often the runtime has refused it.
        self.attempts = 0
        self.in_flight = False
        #: To be sent without others: they have failed together, and nobody knows which.
        self.alone = False

    def add(self, item: Item, session: int) -> None:
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
    """The entries that are not decided; two of a container at most: one that was sent, and its successor."""

    def __init__(
        self, *, limit: int, batch: int, attempts: int, delay: Callable[[int], float]
    ) -> None:
        """``delay(n)`` is how long to wait after a refusal before attempt number n + 1, in seconds."""
        self._limit = limit
        self._batch = batch
        self._attempts = attempts
        self._delay = delay
        # Each entry is in one of these. _sent: in flight, or to be sent again; _behind: after one that is there.
        self._waiting: OrderedDict[str, Entry[_Handle]] = OrderedDict()
        self._sent: dict[str, Entry[_Handle]] = {}
        self._behind: dict[str, Entry[_Handle]] = {}
        # When to send those in _sent again: time, a number for the order, entry. May hold decided ones.
        self._again: list[tuple[float, int, Entry[_Handle]]] = []
        self._order = itertools.count()
        #: What became of what was put. The rest is still here.
        self.tally = dict.fromkeys(("put", "merged", "applied", "refused", "removed", "closed"), 0)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sent) + len(self._behind)

    def __iter__(self) -> Iterator[Entry[_Handle]]:
        return itertools.chain(self._sent.values(), self._waiting.values(), self._behind.values())

    def accept(
        self, item: Item, session: int, make_handle: Callable[[], _Handle]
    ) -> Entry[_Handle] | None:
        """Take something in; returns the entry that it is a part of now, None when there is no room for one.

        The message is copied. ``session`` is a number that grows from one session to the next.
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
        """What to send now: first what has been sent before. Empty if there is nothing."""
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
        """Whether something that has to be sent alone is due: what waits comes after it."""
        return bool(self._again) and self._again[0][0] <= now and self._again[0][2].alone

    def due(self) -> float | None:
        """When something is to be sent again; None if nothing is."""
        return self._again[0][0] if self._again else None

    def lost(self, batch: Iterable[Entry[_Handle]]) -> None:
        """Nobody knows whether a batch has arrived: it is to be sent again."""
        for entry in self._mine(batch):
            self._push(entry, 0.0)

    def failed_together(self, batch: Iterable[Entry[_Handle]]) -> None:
        """Something in a batch of several was refused, but not said what: each is to be sent again, alone."""
        for entry in self._mine(batch):
            entry.alone = True
            self._push(entry, 0.0)

    def answered(
        self, batch: Sequence[Entry[_Handle]], failed: Collection[str], now: float
    ) -> tuple[list[Entry[_Handle]], list[Entry[_Handle]]]:
        """A batch was applied, but for some containers. Returns what is applied, and refused for good."""
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
        """Those of a batch that were not cleared meanwhile; they are in flight no more."""
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
        """The container is gone: returns what was wanted of it, decided. What is in flight stays."""
        gone = []
        for table in (self._sent, self._waiting, self._behind):
            entry = table.get(container_id)
            if entry is not None and not entry.in_flight:
                del table[container_id]
                gone.append(entry)
        self.tally["removed"] += len(gone)
        return gone

    def drop_unlisted(self, listed: Collection[str], session: int) -> list[Entry[_Handle]]:
        """Drop what was put before ``session`` for containers that are not listed at its beginning.

        What was put since may be about a container that has been created meanwhile.
        """
        unlisted = {
            entry.container_id
            for entry in self
            if entry.born < session and entry.container_id not in listed
        }
        return [entry for container_id in unlisted for entry in self.drop(container_id)]

    def clear(self) -> list[Entry[_Handle]]:
        """Give up on everything; returns it, decided."""
        left = list(self)
        for table in (self._sent, self._waiting, self._behind):
            table.clear()
        self._again.clear()
        self.tally["closed"] += len(left)
        return left
