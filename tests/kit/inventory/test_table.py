"""The immutable mapping of the inventory, beside a dict."""

from __future__ import annotations

import random

import pytest

from nri_sync.kit.inventory.table import Table
from tests.memory import reachable

__all__: list[str] = []


def table_of(values: dict[str, int]) -> Table[str, int]:
    edit = Table[str, int]().edit()
    for key, value in values.items():
        edit[key] = value
    return edit.done()


@pytest.mark.parametrize("seed", range(5))
def test_a_table_is_a_dict_that_is_changed_by_copying(seed: int) -> None:
    chance = random.Random(seed)
    model: dict[str, int] = {}
    table = Table[str, int]()
    versions = []
    for _ in range(100):
        versions.append((table, dict(model)))
        edit = table.edit()
        for _ in range(chance.randrange(8)):
            key = str(chance.randrange(600))
            assert edit.get(key) == model.get(key)
            if chance.random() < 0.6:
                edit[key] = model[key] = chance.randrange(1000)
            elif key in model:
                del edit[key]
                del model[key]
        table = edit.done()
    # No version has changed after it was made.
    for version, expected in [*versions, (table, model)]:
        assert dict(version) == expected
        assert len(version) == len(expected)
        assert all(version[key] == value for key, value in expected.items())


def test_a_missing_key() -> None:
    table = table_of({"a": 1})
    with pytest.raises(KeyError):
        table["b"]
    with pytest.raises(KeyError):
        del table.edit()["b"]
    assert table.get("b") is None
    assert table.get("b", 7) == 7
    assert "b" not in table


def test_an_edit_that_changes_nothing_shares_everything() -> None:
    table = table_of({str(n): n for n in range(1000)})
    # The new table and its list of parts.
    assert len(reachable(table.edit().done()) - reachable(table)) <= 3


def test_a_change_copies_one_bucket() -> None:
    table = table_of({str(n): n for n in range(5000)})
    edit = table.edit()
    edit["7"] = 0
    del edit["7"]
    changed = edit.done()
    # The new table, its list of parts, and one part.
    assert len(reachable(changed) - reachable(table)) <= 4


def test_differences() -> None:
    before = table_of({str(n): n for n in range(1000)})
    edit = before.edit()
    edit["3"] = 300
    edit["new"] = 1
    del edit["5"]
    after = edit.done()
    assert sorted(after.differences(before)) == [
        ("3", 300, 3),
        ("5", None, 5),
        ("new", 1, None),
    ]
    assert list(after.differences(after)) == []
    assert {key for key, _, _ in after.differences(Table())} == set(after)
