"""Parses YAML from untrusted authors: see :mod:`.foreign`.

It is read as Kubernetes reads it, with sigs.k8s.io/yaml on go.yaml.in/yaml/v2: "yes" and "on" are true, 010
and 0o10 are 8, and 22:22 and 2025-03-01 are texts. Tags outside YAML's core schema are errors.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Callable

from nri_sync.kit.config.foreign import (
    DIGITS,
    FILE,
    Bounds,
    Count,
    NotInstalled,
    OutOfBounds,
    at,
    check_size,
    clean,
    shown,
)

__all__ = ["resolve", "yaml_documents"]

_CORE = "tag:yaml.org,2002:"
_MERGE = f"{_CORE}merge"
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
}  # fmt: skip
_INTEGER = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))")
_BASES = ((2, 16), (3, 2), (4, 8), (5, 10))
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def resolve(text: str) -> Any:
    """Return the value of a plain scalar (``resolve`` in go.yaml.in/yaml/v2, resolve.go).

    The exceptions are y and n. They are booleans there, and texts here, because most of them are names.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789" or len(text) > DIGITS:
        return text
    plain = text if text[0] == "." else text.replace("_", "")
    integer = _INTEGER.fullmatch(plain)
    if integer is not None:
        group, base = next(item for item in _BASES if integer[item[0]] is not None)
        number = int(integer[1] + integer[group], base)
        if -(1 << 63) <= number < 1 << (63 if integer[1] else 64):
            return number
    if _FLOAT.fullmatch(plain):
        found = float(plain)
        return text if found in (float("inf"), float("-inf")) else found
    return text


def _tagged(tag: str, text: str) -> Any:
    """Return the value of a scalar with a tag. Raises ValueError."""
    short = tag[len(_CORE) :] if tag.startswith(_CORE) else tag
    if short in ("!", "str", "timestamp"):
        return text
    if short == "binary":
        try:
            return base64.b64decode("".join(text.split()), validate=True).decode(errors="replace")
        except binascii.Error:
            raise ValueError("!!binary is not base64") from None
    kinds: dict[str, Any] = {
        "bool": (bool,), "int": (int,), "float": (int, float), "null": (type(None),),
    }  # fmt: skip
    if short not in kinds:
        raise ValueError(f"could not determine a constructor for the tag {shown(tag)!r}")
    found: Any = resolve(text)
    if not isinstance(found, kinds[short]) or isinstance(found, bool) is not (short == "bool"):
        raise ValueError(f"cannot decode {shown(text)!r} as a !!{short}")
    if short == "float":
        return float(found)
    return found


