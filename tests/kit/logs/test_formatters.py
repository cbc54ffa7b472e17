"""Log records as lines."""

from __future__ import annotations

import datetime
import json
import logging
import sys
import types
from typing import Any

import pytest

from nri_sync import api
from nri_sync.kit import ContextFilter, JSONFormatter, LogContext, TextFormatter, log_scope

__all__: list[str] = []

CREATED = 1767323045.75
TIME = "2026-01-02T03:04:05.750Z"
POD = api.PodSandbox(id="pod0", name="web", namespace="default")


def record(message: Any = "hello %s", *args: Any, **attributes: Any) -> logging.LogRecord:
    made = logging.LogRecord(
        "my.logger", logging.INFO, "file.py", 1, message, args, attributes.pop("exc_info", None)
    )
    made.created = CREATED
    made.__dict__.update(attributes)
    return made


def as_json(made: logging.LogRecord) -> dict[str, Any]:
    line = JSONFormatter().format(made)
    assert "\n" not in line
    assert line.isascii()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(line, parse_constant=refuse)
    assert isinstance(found, dict)
    return found


def failure(error: BaseException) -> Any:
    try:
        raise error
    except BaseException:
        return sys.exc_info()


class TestText:
    def test_a_line(self) -> None:
        text = TextFormatter().format(record("hello %s", "world"))
        assert text == f"{TIME} INFO    my.logger: hello world"

    def test_with_context(self) -> None:
        with log_scope(POD, plugin="10-test", event="RunPodSandbox", operation="a-1"):
            text = TextFormatter().format(record("hello"))
        assert text == (f"{TIME} INFO    [10-test RunPodSandbox default/web a-1] my.logger: hello")

    def test_with_further_fields(self) -> None:
        made = record("hello")
        with log_scope(POD, zone="a", reason="two\nlines ]", count=0, operation="a-1"):
            ContextFilter().filter(made)
        text = TextFormatter().format(made)
        expected = r'[default/web a-1 zone=a reason="two\nlines ]" count=0] my.logger: hello'
        assert text == f"{TIME} INFO    {expected}"

    def test_the_context_from_the_filter_takes_precedence(self) -> None:
        made = record("hello")
        with log_scope(POD, operation="a-1"):
            ContextFilter().filter(made)
        with log_scope(operation="another"):
            assert "[default/web a-1]" in TextFormatter().format(made)

    def test_further_lines_are_indented(self) -> None:
        made = record("one\ntwo", exc_info=failure(ValueError("three\nfour")))
        lines = TextFormatter().format(made).splitlines()
        assert lines[1] == "    two"
        assert all(line.startswith("    ") for line in lines[1:])
        assert lines[-2:] == ["    ValueError: three", "    four"]

    def test_control_characters(self) -> None:
        text = TextFormatter().format(record("a\x1b[31mb\rc\x9bd\te\x7f\0"))
        assert text.endswith("a\\x1b[31mb\\rc\\x9bd\te\\x7f\\x00")

    def test_stack(self) -> None:
        assert (
            TextFormatter()
            .format(record("a", stack_info="Stack:\n b"))
            .endswith("my.logger: a\n    Stack:\n     b")
        )

    def test_a_record_that_cannot_be_formatted(self) -> None:
        text = TextFormatter().format(record("%d and %d", "a"))
        assert "'%d and %d'" not in text
        assert "%d and %d with the arguments ('a',) cannot be formatted: TypeError" in text


