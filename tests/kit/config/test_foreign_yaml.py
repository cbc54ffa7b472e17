"""YAML from outside: its values, and the bounds of its cost."""

from __future__ import annotations

import contextlib
import importlib
import math
import re
import sys
import time
from typing import Any

import pytest

from nri_sync.kit.config.foreign import (
    ANNOTATION,
    FILE,
    Bounds,
    NotInstalled,
    OutOfBounds,
)
from nri_sync.kit.config.foreign_yaml import resolve, yaml_documents

__all__: list[str] = []

SMALL = Bounds(bytes=1000, values=100, depth=10)


@pytest.fixture(params=["libyaml", "Python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both parsers of PyYAML. Without libyaml only the slow one exists."""
    if request.param == "Python":
        monkeypatch.delattr(importlib.import_module("yaml"), "CSafeLoader", raising=False)
    return str(request.param)


def load(text: str, bounds: Bounds = SMALL) -> Any:
    [value] = yaml_documents(text, bounds)
    return value


# As printed by sigs.k8s.io/yaml v1.6.0, YAMLToJSON.
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True), ("Yes", True), ("YES", True),
        ("on", True), ("ON", True), ("true", True),
        ("no", False), ("y", "y"), ("N", "N"), ("off", False), ("FALSE", False),
        ("yEs", "yEs"), ("oN", "oN"), ("tRUE", "tRUE"),
        ("~", None), ("null", None), ("Null", None), ("NULL", None), ("nULL", "nULL"), ("none", "none"),
        ("010", 8), ("-010", -8), ("0o10", 8), ("0O17", 15), ("0x1F", 31), ("0X1f", 31), ("-0x10", -16),
        ("0b101", 5), ("-0b11", -3), ("0644", 420), ("1_000", 1000), ("+12", 12), ("0", 0), ("00", 0), ("-0", 0),
        ("08", 8.0), ("0o8", "0o8"), ("0b2", "0b2"), ("0xg", "0xg"),
        ("22:22", "22:22"), ("1:30:00", "1:30:00"),
        ("-1:30", "-1:30"), ("12:30.5", "12:30.5"),
        ("2025-03-01", "2025-03-01"), ("2025-03-01T10:00:00Z", "2025-03-01T10:00:00Z"),
        ("2001-1-1 1:1:1", "2001-1-1 1:1:1"),
        ("1.5", 1.5), (".5", 0.5), ("5.", 5.0), ("1e3", 1000.0), ("1E-2", 0.01), ("+1.5", 1.5),
        ("6.02e+23", 6.02e23),
        ("1e", "1e"), (".", "."), ("-", "-"), ("+", "+"), ("1.2.3", "1.2.3"),
        ("1,000", "1,000"), ("0.5Gi", "0.5Gi"),
        (".inf", math.inf), ("-.Inf", -math.inf), ("+.INF", math.inf), ("inf", "inf"), ("NaN", "NaN"),
        ("9223372036854775807", (1 << 63) - 1), ("18446744073709551615", (1 << 64) - 1),
        ("18446744073709551616", 18446744073709551616.0), ("-9223372036854775809", -9223372036854775809.0),
        ("1e999", "1e999"), ("=", "="), ("<<", "<<"), ("9" * 500, "9" * 500),
    ],
)  # fmt: skip
def test_plain_scalars(text: str, value: object) -> None:
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


def test_merged_keys_follow_the_order_of_kubernetes_on_demand() -> None:
    text = "p: &p {x: 1}\nq: &q {x: 2, z: 2}\nr: {x: 9, <<: [*p, *q], z: 9}\n"
    [kit] = yaml_documents(text)
    [kubernetes] = yaml_documents(text, in_order=True)
    assert kit["r"] == {"x": 9, "z": 9}
    assert kubernetes["r"] == {"x": 1, "z": 9}


def test_not_a_number() -> None:
    assert math.isnan(resolve(".nan"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1\nb: [x, 'y', \"z\", '1', \"yes\"]\n", {"a": 1, "b": ["x", "y", "z", "1", "yes"]}),
        ("a: |\n  x\n  y\nb: >\n  1\n  2\n", {"a": "x\ny\n", "b": "1 2\n"}),
        ("a:\nb: ''\n", {"a": None, "b": ""}),
        ("2: a\nyes: b\n1.5: c\n", {2: "a", True: "b", 1.5: "c"}),
        ("a: &x [1, 2]\nb: *x\n", {"a": [1, 2], "b": [1, 2]}),
        ("a: &x 7\n? *x\n: *x\n", {"a": 7, 7: 7}),
        ("a: !!str 1\nb: !!int '2'\nc: !!float 3\nd: !!binary aGk=\ne: !!null ''\nf: ! 5\n",
         {"a": "1", "b": 2, "c": 3.0, "d": "hi", "e": None, "f": "5"}),
        ("a: !!map {x: !!seq [1]}", {"a": {"x": [1]}}),
        ("base: &b {x: 1, y: 2}\nc:\n  <<: *b\n  y: 3\nd: {y: 3, <<: *b}\n",
         {"base": {"x": 1, "y": 2}, "c": {"x": 1, "y": 3}, "d": {"x": 1, "y": 3}}),
        ("p: &p {x: 1}\nq: &q {x: 2, y: 2}\nr: {<<: [*p, *q]}\n",
         {"p": {"x": 1}, "q": {"x": 2, "y": 2}, "r": {"x": 1, "y": 2}}),
        ("a: '<<'\n", {"a": "<<"}),
        ("'<<': 1\n", {"<<": 1}),
        ("a: &x 1\nb: &x 2\nc: *x\n", {"a": 1, "b": 2, "c": 2}),
        ("%YAML 1.1\n---\na: 1\n...\n", {"a": 1}),
        ("", None),
    ],
)  # fmt: skip
def test_documents(text: str, value: object, parser: str) -> None:
    assert list(yaml_documents(text, SMALL)) == ([value] if text else [])


