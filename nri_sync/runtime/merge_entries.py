"""Merging maps and lists whose entries have a key, an owner each, and marks for removal.

In a map a removal by itself is passed on to the runtime and does nothing else: the entry that an earlier
plugin has set stays. In a list it takes that entry out, and what becomes of the removal is up to the
caller. Both are so in the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from typing import Any, NamedTuple, TypeVar

from nri_sync.api import Field, LinuxNetDevice, removal
from nri_sync.runtime.claims import OwnershipClaims

__all__ = ["ANNOTATIONS", "NET_DEVICES", "SYSCTL", "Entries", "delete", "merge_list", "merge_map"]

_T = TypeVar("_T")


class Entries(NamedTuple):
    """A kind of map: the field that its owners are noted for, and how an entry is set."""

    field: int
    name: str
    put: Callable[[Any, str, Any], None]
    # What a removal has for a value.
    empty: Any


def _put_text(entries: Any, key: str, value: Any) -> None:
    entries[key] = value


def _put_message(entries: Any, key: str, value: Any) -> None:
    entries[key].CopyFrom(value)


ANNOTATIONS = Entries(Field.Annotations, "annotation", _put_text, "")
SYSCTL = Entries(Field.Sysctl, "sysctl", _put_text, "")
NET_DEVICES = Entries(Field.LinuxNetDevices, "network device", _put_message, LinuxNetDevice())


def merge_map(claims: OwnershipClaims, kind: Entries, wanted: Any, seen: Any, reply: Any) -> None:
    """Merge a map into that of the container and that of the reply."""
    removed = {key[1:] for key in wanted if removal.is_marked(key)}
    for key in sorted(wanted):
        if removal.is_marked(key):
            continue
        if key in removed:
            # The reply has both the removal and the new entry.
            claims.clear(kind.field, key)
            kind.put(reply, removal.mark(key), kind.empty)
            removed.remove(key)
        claims.claim(kind.field, key)
        kind.put(seen, key, wanted[key])
        kind.put(reply, key, wanted[key])
    for key in sorted(removed):
        if key in reply:
            claims.warn_lost(f"the removal of {kind.name} {key!r}", "an earlier plugin has set it")
        kind.put(reply, removal.mark(key), kind.empty)


def merge_list(
    claims: OwnershipClaims,
    field: int,
    key: Callable[[_T], str],
    wanted: Iterable[_T],
    reply: Any,
) -> tuple[dict[str, _T], dict[str, _T]]:
    """Merge a list into that of the reply.

    Returns the removals, by the keys that they remove, and the new entries by theirs; the latter are in the
    reply, the former not.
    """
    removed: dict[str, _T] = {}
    added = []
    for item in wanted:
        name = key(item)
        if removal.is_marked(name):
            removed[name[1:]] = item
        else:
            added.append((name, item))
    if removed:
        for name in delete(reply, map(key, reply), removed.keys()):
            claims.clear(field, name)
    for name, _ in added:
        claims.claim(field, name)
    # None is there twice: that would have been a conflict.
    new = dict(added)
    reply.extend(new.values())
    return removed, new


def delete(items: Any, names: Iterable[str], keys: Set[str]) -> list[str]:
    """Delete the items whose names, which are given in the same order, are among the keys.

    Returns the names of what is deleted.
    """
    names = list(names)
    if keys.isdisjoint(names):
        return []
    found = [(number, name) for number, name in enumerate(names) if name in keys]
    for number, _ in reversed(found):
        del items[number]
    return [name for _, name in found]
