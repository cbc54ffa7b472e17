"""The documents in a file or text: one of JSON, or any number of YAML."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Any, Union

from nri_sync.kit.config.foreign import (
    FILE,
    NotInstalled,
    OutOfBounds,
    json_values,
    read_text,
)
from nri_sync.kit.config.foreign_yaml import yaml_documents
from nri_sync.testing.manifests.fields import Fields
from nri_sync.testing.manifests.model import ManifestError

__all__ = ["TEMPLATE", "Input", "read"]

#: The path of a file, ``-`` for standard input, or the text itself. A newline or a brace identifies a text.
Input = Union[str, "os.PathLike[str]"]

#: The reason why a value with these braces cannot be read.
TEMPLATE = "{{ }}: this is a template: render it first, as `helm template` does"

_TEXT = "<text>"
_STDIN = "-"


def read(given: Input) -> list[Fields]:
    """The documents in a file or text, without empty ones.

    Raises ManifestError if it cannot be read, is neither JSON nor YAML, or has a document that is no object.
    """
    source, text = _text_of(given)
    documents: list[Any] = []
    for document in _parse(source, text):
        documents += document if isinstance(document, list) else [document]
    several = len(documents) > 1
    found = []
    for number, data in enumerate(documents, 1):
        where = f"{source}, document {number}" if several else source
        if data is None:
            continue
        if not isinstance(data, dict):
            raise ManifestError(
                where,
                "",
                "is a single value; an object with apiVersion and kind is expected",
            )
        found.append(Fields(data, where))
    if not found:
        raise ManifestError(source, "", "is empty: give it a Pod")
    return found


def _text_of(given: Input) -> tuple[str, str]:
    if isinstance(given, str):
        if given == _STDIN:
            # One byte above the limit shows that the input is too long.
            return "<stdin>", sys.stdin.read(FILE.bytes + 1)
        if "\n" in given or given.lstrip().startswith(("{", "[")):
            return _TEXT, given
    source = os.fspath(given)
    try:
        return source, read_text(given)
    except OutOfBounds as error:
        problem = str(error)
    except FileNotFoundError:
        problem = "there is no such file"
    except IsADirectoryError:
        problem = "is a directory: name the files in it"
    except UnicodeDecodeError as error:
        problem = f"is not text in UTF-8: byte {error.object[error.start]:#04x} at {error.start}"
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problem = f"cannot be read: {reason}"
    raise ManifestError(source, "", problem)


def _parse(source: str, text: str) -> Sequence[Any]:
    try:
        if text.lstrip().startswith(("{", "[")):
            try:
                return list(json_values(text))
            except OutOfBounds:
                raise
            except ValueError as error:
                # YAML in flow style begins in the same way.
                if _looks_like_json(text):
                    raise ManifestError(source, "", _explained(text, "JSON", error)) from None
        return list(yaml_documents(text, in_order=True))
    except (NotInstalled, OutOfBounds) as error:
        raise ManifestError(source, "", str(error)) from None
    except ManifestError:
        raise
    except ValueError as error:
        raise ManifestError(source, "", _explained(text, "YAML", error)) from None


def _looks_like_json(text: str) -> bool:
    return re.match(r'\s*[{\[]\s*["{}\]]', text) is not None


def _explained(text: str, format: str, error: ValueError) -> str:
    """The reason why a text cannot be parsed. Often it is the template of a manifest."""
    found = text.find("{{")
    if found >= 0 and "}}" in text[found:]:
        line = text.count("\n", 0, found) + 1
        return f"line {line} has {TEMPLATE}"
    return f"is not {format}: {error}"
