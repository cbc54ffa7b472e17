"""The tests exist that docs/runtime.md refers to."""

from __future__ import annotations

import re
from pathlib import Path

__all__: list[str] = []

TESTS = Path(__file__).resolve().parent.parent
PAGE = (TESTS.parent / "docs" / "runtime.md").read_text()
NAMES = re.findall(r"`(?:(Test\w+)\.)?(test_\w+|Test\w+)(?:\[[^`]*\])?`", PAGE)
FILES = set(re.findall(r"`(?:tests/)?([\w/]*test_\w+\.py)`", PAGE))


def test_every_name_is_that_of_a_test() -> None:
    text = "".join(path.read_text() for path in TESTS.rglob("*.py"))
    defined = set(re.findall(r"(?:def|class) (\w+)", text))
    named = {name for pair in NAMES for name in pair if name}
    assert len(named) > 50
    assert named - defined == set()


def test_every_file_is_there() -> None:
    missing = {
        name
        for name in FILES
        if not (TESTS / name).exists() and not (TESTS / "runtime" / name).exists()
    }
    assert missing == set()
