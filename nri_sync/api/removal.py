"""The mark that turns an entry of an adjustment into the removal of that entry.

The mark is one leading ``-`` on an annotation key, mount destination, environment key, device path, namespace
type, sysctl key, or a network device's name on the host. A removal and a new entry of the same key in one
adjustment replace the entry, in either order.
"""

from __future__ import annotations

from typing import NamedTuple

from nri_sync.api import _check

__all__ = ["Key", "is_marked", "mark", "unmark"]


class Key(NamedTuple):
    """A key without its mark, and whether it was marked."""

    key: str
    marked: bool


def mark(key: str) -> str:
    """The key, marked for removal. A marked key gets a second mark."""
    return "-" + _check.text("key", key)


def is_marked(key: str) -> bool:
    """Whether a key is marked for removal."""
    return key.startswith("-")


def unmark(key: str) -> Key:
    """Remove one mark from a key, if it has one: ``("a", True)`` for "-a", ``("a", False)`` for "a"."""
    return Key(key[1:], True) if is_marked(key) else Key(key, False)
