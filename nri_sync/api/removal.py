"""The mark that turns an entry of an adjustment into the removal of that entry.

It is one leading ``-``, on annotation keys, mount destinations, environment keys, device paths,
namespace types, network devices' names on the host, and sysctl keys. A removal and a new entry of
the same key in one adjustment replace the entry, in either order.
"""

from __future__ import annotations

from typing import NamedTuple

from nri_sync.api import _check

__all__ = ["Key", "is_marked", "mark", "unmark"]


class Key(NamedTuple):
    """A key without its mark, and whether it had one."""

    key: str
    marked: bool


def mark(key: str) -> str:
    """The key, marked for removal. A key that has a mark gets a second one."""
    return "-" + _check.text("key", key)


def is_marked(key: str) -> bool:
    """Whether a key is marked for removal."""
    return key.startswith("-")


def unmark(key: str) -> Key:
    """Take one mark off a key, if it has any: ``("a", True)`` for "-a", ``("a", False)`` for "a"."""
    return Key(key[1:], True) if is_marked(key) else Key(key, False)
