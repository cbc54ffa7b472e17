"""JSON and YAML from untrusted authors: data within bounds, or a ValueError of one line.

Every text that comes from outside is parsed here. Bounds hold for the document as it would be with its aliases
written out, so that a few lines of YAML cannot become gigabytes. The work is linear in the size of the text, no
function calls itself, and errors quote little of the text.

This module has the bounds, and JSON; YAML is in :mod:`.foreign_yaml`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nri_sync.text import printable

__all__ = [
    "ANNOTATION",
    "DIGITS",
    "FILE",
    "Bounds",
    "Count",
    "NotInstalled",
    "OutOfBounds",
    "at",
    "check_size",
    "clean",
    "json_values",
    "parse_json",
    "read_text",
    "shown",
]


@dataclass(frozen=True)
class Bounds:
    """The most that one text may hold. An alias of YAML counts as its target."""

    #: Of the text, and of all scalars together.
    bytes: int
    #: Scalars, lists and mappings, keys included.
    values: int
    depth: int = 100


#: Annotations: Kubernetes gives all those of an object 256 KiB.
ANNOTATION = Bounds(bytes=256 << 10, values=20_000)
#: Files that the user names.
FILE = Bounds(bytes=16 << 20, values=1_000_000)

#: More digits than any number needs; Python's int() is quadratic in them.
DIGITS = 400
_QUOTED = 60


class NotInstalled(Exception):
    """The package that reads a format is not installed."""


class OutOfBounds(ValueError):
    """A text has more than it may: "has more than the 262,144 bytes that are allowed"."""


def read_text(path: str | os.PathLike[str], bounds: Bounds = FILE) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises OSError, UnicodeDecodeError, or OutOfBounds; no more bytes are read than are allowed.
    """
    with open(path, "rb") as file:
        data = file.read(bounds.bytes + 1)
    if len(data) > bounds.bytes:
        raise OutOfBounds(_too_large(bounds))
    return data.decode("utf-8-sig")


def _too_large(bounds: Bounds) -> str:
    return f"has more than the {bounds.bytes:,} bytes that are allowed"


def check_size(text: str, bounds: Bounds) -> None:
    """Raise OutOfBounds for a text of too many bytes."""
    if len(text) > bounds.bytes or len(text.encode(errors="surrogatepass")) > bounds.bytes:
        raise OutOfBounds(_too_large(bounds))


class Count:
    """The sizes of a document, as far as it has been read."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.values = 0
        self.characters = 0

    def add(self, values: int, characters: int) -> None:
        self.values += values
        self.characters += characters
        if self.values > self._bounds.values:
            raise OutOfBounds(f"has more than the {self._bounds.values:,} values that are allowed")
        if self.characters > self._bounds.bytes:
            raise OutOfBounds(_too_large(self._bounds))

    def check_depth(self, depth: int) -> None:
        if depth > self._bounds.depth:
            raise OutOfBounds(
                f"is nested too deeply: more than the {self._bounds.depth} levels that are allowed"
            )


def shown(text: str) -> str:
    """The beginning of a text, for errors."""
    return printable(text, _QUOTED)


def at(line: int, column: int) -> str:
    """A place, as errors begin with it."""
    return f"line {line}, column {column}: "


# JSON

# An unclosed string ends with the text, so that the search visits no quote twice.
_JSON_PART = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SPACE = re.compile(r"[ \t\n\r]*")


def parse_json(text: str, bounds: Bounds = FILE) -> Any:
    """The value of a JSON text. A key that is there twice, and NaN or Infinity, are errors.

    Raises OutOfBounds, and ValueError if the text is not JSON.
    """
    values = json_values(text, bounds)
    found = next(values, _NOTHING)
    if found is _NOTHING:
        raise ValueError(f"{at(1, 1)}expecting value")
    if next(values, _NOTHING) is not _NOTHING:
        raise ValueError("there is something behind its end")
    return found


_NOTHING = object()


def json_values(text: str, bounds: Bounds = FILE) -> Iterator[Any]:
    """All values in a text, as several calls of a program write them one after the other.

    Raises OutOfBounds, and ValueError if the text is not JSON.
    """
    check_size(text, bounds)
    _measure_json(text, bounds)
    decoder = json.JSONDecoder(
        object_pairs_hook=_unique, parse_constant=_constant, parse_int=_integer, parse_float=_float
    )
    plain = _ESCAPED_SURROGATE.search(text) is None and _SURROGATE.search(text) is None
    place = 0
    while True:
        match = _SPACE.match(text, place)
        place = match.end() if match else place
        if place == len(text):
            return
        try:
            value, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            problem = error.msg[:1].lower() + error.msg[1:]
            raise ValueError(f"{at(error.lineno, error.colno)}{problem}") from None
        except RecursionError:
            raise OutOfBounds("is nested too deeply for the stack that is left") from None
        yield value if plain else _without_surrogates(value)


def _measure_json(text: str, bounds: Bounds) -> None:
    """Before it is parsed: the parser calls itself."""
    count, depth = Count(bounds), 0
    for match in _JSON_PART.finditer(text):
        part = text[match.start()]
        if part in "[{":
            depth += 1
            count.check_depth(depth)
            count.add(1, 0)
        elif part in "]}":
            depth -= 1
        else:
            count.add(1, 0)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f'the key "{shown(key)}" is there twice')
            seen.add(key)
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"{shown(text)} has too many digits")
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{shown(text)} is too large a number")
    return number


def clean(text: str) -> str:
    """As Go has it: half of a surrogate pair is no character."""
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def _without_surrogates(value: Any) -> Any:
    # No deeper than is allowed.
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): _without_surrogates(item) for key, item in value.items()}
    return value