class TestJSON:
    def test_a_line(self) -> None:
        assert as_json(record("hello %s", "world")) == {
            "time": TIME,
            "level": "INFO",
            "logger": "my.logger",
            "message": "hello world",
        }

    def test_with_context(self) -> None:
        made = record("hello")
        with log_scope(POD, plugin="10-test", event="RunPodSandbox", operation="a-1"):
            found = as_json(made)
            ContextFilter().filter(made)
        assert as_json(made) == found
        assert {name: found.get(name) for name in LogContext._fields[:-1]} == {
            "plugin": "10-test",
            "event": "RunPodSandbox",
            "namespace": "default",
            "pod": "web",
            "container": None,
            "operation": "a-1",
        }

    def test_with_further_fields(self) -> None:
        made = record("hello", taken="extra")
        with log_scope(POD, zone="a", count=0, value={"b": [1]}, taken="scope", operation="a-1"):
            found = as_json(made)
            ContextFilter().filter(made)
        assert as_json(made) == found
        wanted = {"zone": "a", "count": 0, "value": {"b": [1]}, "taken": "extra", "pod": "web"}
        assert {name: found[name] for name in wanted} == wanted
        assert not {"fields", "taken_", "container"} & set(found)

    def test_the_filter_adds_nothing_where_there_is_no_context(self) -> None:
        made = record("hello")
        before = as_json(made)
        ContextFilter().filter(made)
        assert as_json(made) == before

    def test_extra(self) -> None:
        found = as_json(record("a", mine={"b": [1, 2.5, None, True]}, time="x", pod="theirs"))
        assert found["mine"] == {"b": [1, 2.5, None, True]}
        assert (found["time"], found["time_"]) == (TIME, "x")
        assert found["pod"] == "theirs"

    def test_an_exception(self) -> None:
        found = as_json(record("a", exc_info=failure(ValueError("b\nc")), stack_info="Stack"))
        assert found["exception"].startswith("Traceback ")
        assert found["exception"].endswith("ValueError: b\nc")
        assert found["stack"] == "Stack"
        assert "stack" not in as_json(record("a", exc_info=failure(ValueError("b"))))
        assert as_json(record("a", stack_info="Stack"))["stack"] == "Stack"

    def test_odd_values(self) -> None:
        circle: list[Any] = []
        circle.append(circle)
        deep: Any = "end"
        for _ in range(5000):
            deep = [deep]
        odd = {
            "nan": float("nan"),
            "nans": [1, float("nan")],
            "inf": float("-inf"),
            "huge": 1 << 100_000,
            "bytes": b"\xff",
            "surrogate": "\udcff",
            "accent": "é\u2028",
            "set": {1},
            "tuple": (1, (2, {3})),
            "keys": {1: "a", None: "b"},
            "odd_keys": {(1,): "c"},
            "circle": circle,
            "deep": deep,
            "odd": Odd(),
            "odd_inside": [Odd(), 1],
            "pod": POD,
            "class": Odd,
            "subclass": _Text("x"),
            "number": _Number(3),
            "date": datetime.date(2026, 1, 2),
            "mapping": Broken({"a": 1}),
            "proxy": types.MappingProxyType({"a": 1}),
        }
        found = as_json(record("a", **odd))
        assert found["message"] == "a"
        assert set(odd) <= set(found)
        assert (found["nan"], found["nans"], found["inf"]) == ("nan", "[1, nan]", "-inf")
        assert found["huge"] == "<int whose repr() raises ValueError>" or sys.version_info < (3, 11)
        assert found["bytes"] == "b'\\xff'"
        assert (found["surrogate"], found["accent"]) == ("\udcff", "é\u2028")
        assert (found["set"], found["tuple"]) == ([1], [1, [2, [3]]])
        assert (found["keys"], found["odd_keys"]) == ({"1": "a", "null": "b"}, "{(1,): 'c'}")
        assert found["odd"] == "<Odd whose repr() raises ZeroDivisionError>"
        assert found["odd_inside"] == ["<Odd whose repr() raises ZeroDivisionError>", 1]
        assert (found["subclass"], found["number"], found["proxy"]) == ("x", 3, {"a": 1})
        assert found["date"] == "datetime.date(2026, 1, 2)"
        assert "a" in str(found["mapping"])

    def test_a_record_that_cannot_be_formatted(self) -> None:
        assert "cannot be formatted: TypeError" in as_json(record("%d", "a"))["message"]
        assert "whose repr() raises" in as_json(record("%d", Odd()))["message"]
        assert "whose repr() raises" in as_json(record(Odd()))["message"]

    @pytest.mark.parametrize("name", [5, None, b"y", ""])
    def test_attributes_that_are_no_names(self, name: Any) -> None:
        made = record("a")
        made.__dict__[name] = "b"
        assert as_json(made)["message"] == "a"

    def test_an_exception_that_cannot_be_shown(self) -> None:
        for formatter in (TextFormatter(), JSONFormatter()):
            made = record("a", exc_info=failure(OddError()))
            assert "a" in formatter.format(made)
        made = record("a", exc_info=("no", "exception", "at all"))
        assert "cannot be formatted" in as_json(made)["exception"]


class Odd:
    def __repr__(self) -> str:
        raise ZeroDivisionError


class OddError(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


class Broken(dict[str, Any]):
    def items(self) -> Any:
        raise ZeroDivisionError


class _Text(str):
    pass


class _Number(int):
    pass
