"""Locks that check the order in which they are taken: the ranks of docs/locks.md."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

__all__ = ["RANKS", "RankedLock", "violations", "with_ranks"]

ROOT = Path(__file__).resolve().parent.parent

#: The ranks by class and attribute. A thread takes a lock of a higher rank first.
RANKS: dict[str, int] = {
    name: int(rank)
    for name, rank in re.findall(
        r"^\| `nri_sync[\w.]*\.(\w+\.\w+)` \| (\d) \|",
        (ROOT / "docs" / "locks.md").read_text(),
        re.MULTILINE,
    )
}

#: The violations, as messages.
violations: list[str] = []

_held = threading.local()


def _mine() -> list[RankedLock]:
    if not hasattr(_held, "locks"):
        _held.locks = []
    found: list[RankedLock] = _held.locks
    return found


class RankedLock:
    """A lock with a rank: a thread that waits for it must hold only locks of higher ranks.

    As with ``threading.Lock``, another thread may release it.
    """

    def __init__(self, name: str, rank: int) -> None:
        self.name = name
        self.rank = rank
        self._lock = threading.Lock()
        self._holder: list[RankedLock] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        mine = _mine()
        if blocking:
            for held in list(mine):
                if held.rank <= self.rank:
                    violations.append(f"{self.name} ({self.rank}) under {held.name} ({held.rank})")
        taken = self._lock.acquire(blocking, timeout)
        if taken:
            self._holder = mine
            mine.append(self)
        return taken

    def release(self) -> None:
        if self in self._holder:
            self._holder.remove(self)
        self._lock.release()

    def locked(self) -> bool:
        return self._lock.locked()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()


def with_ranks(cls: type) -> Any:
    """The constructor of ``cls`` with ranked locks. Conditions use the ranked lock."""
    original: Any = cls.__init__  # type: ignore[misc]

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        for name, rank in RANKS.items():
            owner, _, attribute = name.partition(".")
            if owner == cls.__name__:
                lock = RankedLock(name, rank)
                for key, value in list(vars(self).items()):
                    if isinstance(value, threading.Condition) and attribute == "_lock":
                        setattr(self, key, threading.Condition(lock))  # type: ignore[arg-type]
                setattr(self, attribute, lock)

    return init
