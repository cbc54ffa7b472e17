from __future__ import annotations

import pytest

from nri_sync.api import removal

__all__: list[str] = []


@pytest.mark.parametrize(
    ("key", "clean", "marked"),
    [
        ("", "", False),
        ("a", "a", False),
        ("-a", "a", True),
        ("--a", "-a", True),
        ("-", "", True),
        ("a-", "a-", False),
    ],
)
def test_unmark(key: str, clean: str, marked: bool) -> None:
    assert removal.unmark(key) == (clean, marked)
    assert removal.unmark(key).key == clean
    assert removal.is_marked(key) is removal.unmark(key).marked is marked


@pytest.mark.parametrize("key", ["", "a", "-a"])
def test_mark(key: str) -> None:
    assert removal.mark(key) == f"-{key}"
    assert removal.unmark(removal.mark(key)) == (key, True)


def test_mark_refuses_values_that_are_not_texts() -> None:
    with pytest.raises(TypeError, match="key must be a str"):
        removal.mark(3)  # type: ignore[arg-type]
