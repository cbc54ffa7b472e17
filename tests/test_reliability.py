"""docs/reliability.md and SECURITY.md name the tests of their promises: they exist, and none is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

__all__: list[str] = []

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^ *def (test_\w+)", path.read_text(), re.MULTILINE)
}
FILES = {path.name for path in (ROOT / "tests").rglob("test_*.py")}


@pytest.mark.parametrize("page", ["docs/reliability.md", "SECURITY.md"])
def test_every_test_that_is_named_exists(page: str) -> None:
    names = re.findall(r"`(?:\w+/)*(test_\w+(?:\.py)?)", (ROOT / page).read_text())
    assert len(names) > 5
    assert [name for name in names if name not in TESTS | FILES] == []


@pytest.mark.parametrize("page", ["docs/reliability.md", "SECURITY.md"])
def test_every_path_that_is_named_exists(page: str) -> None:
    paths = re.findall(r"`(tests/[\w/.]+)", (ROOT / page).read_text())
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_fault_of_the_machine_has_its_promise() -> None:
    text = (ROOT / "tests" / "test_machine.py").read_text()
    tests = re.findall(r"^def (test_\w+)", text, re.MULTILINE)
    assert len(tests) > 10
    assert [name for name in tests if f"`{name}`" not in PAGE] == []
