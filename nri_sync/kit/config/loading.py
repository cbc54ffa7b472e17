"""Typed configuration: a document in, an object of your dataclass out, or all that is wrong with it at once.

The fields of the dataclass are the keys of the document. A field may be ``bool``, ``int``, ``float``, ``str``,
``Path``, an Enum, a Literal, a list, tuple, set or dict of these, another dataclass, an Optional or Union of
these, or ``Any``. A class with a classmethod ``parse``, such as Quantity or EventMask, is what that makes of the
value, ``Annotated[T, function]`` what the function does: :data:`Duration`, :data:`Bytes` and :data:`Cpus` are
such types. Nothing is converted silently: "no" is no boolean, 5 no text. An Enum is written by its values where
they are text, else by its names.

A field without a default is required. ``field(metadata={"key": "class"})`` gives it another name in the document.
``__post_init__`` may raise ValueError to refuse what does not go together.

Why this is not left to a library: of those for dataclasses, msgspec and dacite report the first error only,
pydantic ignores unknown keys of plain dataclasses, and cattrs takes 5 for text, "no" for true, and "abc" for a
list of three: to say what is said here, all of its readers of simple types would have to be replaced, which is
most of nri_sync.kit.config.readers. A model of pydantic or msgspec can take the place of the dataclass.
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

#: Seconds: ``"1.5s"``, ``"2m30s"``, or a number of them.
Duration = Annotated[float, parse_duration]
#: Bytes: ``"200Mi"``, ``"1.5G"``, or a number of them.
Bytes = Annotated[int, lambda value: int(Quantity.parse(value))]
#: CPUs: ``"250m"``, or a number of them.
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
            function that is called with the data of the document, a mapping as a rule, and raises ValueError to
            refuse it.
        format: ``"json"``, ``"toml"`` or ``"yaml"``; default is that of the file's suffix, or what the text
            looks like.
        name: what to call a text in messages.

    Raises:
        ConfigError: the document cannot be read, or does not fit; it tells all that is wrong.
        TypeError: ``cls`` has a field of a type that is not supported.
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
    """Raise TypeError if :func:`load` could not use ``cls``: a mistake of the program, not of its user."""
    reader_of(cls)
