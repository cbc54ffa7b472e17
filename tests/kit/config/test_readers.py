"""Each type: the accepted values, the results, and the messages for other values."""

from __future__ import annotations

import enum
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NewType, Optional, Union

import pytest

from nri_sync import EventMask
from nri_sync.kit.config.readers import Place, reader_of
from nri_sync.kit.fields.quantity import Quantity

__all__: list[str] = []


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


Name = NewType("Name", str)


class _Even:
    """Refuses odd numbers. Its constant repr gives tests the same names in every process."""

    def __call__(self, value: Any) -> int:
        if value % 2:
            raise ValueError("odd")
        return int(value)

    def __repr__(self) -> str:
        return "even"


Even = Annotated[int, "a note", _Even()]


@dataclass(frozen=True)
class Node:
    name: str = ""
    parent: Optional[Node] = None  # noqa: UP045 (Python 3.9 cannot evaluate the other)


@dataclass
class Keyed:
    kind: str = field(default="", metadata={"key": "class"})
    computed: int = field(init=False, default=7)


def read(hint: Any, value: Any) -> tuple[Any, list[str]]:
    """Read ``value`` as the field ``it`` of a dataclass; returns the result and the problems."""
    holder: Any = dataclass(type("Holder", (), {"__annotations__": {"it": hint}}))
    place = Place("", [])
    result = reader_of(holder)({"it": value}, place)
    return (None if result is None else result.it), place.lines()


FITS = [
    (bool, True, True),
    (int, 5, 5),
    (float, 2.5, 2.5),
    (float, 2, 2.0),
    (str, "x", "x"),
    (Name, "x", "x"),
    (Any, [1, {}], [1, {}]),
    (object, None, None),
    (Path, "/a/b", Path("/a/b")),
    (PurePosixPath, "a", PurePosixPath("a")),
    (Optional[int], None, None),
    (Optional[int], 3, 3),
    (Union[int, str], "x", "x"),
    (Union[str, list[str]], ["x"], ["x"]),
    (Literal["a", 1, True], 1, 1),
    (Literal["a", 1, True], True, True),
    (Color, "blue", Color.BLUE),
    (Level, "HIGH", Level.HIGH),
    (list, [1, "x"], [1, "x"]),
    (list[int], [1, 2], [1, 2]),
    (Sequence[int], [1, 2], [1, 2]),
    ("tuple[int, ...]", [1, 2], (1, 2)),
    ("tuple[int, str]", [1, "x"], (1, "x")),
    ("set[int]", [1, 1], {1}),
    ("frozenset[str]", ["x"], frozenset({"x"})),
    (dict, {"a": 1}, {"a": 1}),
    (dict[str, list[int]], {"a": [1]}, {"a": [1]}),
    (Mapping[Color, int], {"red": 1}, {Color.RED: 1}),
    (Node, {"name": "a", "parent": {"name": "b"}}, Node("a", Node("b"))),
    (dict[str, Node], {"x": {}}, {"x": Node()}),
    (Even, 4, 4),
    (Annotated[int, "a note"], 4, 4),
    (EventMask, "runpodsandbox", EventMask.RUN_POD_SANDBOX),
    (Quantity, "5m", Quantity.parse("5m")),
]


def _id(value: object) -> str:
    """The same in each process: before Python 3.10, Name is a function, whose text has an address."""
    return "Name" if value is Name else str(value)


@pytest.mark.parametrize(("hint", "value", "expected"), FITS, ids=_id)
def test_a_value_that_fits_its_type(hint: Any, value: Any, expected: Any) -> None:
    result, problems = read(hint, value)
    assert problems == []
    assert result == expected
    assert type(result) is type(expected)


DOES_NOT = [
    (bool, "no", 'expected true or false, not "no"'),
    (bool, 1, "expected true or false, not 1"),
    (int, "5", 'expected a whole number, not "5"'),
    (int, 5.0, "expected a whole number, not 5.0"),
    (int, True, "expected a whole number, not true"),
    (float, "x" * 100, f'expected a number, not "{"x" * 56}...'),
    (float, False, "expected a number, not false"),
    (str, 5, "expected text, not 5; write it in quotes"),
    (str, True, "expected text, not true; write it in quotes"),
    (str, None, "expected text, not null"),
    (str, ["x"], "expected text, not a list of 1"),
    (Path, "", 'expected a path, not ""'),
    (Optional[int], "x", 'expected a whole number or null, not "x"'),
    (Union[int, str], [], "expected a whole number or text, not a list of 0"),
    (Literal["rw", "r"], "w", 'expected one of "rw", "r", not "w"; did you mean "rw"?'),
    (Literal["on"], {}, 'expected "on", not a mapping'),
    (Literal[1], True, "expected 1, not true"),
    (Color, "bleu", 'expected one of "red", "blue", not "bleu"; did you mean "blue"?'),
    (Level, 1, 'expected one of "LOW", "HIGH", not 1'),
    (list[str], "abc", 'expected a list, not "abc"'),
    ("tuple[int, str]", [1], "expected a list of 2: a whole number, text, not a list of 1"),
    (dict[str, int], [], "expected a mapping, not a list of 0"),
    (Node, "x", 'expected a mapping, not "x"'),
    (Even, 3, "odd"),
    (EventMask, "x", "unknown event 'x' in 'x'"),
]


