"""Typed configuration: reads a document into an object of your dataclass, or reports all its mistakes at once.

The fields of the dataclass are the keys of the document. A field may be ``bool``, ``int``, ``float``, ``str``,
``Path``, an Enum, a Literal, a list, tuple, set or dict of these, another dataclass, an Optional or Union of
these, or ``Any``. For a class with a classmethod ``parse``, such as Quantity or EventMask, the field is the result
of ``parse(value)``; for ``Annotated[T, function]`` it is the result of the function. :data:`Duration`,
:data:`Bytes` and :data:`Cpus` are such types. No value is converted silently: "no" is not a boolean, and 5 is not
a text. A document gives an Enum by its values if they are texts, else by its names.

A field without a default is required. ``field(metadata={"key": "class"})`` gives a field another name in the
document. ``__post_init__`` may raise ValueError to refuse values that contradict each other.

Why no library does this: msgspec and dacite report only the first error, pydantic ignores unknown keys of plain
dataclasses, and cattrs takes 5 as a text, "no" as true, and "abc" as a list of three. To get these messages from
cattrs, this package would have to replace all its readers of simple types, which are most of
nri_sync.kit.config.readers. A model of pydantic or msgspec can take the place of the dataclass.
"""

from __future__ import annotations

import os
from typing import Annotated, Callable, TypeVar

from nri_sync.errors import ConfigError
from nri_sync.kit.config import documents
from nri_sync.kit.config.durations import parse_duration
from nri_sync.kit.config.readers import Place, reader_of
from nri_sync.kit.fields.quantity import Quantity

__all__ = ["Bytes", "Cpus", "Duration", "check", "load"]

T = TypeVar("T")

#: Seconds: ``"1.5s"``, ``"2m30s"``, or a number.
Duration = Annotated[float, parse_duration]
#: Bytes: ``"200Mi"``, ``"1.5G"``, or a number.
Bytes = Annotated[int, lambda value: int(Quantity.parse(value))]
#: CPUs: ``"250m"``, or a number.
Cpus = Annotated[float, lambda value: float(Quantity.parse(value))]


def load(
    cls: Callable[..., T],
    source: str | os.PathLike[str],
    *,
    format: str | None = None,
    name: str = "the configuration",
) -> T:
    """Read a configuration: ``source`` is a Path to a file, or the text of a document (a ``str``).

    Args:
        cls: a dataclass; ``list[X]`` or ``dict[str, X]``; a model of pydantic (2) or a Struct of msgspec; or a
            function that is called with the data of the document, usually a mapping, and raises ValueError to
            refuse it.
        format: ``"json"``, ``"toml"`` or ``"yaml"``; default is the format of the file's suffix, or the one that
            the text begins like.
        name: the name of a text in messages.

    Raises:
        ConfigError: the document cannot be read, or does not fit the type. It lists all mistakes.
        TypeError: ``cls`` has a field of an unsupported type.
    """
    read = reader_of(cls)
    document = (
        documents.parse(source, name, format)
        if isinstance(source, str)
        else documents.read(source, format)
    )
    place = Place("", [])
    value: T = read(document.data, place)
    if place.problems:
        raise ConfigError(document.source, tuple(place.lines()))
    return value


def check(cls: Callable[..., object]) -> None:
    """Raise TypeError if :func:`load` cannot use ``cls``: a mistake of the program, not of its user."""
    reader_of(cls)
