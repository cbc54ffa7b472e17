"""Parses JSON and YAML from untrusted authors: returns data within bounds, or raises a ValueError of one line.

Every text from outside is parsed here. The bounds apply to the document with its aliases expanded, so that a few
lines of YAML cannot become gigabytes. The work is linear in the size of the text, no function is recursive, and
errors quote only a short part of the text.

This module has the bounds and the JSON parser. The YAML parser is in :mod:`.foreign_yaml`.
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
    """The limits for one text. An alias of YAML counts as its target."""

    #: The size of the text, and the size of all scalars together.
    bytes: int
    #: The number of scalars, lists and mappings, including keys.
    values: int
    depth: int = 100


#: For annotations: Kubernetes limits all annotations of an object to 256 KiB.
ANNOTATION = Bounds(bytes=256 << 10, values=20_000)
#: For files that the user names.
FILE = Bounds(bytes=16 << 20, values=1_000_000)

#: The greatest number of digits. No number needs more, and Python's int() takes quadratic time in them.
DIGITS = 400
_QUOTED = 60


class NotInstalled(Exception):
    """The package that parses a format is not installed."""


class OutOfBounds(ValueError):
    """A text exceeds its bounds: "has more than the 262,144 bytes that are allowed"."""


def read_text(path: str | os.PathLike[str], bounds: Bounds = FILE) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark.

    Raises OSError, UnicodeDecodeError, or OutOfBounds. Reads no more bytes than ``bounds`` allows.
    """
    with open(path, "rb") as file:
        data = file.read(bounds.bytes + 1)
    if len(data) > bounds.bytes:
        raise OutOfBounds(_too_large(bounds))
    return data.decode("utf-8-sig")


def _too_large(bounds: Bounds) -> str:
    return f"has more than the {bounds.bytes:,} bytes that are allowed"


def check_size(text: str, bounds: Bounds) -> None:
    """Raise OutOfBounds if a text has too many bytes."""
    if len(text) > bounds.bytes or len(text.encode(errors="surrogatepass")) > bounds.bytes:
        raise OutOfBounds(_too_large(bounds))


class Count:
    """The sizes of the part of a document that has been read."""

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
    """Return the beginning of a text, for errors."""
    return printable(text, _QUOTED)


def at(line: int, column: int) -> str:
    """Return a position as a prefix of errors."""
    return f"line {line}, column {column}: "


# JSON

# An unclosed string extends to the end of the text, so that the search visits no quote twice.
_JSON_PART = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SPACE = re.compile(r"[ \t\n\r]*")


def parse_json(text: str, bounds: Bounds = FILE) -> Any:
    """Return the value of a JSON text. A duplicate key, NaN and Infinity are errors.

    Raises OutOfBounds, and ValueError if the text is not JSON.
    """
    values = json_values(text, bounds)
    found = next(values, _NOTHING)
    if found is _NOTHING:
        raise ValueError(f"{at(1, 1)}expecting value")
    if next(values, _NOTHING) is not _NOTHING:
        raise ValueError("there is text after the value")
    return found


_NOTHING = object()


def json_values(text: str, bounds: Bounds = FILE) -> Iterator[Any]:
    """Yield all values in a text, as several calls of a program write them one after the other.

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
            raise OutOfBounds("is nested too deeply for the remaining stack") from None
        yield value if plain else _without_surrogates(value)


def _measure_json(text: str, bounds: Bounds) -> None:
    """Check the bounds before the text is parsed, because the parser is recursive."""
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
                raise ValueError(f'the key "{shown(key)}" appears twice')
            seen.add(key)
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


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
    """Replace each half of a surrogate pair, as Go does: it is not a character."""
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def _without_surrogates(value: Any) -> Any:
    # The recursion is bounded, because the depth of the value is.
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): _without_surrogates(item) for key, item in value.items()}
    return value
