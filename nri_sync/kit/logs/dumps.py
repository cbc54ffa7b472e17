"""Messages as readable text, for the dump mode of the log. The limit bounds the cost for any message."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Union

from google.protobuf.message import Message

from nri_sync import EventMask, api
from nri_sync.kit.logs.masking import NO_MASK, Mask
from nri_sync.text import Lines, printable

__all__ = ["LIMIT", "DumpSelection", "as_text", "as_value", "selected_events"]

#: The greatest number of characters of one message.
LIMIT = 16384

#: The events to dump: a mask, or names as ``EventMask.parse`` takes them, ``configure`` and ``synchronize``.
DumpSelection = Union[EventMask, str, Iterable[str]]

_OTHERS = {"configure": "Configure", "synchronize": "Synchronize", "shutdown": "Shutdown"}

# The field that is a number in the schema, and a mask of events.
_EVENTS = "nri.pkg.api.v1alpha1.ConfigureResponse.events"

# Texts that YAML reads as strings without quotes.
_PLAIN = re.compile(r"[A-Za-z_/](?:[\w ./=+@-]|:(?=\S))*(?<! )", re.ASCII)
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def selected_events(selection: DumpSelection) -> frozenset[str]:
    """Return the names of the methods in a selection; ``"all"`` selects all requests.

    Raises ValueError for an unknown name.
    """
    if isinstance(selection, EventMask):
        return _of_mask(selection)
    names: set[str] = set()
    for text in (selection,) if isinstance(selection, str) else selection:
        for item in filter(None, (part.strip() for part in text.split(","))):
            other = _OTHERS.get(item.lower())
            names |= {other} if other else _of_mask(EventMask.parse(item))
            if item.lower() == "all":
                names |= set(_OTHERS.values())
    return frozenset(names)


def _of_mask(mask: EventMask) -> frozenset[str]:
    return frozenset(map(api.pretty_name, mask.numbers))


def as_text(message: Message, limit: int = LIMIT, mask: Mask = NO_MASK) -> Lines:
    """Return the fields that are set, in the style of YAML; truncated with a note after ``limit`` characters.

    All characters are printable. Each line is indented or begins with a field's name. ``mask`` replaces secrets.
    """
    lines: list[str] = []
    room = limit
    for line in _fields(message, "", mask):
        if len(line) >= room:
            lines.append(line[:room])
            lines.append(f"... (truncated; the message has {message.ByteSize()} bytes)")
            break
        lines.append(line)
        room -= len(line) + 1
    return Lines("\n".join(lines) if lines else "{}")


def as_value(message: Message, limit: int = LIMIT, mask: Mask = NO_MASK) -> Any:
    """Return a dictionary in the form of protobuf's JSON; for a message of more than ``limit`` bytes, its text."""
    if message.ByteSize() > limit:
        return as_text(message, limit, mask)
    from google.protobuf.json_format import MessageToDict  # only here, for programs without dumps

    return MessageToDict(mask.message(message), preserving_proto_field_name=True)


def _fields(message: Message, indent: str, mask: Mask) -> Iterator[str]:
    for field, value in message.ListFields():
        name = f"{indent}{field.name}:"
        value = mask.field(message, field.name, value)
        if isinstance(value, Mapping):
            yield name
            for key in sorted(value):
                yield from _entry(
                    f"{indent}  {_scalar(None, key)}:", field, value[key], indent, mask
                )
        elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
            yield name
            for item in value:
                yield from _item(field, item, indent, mask)
        else:
            yield from _entry(name, field, value, indent, mask)


def _entry(name: str, field: Any, value: Any, indent: str, mask: Mask) -> Iterator[str]:
    value = _unwrapped(value)
    if not isinstance(value, Message):
        yield f"{name} {_scalar(field, value)}"
    elif not value.ListFields():
        yield f"{name} {{}}"
    else:
        yield name
        yield from _fields(value, indent + "  ", mask)


def _item(field: Any, value: Any, indent: str, mask: Mask) -> Iterator[str]:
    if not isinstance(value, Message):
        yield f"{indent}- {_scalar(field, value)}"
        return
    empty = True
    for line in _fields(value, indent + "  ", mask):
        yield f"{indent}- {line[len(indent) + 2 :]}" if empty else line
        empty = False
    if empty:
        yield f"{indent}- {{}}"


def _unwrapped(value: Any) -> Any:
    """Return the value of an ``OptionalInt64`` or a similar message, which exists so that it can be unset."""
    if isinstance(value, Message) and value.DESCRIPTOR.name.startswith("Optional"):
        return value.value  # type: ignore[attr-defined]
    return value


def _scalar(field: Any, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
        # JSON escapes line feeds and quotes. printable() escapes the rest, in the notation of YAML.
        return value if plain else printable(json.dumps(value, ensure_ascii=False), None)
    if isinstance(value, bytes):
        return repr(value)
    if field is not None and field.enum_type is not None:
        number = field.enum_type.values_by_number.get(value)
        return str(value) if number is None else str(number.name)
    if field is not None and field.full_name == _EVENTS:
        return str(EventMask(value)) or "0"
    return str(value)
