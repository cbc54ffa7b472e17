"""Configuration files as data: JSON, TOML and YAML in, mappings, lists and scalars out.

JSON needs nothing, TOML Python 3.11 or the package ``tomli``, YAML the package ``PyYAML``: the extras ``toml`` and
``yaml`` bring them. A key that is given twice is an error in all three.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, Callable, NamedTuple

from nri_sync.errors import ConfigError

__all__ = ["FORMATS", "Document", "parse", "read"]

_BY_SUFFIX = {".json": "json", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml"}
# The first line of a TOML document that says anything: a table, or a key with a value.
_TOML = re.compile(r"\[|[\w.\"' -]+=")


class Document(NamedTuple):
    """What a document holds, the format that it was read as, and where it came from."""

    data: Any
    format: str
    source: str


def read(path: str | os.PathLike[str], format: str | None = None) -> Document:
    """Parse a file; its format is that of its suffix, or else as :func:`parse` finds it.

    Raises:
        ConfigError: it cannot be read, or is not of its format.
        ValueError: there is no such format.
    """
    source = os.fspath(path)
    try:
        text = Path(source).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(source, (f"cannot be read: {error.strerror}",)) from None
    except UnicodeDecodeError as error:
        problem = f"is not text in UTF-8: byte {error.object[error.start]:#04x} at {error.start}"
        raise ConfigError(source, (problem,)) from None
    return parse(text, source, format or _BY_SUFFIX.get(Path(source).suffix.lower()))


def parse(text: str, source: str, format: str | None = None) -> Document:
    """Parse a document; ``source`` is for messages.

    Without a ``format``, one that begins with a brace is JSON, with a table or ``key =`` TOML, any other YAML.
    An empty document, of whatever format, is an empty mapping.

    Raises:
        ConfigError: it is not of its format, or what reads that is not installed.
        ValueError: there is no such format.
    """
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line and not line.startswith("#")), "")
    if format is not None and format not in FORMATS:
        raise ValueError(f"there is no format {format!r}; there are {', '.join(FORMATS)}")
    known = format or ("json" if first[:1] == "{" else "toml" if _TOML.match(first) else "yaml")
    if not first:
        return Document({}, known, source)
    try:
        data = FORMATS[known](text)
    except _NotInstalled as error:
        raise ConfigError(source, (str(error),)) from None
    except (ValueError, RecursionError) as error:
        read_as = known.upper() if format else f"{known.upper()} (which it looks like)"
        raise ConfigError(source, (f"is not {read_as}: {error}",)) from None
    return Document({} if data is None else data, known, source)


class _NotInstalled(Exception):
    """The package that reads a format is not there."""


def _json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        message = error.msg[:1].lower() + error.msg[1:]
        raise ValueError(f"line {error.lineno}, column {error.colno}: {message}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'the key "{twice}" is there twice')
    return found


def _toml(text: str) -> Any:
    try:
        tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ImportError:
        raise _NotInstalled(
            "TOML needs Python 3.11 or the package tomli: pip install 'nri_sync[toml]'"
        ) from None
    return tomllib.loads(text)


def _yaml(text: str) -> Any:
    try:
        yaml = importlib.import_module("yaml")
    except ImportError:
        raise _NotInstalled(
            "YAML needs the package PyYAML: pip install 'nri_sync[yaml]' (JSON needs nothing)"
        ) from None

    class Loader(yaml.SafeLoader):  # type: ignore[misc, name-defined]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            # Before merge keys ("<<") bring in what may be overridden.
            seen = set()
            for key, _ in node.value:
                if isinstance(key.value, str):
                    if key.value in seen:
                        raise ValueError(
                            f'{_at(key.start_mark)}the key "{key.value}" is there twice'
                        )
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        said = ", ".join(filter(None, (error.context, error.problem)))
        raise ValueError(f"{_at(error.problem_mark)}{said}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def _at(mark: Any) -> str:
    return "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "


#: What turns text into data, by the name of the format.
FORMATS: dict[str, Callable[[str], Any]] = {"json": _json, "toml": _toml, "yaml": _yaml}
