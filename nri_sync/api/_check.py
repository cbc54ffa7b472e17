"""Checks on values that go into messages.

protobuf also checks values, but its errors differ between implementations and name neither the field nor the
value. Every function returns the value, or raises TypeError for a wrong type and ValueError for a value that the
wire type cannot hold.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import NamedTuple, NoReturn

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from nri_sync.text import quoted

__all__ = [
    "INT32",
    "INT64",
    "UINT32",
    "UINT64",
    "Range",
    "enumerator",
    "enumerators",
    "flag",
    "integer",
    "show",
    "text",
    "texts",
    "unmarked",
    "wrong_type",
]


class Range(NamedTuple):
    """The values of an integer type. ``low`` and ``high`` are included."""

    name: str
    low: int
    high: int


INT32 = Range("int32", -(2**31), 2**31 - 1)
UINT32 = Range("uint32", 0, 2**32 - 1)
INT64 = Range("int64", -(2**63), 2**63 - 1)
UINT64 = Range("uint64", 0, 2**64 - 1)


def show(value: object) -> str:
    """A value for an error message, shortened if it is long."""
    return quoted(value)


def wrong_type(field: str, wanted: str, value: object) -> NoReturn:
    raise TypeError(f"{field} must be {wanted}, not {type(value).__name__}: {show(value)}")


def integer(field: str, value: object, kind: Range) -> int:
    if type(value) is int:
        number = value
    # In Python True is an int, but a bool as an amount is a mistake. isinstance(value, SupportsIndex) would take
    # ten times as long.
    elif isinstance(value, bool) or not hasattr(value, "__index__"):
        wrong_type(field, "an int", value)
    else:
        # Before Python 3.10, operator.index() returns an IntEnum unchanged.
        number = int(operator.index(value))
    if not kind.low <= number <= kind.high:
        raise ValueError(
            f"{field} must be from {kind.low} to {kind.high} ({kind.name}), not {show(number)}"
        )
    return number


def flag(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        wrong_type(field, "a bool", value)
    return value


def text(field: str, value: object) -> str:
    if not isinstance(value, str):
        wrong_type(field, "a str", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{field} cannot be written as UTF-8, which protobuf requires: {show(value)}"
        ) from None
    return value


def texts(field: str, values: object) -> list[str]:
    # A str is an iterable of str, but as a list of texts it is a mistake.
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        wrong_type(field, "a sequence of str", values)
    return [text(f"{field}[{number}]", value) for number, value in enumerate(values)]


def unmarked(field: str, key: object, remove: str) -> str:
    """A key without the mark with which NRI requests the removal of an entry."""
    checked = text(field, key)
    if checked.startswith("-"):
        raise ValueError(
            f"{field} {show(key)} starts with '-', which marks a removal; use {remove} to remove an entry"
        )
    return checked


def enumerator(field: str, kind: EnumTypeWrapper, value: object) -> str:
    """The name of an enum value. ``value`` is its name or its number."""
    names = kind.keys()
    if isinstance(value, str):
        if value not in names:
            raise ValueError(f"{field} must be one of {', '.join(names)}, not {show(value)}")
        return value
    number = integer(field, value, INT32)
    if number not in kind.values():
        raise ValueError(f"{field} must be one of {kind.items()}, not {number}")
    return kind.Name(number)


def enumerators(field: str, kind: EnumTypeWrapper, values: object) -> list[str]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        wrong_type(field, f"a sequence of {kind.DESCRIPTOR.name}", values)
    return [enumerator(f"{field}[{number}]", kind, value) for number, value in enumerate(values)]
