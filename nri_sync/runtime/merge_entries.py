"""Merges maps and lists of entries. Each entry has a key and an owner, and a mark on the key requests its removal.

In a map, a removal without a new entry goes to the runtime and has no other effect: the entry of an earlier plugin
stays. In a list, a removal deletes the entry of an earlier plugin, and the caller handles the removal itself. The
reference does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from typing import Any, NamedTuple, TypeVar

from nri_sync.api import Field, LinuxNetDevice, removal
from nri_sync.runtime.claims import OwnershipClaims

__all__ = ["ANNOTATIONS", "NET_DEVICES", "SYSCTL", "Entries", "delete", "merge_list", "merge_map"]

_T = TypeVar("_T")


class Entries(NamedTuple):
    """A kind of map: the field of its owners, and the function that sets an entry."""

    field: int
    name: str
    put: Callable[[Any, str, Any], None]
    # The value of a removal.
    empty: Any


def _put_text(entries: Any, key: str, value: Any) -> None:
    entries[key] = value


def _put_message(entries: Any, key: str, value: Any) -> None:
    entries[key].CopyFrom(value)


ANNOTATIONS = Entries(Field.Annotations, "annotation", _put_text, "")
SYSCTL = Entries(Field.Sysctl, "sysctl", _put_text, "")
NET_DEVICES = Entries(Field.LinuxNetDevices, "network device", _put_message, LinuxNetDevice())


def merge_map(claims: OwnershipClaims, kind: Entries, wanted: Any, seen: Any, reply: Any) -> None:
    """Merge the map of a plugin into the maps of the container and of the reply."""
    removed = {key[1:] for key in wanted if removal.is_marked(key)}
    for key in sorted(wanted):
        if removal.is_marked(key):
            continue
        if key in removed:
            # The reply contains both the removal and the new entry.
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
    """Merge the list of a plugin into the list of the reply.

    Returns the removals by the keys that they remove, and the new entries by their keys. The reply contains the
    new entries, but not the removals.
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
    # No key occurs twice: the second claim would have been a conflict.
    new = dict(added)
    reply.extend(new.values())
    return removed, new


def delete(items: Any, names: Iterable[str], keys: Set[str]) -> list[str]:
    """Delete the items whose names are among the keys. ``names`` has the order of ``items``.

    Returns the names of the deleted items.
    """
    names = list(names)
    if keys.isdisjoint(names):
        return []
    found = [(number, name) for number, name in enumerate(names) if name in keys]
    for number, _ in reversed(found):
        del items[number]
    return [name for _, name in found]