def yaml_documents(text: str, bounds: Bounds = FILE, *, in_order: bool = False) -> Iterator[Any]:
    """Yield the values of all documents in a text. A duplicate key is an error.

    A key in a mapping overrides the same key that ``<<`` merges. With ``in_order`` the last one wins, as in
    Kubernetes.

    Aliased values are shared: do not change the result.

    Raises NotInstalled without the package PyYAML, OutOfBounds, and ValueError if the text is not YAML.
    """
    check_size(text, bounds)
    try:
        yaml = importlib.import_module("yaml")
    except ImportError:
        raise NotInstalled(
            "YAML needs the package PyYAML: pip install 'nri_sync[yaml]' (JSON needs no package)"
        ) from None
    count = Count(bounds)
    try:
        builder = _Builder(count, in_order)
        for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            kind = type(event).__name__
            if kind == "DocumentStartEvent":
                builder = _Builder(count, in_order)
            elif kind == "DocumentEndEvent":
                yield builder.value
            else:
                builder.take(kind, event)
    except yaml.MarkedYAMLError as error:
        said = ", ".join(filter(None, (error.context, error.problem)))
        if "maximum nesting depth" in said:
            # libyaml's own limit, which its look-ahead reaches first.
            raise OutOfBounds("is nested too deeply") from None
        raise ValueError(f"{_mark(error.problem_mark)}{said[:300]}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:300]) from None


def _mark(mark: Any) -> str:
    return "" if mark is None else at(mark.line + 1, mark.column + 1)


@dataclass
class _Open:
    """A list or mapping whose end has not been parsed yet."""

    value: Any
    mark: Any
    anchor: str | None
    values: int
    characters: int
    is_mapping: bool
    key: Any = None
    has_key: bool = False
    merging: bool = False
    written: set[Any] = field(default_factory=set)
    #: The number of levels of nesting, including this one.
    height: int = 1


@dataclass(frozen=True)
class _Anchored:
    value: Any
    values: int
    characters: int
    height: int


class _Builder:
    """Builds the value of one document from the parser's events."""

    def __init__(self, count: Count, in_order: bool) -> None:
        self.value: Any = None
        self._in_order = in_order
        self._count = count
        self._open: list[_Open] = []
        #: None for an anchor whose value has not ended.
        self._anchors: dict[str, _Anchored | None] = {}

    def take(self, kind: str, event: Any) -> None:
        handler: Callable[[Any], None] | None = {
            "ScalarEvent": self._scalar,
            "AliasEvent": self._alias,
            "SequenceStartEvent": self._begin,
            "MappingStartEvent": self._begin,
            "SequenceEndEvent": self._end,
            "MappingEndEvent": self._end,
        }.get(kind)
        if handler is not None:
            try:
                handler(event)
            except (OutOfBounds, _Placed):
                raise
            except ValueError as error:
                raise _Placed(f"{_mark(event.start_mark)}{error}") from None

    def _scalar(self, event: Any) -> None:
        text = clean(event.value)
        self._count.add(1, len(text))
        plain = event.tag is None and event.implicit[0]
        merging = event.tag == _MERGE or (plain and text == "<<")
        if merging or (event.tag is None and not plain):
            value: Any = text
        else:
            value = resolve(text) if plain else _tagged(event.tag, text)
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchored(value, 1, len(text), 0)
        self._put(value, event.start_mark, 0, merging)

    def _alias(self, event: Any) -> None:
        name = event.anchor
        if name not in self._anchors:
            raise ValueError(f"the anchor {shown(name)!r} is not defined")
        anchored = self._anchors[name]
        if anchored is None:
            raise ValueError(f"the anchor {shown(name)!r} contains itself")
        try:
            self._count.add(anchored.values, anchored.characters)
        except OutOfBounds as error:
            raise OutOfBounds(f"{error}, with its aliases expanded") from None
        self._count.check_depth(len(self._open) + anchored.height)
        self._put(anchored.value, event.start_mark, anchored.height)

    def _begin(self, event: Any) -> None:
        is_mapping = type(event).__name__ == "MappingStartEvent"
        known = (None, "!", f"{_CORE}map" if is_mapping else f"{_CORE}seq")
        if event.tag not in known:
            raise ValueError(f"could not determine a constructor for the tag {shown(event.tag)!r}")
        self._count.check_depth(len(self._open) + 1)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        # Counts from here on belong to the anchor's value.
        values, characters = self._count.values, self._count.characters
        self._count.add(1, 0)
        value: Any = {} if is_mapping else []
        self._open.append(
            _Open(value, event.start_mark, event.anchor, values, characters, is_mapping)
        )

    def _end(self, event: Any) -> None:
        done = self._open.pop()
        if done.anchor is not None:
            self._anchors[done.anchor] = _Anchored(
                done.value,
                self._count.values - done.values,
                self._count.characters - done.characters,
                done.height,
            )
        self._put(done.value, done.mark, done.height)

    def _put(self, value: Any, mark: Any, height: int, merging: bool = False) -> None:
        if not self._open:
            self.value = value
            return
        holder = self._open[-1]
        holder.height = max(holder.height, height + 1)
        if not holder.is_mapping:
            holder.value.append(value)
        elif holder.has_key:
            if holder.merging:
                _merge(holder, value, mark, self._in_order)
            else:
                holder.value[holder.key] = value
            holder.has_key = False
        else:
            holder.merging = merging
            holder.has_key = True
            if not merging:
                holder.key = _key(value, mark, holder)


class _Placed(ValueError):
    """An error whose text begins with the position."""


def _key(value: Any, mark: Any, holder: _Open) -> Any:
    if isinstance(value, (dict, list)):
        kind = "a mapping" if isinstance(value, dict) else "a list"
        raise _Placed(f"{_mark(mark)}a key is {kind}, and must be a scalar")
    if value in holder.written:
        raise _Placed(f'{_mark(mark)}the key "{shown(str(value))}" appears twice')
    holder.written.add(value)
    return value


def _merge(holder: _Open, value: Any, mark: Any, in_order: bool) -> None:
    merged: dict[Any, Any] = {}
    for mapping in value if isinstance(value, list) else [value]:
        if not isinstance(mapping, dict):
            raise _Placed(f"{_mark(mark)}<< needs a mapping, or a list of them")
        # Among several mappings the first one with a key wins.
        for key, item in mapping.items():
            merged.setdefault(key, item)
    if in_order:
        holder.value.update(merged)
    else:
        holder.value.update({k: v for k, v in merged.items() if k not in holder.value})
