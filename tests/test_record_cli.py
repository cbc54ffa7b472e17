"""The outputs in docs/cli.md are those of the commands."""

from __future__ import annotations

import pytest

from tools import record_cli

__all__: list[str] = []


@pytest.mark.slow
def test_the_page_is_current() -> None:
    page = record_cli.PAGE.read_text(encoding="utf-8")
    assert record_cli.BLOCK.search(page)
    different = record_cli.same(page, record_cli.record(page))
    assert not different, "run: python -m tools.record_cli\n" + "\n".join(different)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("12:30:01.123 →  a  0.5 ms", "00:00:59.000 →  a   12.5 ms"),
        ("x   4142 B y", "x 41 kB y"),
        ("python, pid 12, user 0, /a/b", "pytest, pid 9, user 7, /c"),
    ],
)
def test_output_that_varies(one: str, other: str) -> None:
    assert record_cli.same(one, other) == []


def test_output_that_differs() -> None:
    assert record_cli.same("a\nb\n", "a\nc\n")[-2:] == ["-b", "+c"]
