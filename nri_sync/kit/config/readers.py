"""Converts the values of a document to a type, and describes the values that do not fit.

nri_sync.kit.config.loading documents the supported types. Use the readers through that module.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import enum
import json
import pathlib
import re
import types
from typing import (
    Annotated,
    Any,
    Callable,
    Literal,
    NamedTuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

__all__ = ["Place", "Read", "reader_of"]


# The limits of Place.summary(): the number of problems, and the length of each.
_FIRST, _LONGEST_LINE = 3, 200


class Place(NamedTuple):
    """The position of a value in the document, and the problems found so far with their positions."""

    path: str
    problems: list[tuple[str, str]]

    def key(self, key: object) -> Place:
        if not isinstance(key, str) or not re.fullmatch(r"[\w-]+", key):
            return Place(f"{self.path}[{_show(key)}]", self.problems)
        return Place(f"{self.path}.{key}" if self.path else key, self.problems)

    def item(self, index: int) -> Place:
        return Place(f"{self.path}[{index}]", self.problems)

    def wrong(self, text: str) -> None:
        self.problems.append((self.path, text))

    def lines(self) -> list[str]:
        return [f"{path}: {text}" if path else text for path, text in self.problems]

    def summary(self) -> str:
        """The first problems, in one line of bounded length."""
        shown = [
            line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}..."
            for line in Place(self.path, self.problems[:_FIRST]).lines()
        ]
        more = len(self.problems) - len(shown)
        return "; ".join([*shown, f"and {more} more problems"] if more else shown)


#: Returns the value. If it notes problems at the place, the returned value has no meaning.
Read = Callable[[Any, Place], Any]


class _Reader(NamedTuple):
    """A function that reads a type, and the expected value in words, for messages."""

    expected: str
    read: Read


def reader_of(cls: Callable[..., Any]) -> Read:
    """Return the reader of a dataclass, of a model of pydantic or msgspec, or of ``list[X]`` or ``dict[str, X]``.
    For any other callable, return a reader that calls it; it raises ValueError or TypeError to refuse a value.

    Raises:
        TypeError: ``cls`` is none of these, or has a field of an unsupported type.
    """
    if get_origin(cls) is not None:
        return _make(cls, {}).read
    if dataclasses.is_dataclass(cls) and isinstance(cls, type):
        return _dataclass(cls, {}).read
    if isinstance(cls, type) and hasattr(cls, "model_validate"):
        return _by(cls.model_validate)
    if isinstance(cls, type) and hasattr(cls, "__struct_fields__"):
        return _by(_struct(cls))
    if not callable(cls):
        raise TypeError(f"{cls!r} is neither a dataclass, nor a model, nor a function")
    return _by(cls)


def _struct(cls: type) -> Callable[[Any], Any]:
    import msgspec  # cls is a class of it, so it is installed

    return lambda value: msgspec.convert(value, cls)


def _by(
    function: Callable[[Any], Any], refusals: tuple[type[Exception], ...] = (ValueError, TypeError)
) -> Read:
    def read(value: Any, place: Place) -> Any:
        try:
            return function(value)
        except refusals as error:
            if not _note_each(error, place):
                place.wrong(str(error) or f"cannot be {_show(value)}")

    return read


def _note_each(error: Exception, place: Place) -> bool:
    """Note each mistake that pydantic has found, with its position; returns False for any other error."""
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return False
    for mistake in errors():
        inside = place
        for step in mistake["loc"]:
            inside = inside.item(step) if isinstance(step, int) else inside.key(step)
        inside.wrong(str(mistake["msg"]))
    return True


def _expecting(
    expected: str, fits: Callable[[Any], bool], convert: Callable[[Any], Any] = lambda value: value
) -> _Reader:
    def read(value: Any, place: Place) -> Any:
        if fits(value):
            return convert(value)
        place.wrong(_mismatch(expected, value))

    return _Reader(expected, read)


def _mismatch(expected: str, value: Any) -> str:
    advice = ""
    if expected == "text" and not isinstance(value, (dict, list, type(None))):
        # Only YAML reads the plain scalars 1.10, yes or 2026-01-01 as other types.
        advice = "; write it in quotes"
    return f"expected {expected}, not {_show(value)}{advice}"


def _is(*kinds: type) -> Callable[[Any], bool]:
    # In Python, True is an int. In a document it is not.
    return lambda value: isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


_SIMPLE: dict[Any, _Reader] = {
    Any: _Reader("anything", lambda value, place: value),
    object: _Reader("anything", lambda value, place: value),
    bool: _expecting("true or false", _is(bool)),
    int: _expecting("a whole number", _is(int)),
    float: _expecting("a number", _is(int, float), float),
    str: _expecting("text", _is(str)),
    type(None): _expecting("null", lambda value: value is None),
}
_LISTS: dict[Any, Callable[[Any], Any]] = {
    list: list, set: set, frozenset: frozenset, collections.abc.Sequence: list, collections.abc.Iterable: list,
}  # fmt: skip
# The least similarity (by difflib) at which a word is probably a misspelt known word.
_ALIKE = 0.7
_MAPPINGS = (dict, collections.abc.Mapping)
_UNIONS = (Union, getattr(types, "UnionType", Union))

# The readers of dataclasses under construction: a dataclass may contain itself.
_Known = dict[type, list[_Reader]]


def _make(hint: Any, known: _Known) -> _Reader:
    """Raises TypeError for an unsupported type."""
    hint = getattr(hint, "__supertype__", hint)  # a NewType
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if origin is Annotated:
        function = next((item for item in hint.__metadata__ if callable(item)), None)
        if function is None:
            return _make(arguments[0], known)
        return _Reader(_make(arguments[0], known).expected, _by(function))
    if origin is Literal:
        return _choice(dict(zip(map(_show, arguments), arguments)))
    if origin in _UNIONS:
        return _union([_make(argument, known) for argument in arguments])
    if origin in _LISTS:
        return _list(_make(arguments[0] if arguments else Any, known), _LISTS[origin])
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is ...:
            return _list(_make(arguments[0], known), tuple)
        return _tuple([_make(argument, known) for argument in arguments])
    if origin in _MAPPINGS:
        key, value = arguments or (Any, Any)
        return _mapping(_make(key, known), _make(value, known))
    return _make_class(origin, known)


def _make_class(cls: Any, known: _Known) -> _Reader:
    simple = _SIMPLE.get(cls)
    if simple is not None:
        return simple
    if isinstance(cls, type):
        if callable(parse := getattr(cls, "parse", None)):
            return _Reader(f"a {cls.__name__}", _by(parse))
        if dataclasses.is_dataclass(cls):
            return _dataclass(cls, known)
        if issubclass(cls, enum.Enum):
            by_value = all(isinstance(member.value, str) for member in cls)
            return _choice(
                {_show(member.value if by_value else member.name): member for member in cls}
            )
        if issubclass(cls, pathlib.PurePath):
            return _expecting("a path", lambda value: isinstance(value, str) and value != "", cls)
    raise TypeError(f"{getattr(cls, '__qualname__', cls)} is not supported")


def _choice(choices: dict[str, Any]) -> _Reader:
    """``choices``: the values that a document may have, as messages show them, with their meanings."""
    expected = f"one of {', '.join(choices)}" if len(choices) > 1 else "".join(choices)

    def read(value: Any, place: Place) -> Any:
        shown = None if isinstance(value, (list, dict)) else _show(value)
        if shown in choices:
            return choices[shown]
        close = difflib.get_close_matches(shown or "", choices, 1, _ALIKE)
        likely = f"; did you mean {close[0]}?" if close else ""
        place.wrong(f"expected {expected}, not {_show(value)}{likely}")

    return _Reader(expected, read)


def _list(item: _Reader, make: Callable[[Any], Any]) -> _Reader:
    def read(value: Any, place: Place) -> Any:
        before = len(place.problems)
        items = [item.read(element, place.item(index)) for index, element in enumerate(value)]
        return _by(make)(items, place) if len(place.problems) == before else None

    return _checked("a list", _is(list), read)


def _tuple(items: list[_Reader]) -> _Reader:
    def read(value: Any, place: Place) -> Any:
        return tuple(
            item.read(element, place.item(index))
            for index, (item, element) in enumerate(zip(items, value))
        )

    expected = f"a list of {len(items)}: {', '.join(item.expected for item in items)}"
    return _checked(
        expected, lambda value: isinstance(value, list) and len(value) == len(items), read
    )


def _mapping(key: _Reader, value: _Reader) -> _Reader:
    def read(found: Any, place: Place) -> Any:
        return {
            key.read(name, place.key(name)): value.read(element, place.key(name))
            for name, element in found.items()
        }

    return _checked("a mapping", _is(dict), read)


def _checked(expected: str, fits: Callable[[Any], bool], read: Read) -> _Reader:
    def checked(value: Any, place: Place) -> Any:
        if fits(value):
            return read(value, place)
        place.wrong(_mismatch(expected, value))

    return _Reader(expected, checked)


def _union(readers: list[_Reader]) -> _Reader:
    expected = " or ".join(dict.fromkeys(reader.expected for reader in readers))

    def read(value: Any, place: Place) -> Any:
        inside: list[tuple[str, str]] = []
        for reader in readers:
            attempt = Place(place.path, [])
            result = reader.read(value, attempt)
            if not attempt.problems:
                return result
            # The value has the right kind, and is wrong inside. That message helps more than the alternatives.
            if all(path != place.path for path, _ in attempt.problems):
                inside = inside or attempt.problems
        if inside:
            place.problems.extend(inside)
        else:
            place.wrong(_mismatch(expected, value))

    return _Reader(expected, read)


def _dataclass(cls: type, known: _Known) -> _Reader:
    """The reader is registered before those of its fields, because a field may have the type of the dataclass."""

    def read(value: Any, place: Place) -> Any:
        before = len(place.problems)
        arguments = {}
        missing = {key for key, (field, _) in readers.items() if _is_required(field)}
        for key, element in value.items():
            if key in readers:
                missing.discard(key)
                field, reader = readers[key]
                arguments[field.name] = reader.read(element, place.key(key))
            else:
                likely = _likely(key, readers)
                missing.discard(likely)
                hint = (
                    f'did you mean "{likely}"?'
                    if likely
                    else f"the known keys are: {', '.join(readers)}"
                )
                place.key(key).wrong(f"unknown key; {hint}")
        for key in readers:
            if key in missing:
                place.key(key).wrong(f"missing; expected {readers[key][1].expected}")
        if len(place.problems) > before:
            return None
        return _by(lambda _: cls(**arguments), (ValueError,))(value, place)

    checked = _checked("a mapping", _is(dict), read)
    if cls in known:
        return checked if not known[cls] else known[cls][0]
    known[cls] = [checked]
    readers = _fields(cls, known)
    return checked


def _fields(cls: Any, known: _Known) -> dict[str, tuple[dataclasses.Field[Any], _Reader]]:
    try:
        hints = get_type_hints(cls, include_extras=True)
    except (TypeError, NameError) as error:
        raise TypeError(
            f"{cls.__qualname__}: its type hints cannot be resolved: {error}"
            " (before Python 3.10 write Optional[X] for X | None, Union[X, Y] for X | Y)"
        ) from error
    found = {}
    for field in dataclasses.fields(cls):
        if field.init:
            try:
                reader = _make(hints[field.name], known)
            except TypeError as error:
                raise TypeError(f"{cls.__qualname__}.{field.name}: {error}") from None
            found[field.metadata.get("key", field.name)] = (field, reader)
    return found


def _is_required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _likely(key: object, known: collections.abc.Iterable[str]) -> str:
    """Return the known key that is most similar to an unknown one; empty if none is similar."""
    by_squeezed = {re.sub(r"[_\W]", "", name).lower(): name for name in known}
    squeezed = re.sub(r"[_\W]", "", str(key)).lower()
    close = difflib.get_close_matches(squeezed, by_squeezed, 1, _ALIKE)
    return by_squeezed[close[0]] if close else ""


def _show(value: Any) -> str:
    """Return a value in the notation of a document, shortened."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
