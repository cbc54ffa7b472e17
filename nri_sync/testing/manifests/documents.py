"""The documents in a file or text: JSON, or YAML with any number of them."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Union

from nri_sync.testing.manifests.fields import Fields
from nri_sync.testing.manifests.model import ManifestError

__all__ = ["Input", "read"]

#: The path of a file, ``-`` for standard input, or the text itself, which is recognized by a newline or brace.
Input = Union[str, "os.PathLike[str]"]

_TEXT = "<text>"
_STDIN = "-"
_TOO_DEEP = "is nested too deeply"


def read(given: Input) -> list[Fields]:
    """The documents in a file or text that are not empty.

    Raises ManifestError if it cannot be read, is no JSON or YAML, or a document is no object.
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
                "is a mere value, where an object with apiVersion and kind is expected",
            )
        found.append(Fields(data, where))
    if not found:
        raise ManifestError(source, "", "is empty: give it a Pod")
    return found


def _text_of(given: Input) -> tuple[str, str]:
    if isinstance(given, str):
        if given == _STDIN:
            return "<stdin>", sys.stdin.read()
        if "\n" in given or given.lstrip().startswith(("{", "[")):
            return _TEXT, given
    path = Path(given)
    source = str(path)
    try:
        return source, path.read_text(encoding="utf-8-sig")
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
    if text.lstrip().startswith(("{", "[")):
        try:
            return list(_json(text))
        except RecursionError:
            raise ManifestError(source, "", _TOO_DEEP) from None
        except json.JSONDecodeError as error:
            # Flow style YAML begins alike.
            if _looks_like_json(text):
                problem = f"line {error.lineno}, column {error.colno}: {error.msg}"
                raise ManifestError(source, "", f"is not JSON: {problem}") from None
    return _yaml(source, text)


def _looks_like_json(text: str) -> bool:
    return re.match(r'\s*[{\[]\s*["{}\]]', text) is not None


def _json(text: str) -> Iterator[Any]:
    """All values in a text, as several calls of crictl write them one after the other."""
    decoder = json.JSONDecoder()
    at = 0
    while True:
        rest = re.compile(r"\s*").match(text, at)
        at = rest.end() if rest else at
        if at == len(text):
            return
        value, at = decoder.raw_decode(text, at)
        yield value


def _yaml(source: str, text: str) -> Sequence[Any]:
    try:
        yaml = importlib.import_module("yaml")
    except ImportError:
        raise ManifestError(
            source,
            "",
            "YAML needs the package PyYAML: pip install 'nri_sync[yaml]' (JSON needs nothing)",
        ) from None

    class Loader(yaml.SafeLoader):  # type: ignore[misc, name-defined]
        # Kubernetes knows no times: these are texts.
        yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own)
            first: [item for item in found if item[0] != "tag:yaml.org,2002:timestamp"]
            for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value:
                if isinstance(key.value, str):
                    if key.value in seen:
                        problem = f'the key "{key.value}" is there twice'
                        raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        return list(yaml.load_all(text, Loader))
    except RecursionError:
        raise ManifestError(source, "", _TOO_DEEP) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        said = ", ".join(filter(None, (error.context, error.problem)))
        raise ManifestError(source, "", f"is not YAML: {place}{said}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ManifestError(source, "", f"is not YAML: {' '.join(str(error).split())}") from None