def test_several_documents(parser: str) -> None:
    assert list(yaml_documents("a: 1\n---\n---\n- 2\n")) == [{"a": 1}, None, [2]]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", 'line 3, column 1: the key "a" appears twice'),
        ("a: &x [*x]\n", "line 1, column 8: the anchor 'x' contains itself"),
        ("&x a: {b: &y {c: {d: *y}}}\n", "line 1, column 22: the anchor 'y' contains itself"),
        ("a: *x\n", "line 1, column 4: the anchor 'x' is not defined"),
        ("{a: &x 1}\n---\n{a: *x}\n", "line 3, column 5: the anchor 'x' is not defined"),
        ("? [1]\n: 2\n", "line 1, column 3: a key is a list, and must be a scalar"),
        ("a: {{ .Values.x }}\n", "a key is a mapping, and must be a scalar"),
        ("a: !!python/object:os.system x\n", "line 1, column 4: could not determine a constructor for the tag"),
        ("a: !!set {x}\n", "could not determine a constructor"),
        ("a: !Ref x\n", "could not determine a constructor"),
        ("a: !!int x\n", "line 1, column 4: cannot decode 'x' as a !!int"),
        ("a: !!bool 1\n", "cannot decode '1' as a !!bool"),
        ("a: !!binary x\n", "!!binary is not base64"),
        ("<<: 1\n", "<< needs a mapping"),
        ("<<: [1]\n", "<< needs a mapping"),
        ("a: [\n", "line 2, column 1: "),
        ("a: \x01\n", "not allowed"),
        ("'" + "k" * 300 + "': 1\n'" + "k" * 300 + "': 1\n", "kkk..."),
    ],
)  # fmt: skip
def test_invalid_yaml_is_refused(text: str, problem: str, parser: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)) as raised:
        list(yaml_documents(text, SMALL))
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def bomb(levels: int, width: int = 10) -> str:
    lines = [f"a0: &a0 [{','.join('x' * width)}]"]
    for n in range(1, levels):
        lines.append(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * width)}]")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        bomb(9),
        bomb(3),
        # One long scalar, many times.
        f"a: &a {'x' * 500}\nb: [*a, *a]\n",
        # One list, many times.
        f"a: &a [{','.join(['1'] * 40)}]\nb: [*a, *a]\n",
        f"a: &a {{{', '.join(f'k{n}: 1' for n in range(30))}}}\nb: {{<<: [*a, *a]}}\n",
        f"[{','.join(['1'] * 100)}]",
        "x" * 1001,
        "\N{SNOWMAN}" * 400,
        "[" * 11 + "]" * 11,
        "{a: " * 11 + "}" * 11,
        "a: &a [[[[[[1]]]]]]\nb: [[[[*a]]]]\n",
        "- " * 50 + "x",
    ],
)
def test_a_text_beyond_the_bounds_is_refused(text: str, parser: str) -> None:
    with pytest.raises(OutOfBounds, match=r"^(has more than the|is nested too deeply)"):
        list(yaml_documents(text, SMALL))


def test_a_text_just_within_the_bounds_is_read(parser: str) -> None:
    assert load(f"[{','.join(['1'] * 99)}]") == [1] * 99
    assert load("x" * 1000) == "x" * 1000
    deep = load("[" * 10 + "]" * 10)
    for _ in range(9):
        [deep] = deep
    assert deep == []
    text = f"a: &a [{','.join(['1'] * 40)}]\nb: *a\n"
    assert load(text) == {"a": [1] * 40, "b": [1] * 40}


@pytest.mark.parametrize(
    "text",
    [
        bomb(10),
        bomb(40, 2),
        "a: &a [" + "[" * 1000 + "]" * 1000 + "]",
        "[" * 200_000,
        "{" * 200_000,
        "- " * 100_000,
        "? " * 100_000,
        "&a " * 50_000,
        "a: &a [1]\n" + f"b: [{','.join(['*a'] * 60_000)}]\n",
        "x: &x {a: 1}\n" + "".join(f"k{n}: &k{n} {{<<: [*x, *x]}}\n" for n in range(3000)),
        "\n".join(f"k{n}: &k{n} {{<<: *k{n - 1}, v{n}: 1}}" if n else "k0: &k0 {v: 1}" for n in range(2000)),
        '"' + "\\x41" * 60_000 + '"',
        "#" * 250_000,
    ],
    ids=range(13),
)  # fmt: skip
def test_hostile_texts_are_cheap(text: str) -> None:
    """Processor time, so that other programs do not change it. The slowest case takes a tenth of a second."""
    before = time.process_time()
    with contextlib.suppress(ValueError):
        list(yaml_documents(text, ANNOTATION))
    assert time.process_time() - before < 10


def test_a_file_of_a_usual_size_is_read() -> None:
    text = "\n".join(f"- {{name: item-{n}, value: [{n}, x]}}" for n in range(5000))
    assert len(load(text, FILE)) == 5000


def test_without_pyyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(NotInstalled, match=r"pip install 'nri_sync\[yaml\]'"):
        list(yaml_documents("a: 1"))