@pytest.mark.parametrize(("hint", "value", "problem"), DOES_NOT, ids=str)
def test_a_value_that_does_not_fit_its_type(hint: Any, value: Any, problem: str) -> None:
    assert read(hint, value) == (None, [f"it: {problem}"])


def test_an_unhashable_item_of_a_set() -> None:
    # Python's own words, which differ between its versions, surround these.
    value, (problem,) = read("set[Any]", [[]])
    assert value is None
    assert problem.startswith("it: ")
    assert "unhashable type: 'list'" in problem


INSIDE = [
    (list[int], [1, "x", None], ['it[1]: expected a whole number, not "x"',
                                 "it[2]: expected a whole number, not null"]),
    ("tuple[int, int]", [1, "x"], ['it[1]: expected a whole number, not "x"']),
    (dict[str, int], {"a.b/c": "x"}, ['it["a.b/c"]: expected a whole number, not "x"']),
    (dict[str, int], {5: 5}, ["it[5]: expected text, not 5; write it in quotes"]),
    (dict[Color, int], {"green": 1}, ['it.green: expected one of "red", "blue", not "green"']),
    (Node, {"parent": {"nmae": "x"}}, ['it.parent.nmae: unknown key; did you mean "name"?']),
    (Union[str, list[Node]], [{"name": 1}], ["it[0].name: expected text, not 1; write it in quotes"]),
]  # fmt: skip


@pytest.mark.parametrize(("hint", "value", "problems"), INSIDE, ids=str)
def test_the_problem_names_the_place_of_the_value(
    hint: Any, value: Any, problems: list[str]
) -> None:
    assert read(hint, value) == (None, problems)


def of_class(cls: Any, value: Any) -> tuple[Any, list[str]]:
    place = Place("", [])
    return reader_of(cls)(value, place), place.lines()


def test_a_key_of_another_name() -> None:
    assert of_class(Keyed, {"class": "x"}) == (Keyed("x"), [])
    assert of_class(Keyed, {"kind": "x"}) == (
        None,
        ["kind: unknown key; the known keys are: class"],
    )
    assert of_class(Keyed, {"computed": 1})[1] == [
        "computed: unknown key; the known keys are: class"
    ]


@dataclass
class Required:
    max_devices: int
    path: str


@pytest.mark.parametrize("key", ["maxDevices", "max-devices", "MAX_DEVICES", "max_device"])
def test_a_key_in_another_style(key: str) -> None:
    problem = f'{key}: unknown key; did you mean "max_devices"?'
    assert of_class(Required, {key: 1}) == (None, [problem, "path: missing; expected text"])


def test_a_document_of_another_kind() -> None:
    assert of_class(Required, [1]) == (None, ["expected a mapping, not a list of 1"])


@dataclass
class Bug:
    def __post_init__(self) -> None:
        raise TypeError("a bug")


def test_a_bug_of_the_program_is_not_taken_for_a_mistake_of_its_user() -> None:
    with pytest.raises(TypeError, match="a bug"):
        of_class(Bug, {})


@dataclass
class Later:
    it: Unknown  # type: ignore[name-defined]  # noqa: F821


def test_unresolvable_type_hints_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^Later: its type hints cannot be resolved: .*Unknown"):
        reader_of(Later)


@dataclass
class Modern:
    it: int | None = None


def test_unions_of_newer_pythons() -> None:
    if sys.version_info >= (3, 10):
        assert of_class(Modern, {"it": 5}) == (Modern(5), [])
    else:
        with pytest.raises(TypeError, match=r"write Optional\[X\] for X \| None"):
            reader_of(Modern)


def read_by(cls: Any, value: Any) -> tuple[Any, list[str]]:
    place = Place("", [])
    return reader_of(cls)(value, place), place.lines()


def test_models_of_pydantic() -> None:
    pydantic = pytest.importorskip("pydantic", reason="tox -e recipes has it")
    inner: Any = pydantic.create_model("Inner", size=(int, ...))
    items, by_name = list.__class_getitem__(inner), dict.__class_getitem__((str, inner))
    model = pydantic.create_model(
        "Model", items=(items, []), by_name=(by_name, {}), share=(float, 0.5)
    )
    value, problems = read_by(model, {"items": [{"size": 1}], "share": 0.25})
    assert (value.items[0].size, value.share, problems) == (1, 0.25, [])
    wrong = {"items": [{"size": 1}, {}], "by_name": {"a b": {"size": "x"}}, "share": []}
    _, problems = read_by(model, wrong)
    assert [problem.partition(": ")[0] for problem in problems] == [
        "items[1].size",
        'by_name["a b"].size',
        "share",
    ]
    assert read_by(model, [])[1] != []


def test_structs_of_msgspec() -> None:
    msgspec = pytest.importorskip("msgspec", reason="tox -e recipes has it")
    struct = msgspec.defstruct("Struct", [("low", int), ("high", int, 100)])
    value, problems = read_by(struct, {"low": 1})
    assert ((value.low, value.high), problems) == ((1, 100), [])
    assert read_by(struct, {"low": "x"})[1] == ["Expected `int`, got `str` - at `$.low`"]
    assert read_by(struct, {})[1] != []
