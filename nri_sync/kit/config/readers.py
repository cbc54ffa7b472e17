"""How the values of a document become those of a type, and what is said when they do not fit.

What it can do is told in nri_sync.kit.config.loading, which is the way to use it.
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


# Of what is wrong with a text from outside.
_FIRST, _LONGEST_LINE = 3, 200


class Place(NamedTuple):
    """Where in the document a value is, and what was found wrong so far, with its place."""

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
        """The first problems, in one line that is not long, however many there are."""
        shown = [
            line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}..."
            for line in Place(self.path, self.problems[:_FIRST]).lines()
        ]
        more = len(self.problems) - len(shown)
        return "; ".join([*shown, f"and {more} more problems"] if more else shown)


#: Returns the value, or notes problems at the place; then the result has no meaning.
Read = Callable[[Any, Place], Any]


class _Reader(NamedTuple):
    """How a type is read, and what is expected there, for messages."""

    expected: str
    read: Read


def reader_of(cls: Callable[..., Any]) -> Read:
    """What reads a dataclass, a model of pydantic or msgspec, or a list or mapping of something (``list[X]``,
    ``dict[str, X]``); or calls a function, which raises ValueError or TypeError for what it refuses.

    Raises:
        TypeError: it is neither, or has a field of a type that is not supported.
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
    import msgspec  # cls is made with it

    return lambda value: msgspec.convert(value, cls)


def _by(
    function: Callable[[Any], Any], refusals: tuple[type[Exception], ...] = (ValueError, TypeError)
) -> Read:
    def read(value: Any, place: Place) -> Any:
        try:
            return function(value)
        except refusals as error:
            if not _tell_each(error, place):
                place.wrong(str(error) or f"cannot be {_show(value)}")

    return read


def _tell_each(error: Exception, place: Place) -> bool:
    """Note the mistakes that pydantic has found, each with its place; False for another error."""
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
        # Only YAML reads 1.10, yes or 2026-01-01 so without being told to.
        advice = "; write it in quotes"
    return f"expected {expected}, not {_show(value)}{advice}"


def _is(*kinds: type) -> Callable[[Any], bool]:
    # True is an int to Python, not to people.
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
# Of difflib: how much alike words are of which one is probably the other misspelt.
_ALIKE = 0.7
_MAPPINGS = (dict, collections.abc.Mapping)
_UNIONS = (Union, getattr(types, "UnionType", Union))

# The readers of dataclasses that are being made, as one may hold itself.
_Known = dict[type, list[_Reader]]


def _make(hint: Any, known: _Known) -> _Reader:
    """Raises TypeError for a type that is not supported."""
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
    """``choices``: what may be written, the way that it is shown, and what that stands for."""
    expected = f"one of {', '.join(choices)}" if len(choices) > 1 else "".join(choices)

    def read(value: Any, place: Place) -> Any:
        shown = None if isinstance(value, (list, dict)) else _show(value)
        if shown in choices:
            return choices[shown]
        close = difflib.get_close_matches(shown or "", choices, 1, _ALIKE)
        likely = f"; is {close[0]} meant?" if close else ""
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
            # Of the right kind, and wrong only further in: that says more than what else it might have been.
            if all(path != place.path for path, _ in attempt.problems):
                inside = inside or attempt.problems
        if inside:
            place.problems.extend(inside)
        else:
            place.wrong(_mismatch(expected, value))

    return _Reader(expected, read)


def _dataclass(cls: type, known: _Known) -> _Reader:
    """A dataclass may have fields of its own type: the reader is known before those of its fields are."""

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
                hint = f'is "{likely}" meant?' if likely else f"known are: {', '.join(readers)}"
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
            f"{cls.__qualname__}: its types cannot be found out: {error}"
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
    """The known key that an unknown one is most like: in another style, or misspelt."""
    by_squeezed = {re.sub(r"[_\W]", "", name).lower(): name for name in known}
    squeezed = re.sub(r"[_\W]", "", str(key)).lower()
    close = difflib.get_close_matches(squeezed, by_squeezed, 1, _ALIKE)
    return by_squeezed[close[0]] if close else ""


def _show(value: Any) -> str:
    """A value as it is written in a document, shortened."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
