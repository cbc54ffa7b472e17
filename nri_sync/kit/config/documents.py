"""Parses configuration files in JSON, TOML and YAML into mappings, lists and scalars.

JSON needs no package. TOML needs Python 3.11 or the package ``tomli``, and YAML the package ``PyYAML``: the extras
``toml`` and ``yaml`` install them. In all three formats a duplicate key is an error.
:mod:`.foreign` and :mod:`.foreign_yaml` parse JSON and YAML, within their bounds.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any, Callable, NamedTuple

from nri_sync.errors import ConfigError
from nri_sync.kit.config.foreign import (
    FILE,
    Bounds,
    NotInstalled,
    OutOfBounds,
    check_size,
    parse_json,
    read_text,
)
from nri_sync.kit.config.foreign_yaml import yaml_documents

__all__ = ["FORMATS", "Document", "parse", "read"]

_BY_SUFFIX = {".json": "json", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml"}
# The first significant line of a TOML document: a table, or a key with a value.
_TOML = re.compile(r"\[|[\w.\"' -]+=")


class Document(NamedTuple):
    """The content of a document, its format, and its source."""

    data: Any
    format: str
    source: str


def read(path: str | os.PathLike[str], format: str | None = None) -> Document:
    """Parse a file. Its suffix gives the format; without a known suffix, :func:`parse` recognises the format.

    Raises:
        ConfigError: the file cannot be read, or does not have its format.
        ValueError: the format is unknown.
    """
    source = os.fspath(path)
    try:
        text = read_text(source)
    except OutOfBounds as error:
        raise ConfigError(source, (str(error),)) from None
    except OSError as error:
        raise ConfigError(source, (f"cannot be read: {error.strerror}",)) from None
    except UnicodeDecodeError as error:
        problem = f"is not text in UTF-8: byte {error.object[error.start]:#04x} at {error.start}"
        raise ConfigError(source, (problem,)) from None
    return parse(text, source, format or _BY_SUFFIX.get(Path(source).suffix.lower()))


def parse(text: str, source: str, format: str | None = None, *, bounds: Bounds = FILE) -> Document:
    """Parse a document; ``source`` names it in messages.

    Without a ``format``, a document that begins with a brace is JSON, one that begins with a table or ``key =`` is
    TOML, and any other is YAML. An empty document of any format is an empty mapping.

    Raises:
        ConfigError: the document does not have its format, exceeds ``bounds``, or needs a missing package.
        ValueError: the format is unknown.
    """
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line and not line.startswith("#")), "")
    if format is not None and format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; the formats are {', '.join(FORMATS)}")
    known = format or ("json" if first[:1] == "{" else "toml" if _TOML.match(first) else "yaml")
    if not first:
        return Document({}, known, source)
    try:
        data = FORMATS[known](text, bounds)
    except (NotInstalled, OutOfBounds) as error:
        raise ConfigError(source, (str(error),)) from None
    except ValueError as error:
        read_as = known.upper() if format else f"{known.upper()} (guessed from its first line)"
        raise ConfigError(source, (f"is not {read_as}: {error}",)) from None
    return Document({} if data is None else data, known, source)


def _toml(text: str, bounds: Bounds) -> Any:
    try:
        tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ImportError:
        raise NotInstalled(
            "TOML needs Python 3.11 or the package tomli: pip install 'nri_sync[toml]'"
        ) from None
    check_size(text, bounds)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise OutOfBounds("is nested too deeply") from None


def _yaml(text: str, bounds: Bounds) -> Any:
    found = list(yaml_documents(text, bounds))
    if len(found) > 1:
        raise ValueError("there are several documents, and only one is expected")
    return found[0] if found else None


#: The parsers by the name of the format.
FORMATS: dict[str, Callable[[str, Bounds], Any]] = {
    "json": parse_json,
    "toml": _toml,
    "yaml": _yaml,
}
