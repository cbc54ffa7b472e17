"""JSON from outside: its values, and the bounds of its cost; and files."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from nri_sync.kit.config.foreign import (
    ANNOTATION,
    Bounds,
    OutOfBounds,
    json_values,
    parse_json,
    read_text,
)

__all__: list[str] = []

SMALL = Bounds(bytes=1000, values=100, depth=10)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, -2.5, true, null, "x"]}', {"a": [1, -2.5, True, None, "x"]}),
        ('"\\ud83d\\ude00 \\ud800"', "\N{GRINNING FACE} \N{REPLACEMENT CHARACTER}"),
        ('{"\\udc00": ["\\ud800x"]}', {"\N{REPLACEMENT CHARACTER}": ["\N{REPLACEMENT CHARACTER}x"]}),
        ('"[[[[[[[[[[[[[[[[{{{{,,,,"', "[[[[[[[[[[[[[[[[{{{{,,,,"),
        ('"\\"[[[[[[[[[[[[[[[["', '"[[[[[[[[[[[[[[[['),
        (" 1 ", 1),
    ],
)  # fmt: skip
def test_json(text: str, value: object) -> None:
    assert parse_json(text, SMALL) == value


def test_several_values() -> None:
    assert list(json_values('{"a": 1}\n[2] 3')) == [{"a": 1}, [2], 3]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "line 1, column 1: expecting value"),
        ("{} {}", "there is text after the value"),
        ('{"a": 1,\n "b" 2}', "line 2, column 6: expecting ':' delimiter"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', 'the key "c" appears twice'),
        ("NaN", "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ("1e999", "1e999 is too large a number"),
        ("9" * 900, "has too many digits"),
        ('"' + "\\\"" * 200, "unterminated string"),
        ('"\\', "line 1, column 1: "),
    ],
)  # fmt: skip
def test_invalid_json_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)) as raised:
        parse_json(text, SMALL)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    "text", ["[" * 11, "[" * 100_000, '{"a":' * 11, f"[{','.join(['1'] * 101)}]", " " * 1001]
)
def test_json_beyond_the_bounds(text: str) -> None:
    with pytest.raises(OutOfBounds):
        parse_json(text, SMALL)


@pytest.mark.parametrize(
    "text",
    [
        "{" + "".join(f'"k{n}":1,' for n in range(19_000)) + '"k0":1}',
        '"' + '\\"' * 120_000,
        "[" * 250_000,
        '"' * 250_000,
        "9" * 250_000,
    ],
    ids=range(5),
)
def test_hostile_json_is_cheap(text: str) -> None:
    before = time.process_time()
    with pytest.raises(ValueError, match=r".{1,300}"):
        parse_json(text, ANNOTATION)
    assert time.process_time() - before < 10


def test_read_text(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("a: \N{SNOWMAN}", encoding="utf-8-sig")
    assert read_text(path, SMALL) == "a: \N{SNOWMAN}"
    with pytest.raises(OutOfBounds):
        read_text("/dev/zero", SMALL)
