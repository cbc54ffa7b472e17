"""Compares the answers and requests of a plugin with the recorded ones."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from nri_sync.kit.logs.dumps import as_text
from nri_sync.testing.recordings.entries import Entry
from nri_sync.text import printable

__all__ = ["Difference", "compare"]

_NOTHING = "nothing\n"


@dataclass(frozen=True, repr=False)
class Difference:
    """An answer or a request of a plugin that differs from the recording."""

    #: The subject: ``CreateContainer default/web:nginx``.
    what: str
    #: Seconds from the beginning of the recording.
    time: float
    #: A message or an error as text, or the text "nothing".
    recorded: str
    now: str

    @property
    def diff(self) -> str:
        """The lines that differ, with their context."""
        lines = difflib.unified_diff(
            self.recorded.splitlines(), self.now.splitlines(), "recorded", "now", lineterm="", n=2
        )
        return "\n".join(lines)

    def __str__(self) -> str:
        return f"{self.what}, {self.time:.3f} s into the recording:\n{self.diff}"

    def __repr__(self) -> str:
        # pytest prints the representation of each item of a list that should be empty.
        return f"\n{self}\n"


def compare(subject: str, recorded: Entry | None, now: Entry | None) -> list[Difference]:
    """The difference of two entries, if there is one; None stands for a missing entry."""
    entry = recorded or now
    if entry is None or _content(recorded) == _content(now):
        return []
    return [Difference(subject, entry.time, _text(recorded), _text(now))]


def _content(entry: Entry | None) -> Any:
    """The value by which two entries are compared."""
    if entry is None:
        return None
    if entry.code:
        return entry.code, entry.error
    return (
        None
        if entry.message is None
        else _without_empty(entry.message).SerializeToString(deterministic=True)
    )


def _without_empty(message: Any) -> Any:
    """A copy without empty messages. Optional values are kept, even if they are 0."""
    copy = type(message)()
    copy.CopyFrom(message)
    copy.DiscardUnknownFields()
    _strip(copy)
    return copy


def _strip(message: Any) -> bool:
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            continue
        if isinstance(value, type(message)) or hasattr(value, "ListFields"):
            optional = field.message_type.name.startswith("Optional")
            if not optional and not _strip(value):
                message.ClearField(field.name)
        else:
            for item in value:
                _strip(item)
    return bool(message.ListFields())


def _text(entry: Entry | None) -> str:
    if entry is None:
        return _NOTHING
    if entry.code:
        return f"error {entry.code}: {printable(entry.error)}\n"
    if entry.message is None:
        return f"{printable(entry.note or 'nothing')}\n"
    return as_text(_without_empty(entry.message), 1 << 20) + "\n"
