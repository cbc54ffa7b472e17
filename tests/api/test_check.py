from __future__ import annotations

import enum

import pytest

from nri_sync.api import _check, nri_pb2

__all__: list[str] = []


class Size(enum.IntEnum):
    SMALL = 5


class Index:
    """An integer of another library, such as numpy's."""

    def __index__(self) -> int:
        return 7


RANGES = [
    (_check.INT32, -(2**31), 2**31 - 1),
    (_check.UINT32, 0, 2**32 - 1),
    (_check.INT64, -(2**63), 2**63 - 1),
    (_check.UINT64, 0, 2**64 - 1),
]


@pytest.mark.parametrize(("kind", "low", "high"), RANGES)
def test_integers_to_the_ends_of_the_range(kind: _check.Range, low: int, high: int) -> None:
    assert _check.integer("f", low, kind) == low
    assert _check.integer("f", high, kind) == high
    for value in (low - 1, high + 1, 10**200, -(10**200)):
        with pytest.raises(ValueError, match=rf"^f must be from {low} to {high} \({kind.name}\)"):
            _check.integer("f", value, kind)


def test_integers_of_other_classes() -> None:
    assert type(_check.integer("f", Size.SMALL, _check.INT32)) is int
    assert _check.integer("f", Index(), _check.INT32) == 7


@pytest.mark.parametrize("value", [True, 1.0, "1", None, b"1"])
def test_values_that_are_not_integers(value: object) -> None:
    with pytest.raises(TypeError, match=rf"^f must be an int, not {type(value).__name__}: "):
        _check.integer("f", value, _check.INT64)


@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_values_that_are_not_bools(value: object) -> None:
    with pytest.raises(TypeError, match=r"^f must be a bool, not "):
        _check.flag("f", value)


@pytest.mark.parametrize("value", ["", "é", "\0", "\U0001f600"])
def test_texts_that_utf_8_can_carry(value: str) -> None:
    assert _check.text("f", value) == value


def test_a_lone_surrogate() -> None:
    with pytest.raises(ValueError, match=r"^f cannot be written as UTF-8.*: 'a\\udcff'$"):
        _check.text("f", "a\udcff")


@pytest.mark.parametrize("value", [b"x", 1, None, ["x"]])
def test_values_that_are_not_texts(value: object) -> None:
    with pytest.raises(TypeError, match=r"^f must be a str, not "):
        _check.text("f", value)


def test_several_texts() -> None:
    assert _check.texts("f", iter(["a", "b"])) == ["a", "b"]
    with pytest.raises(TypeError, match=r"^f\[1\] must be a str, not int: 2$"):
        _check.texts("f", ["a", 2])


@pytest.mark.parametrize("value", ["ab", b"ab", 3, None])
def test_values_that_are_not_sequences_of_texts(value: object) -> None:
    with pytest.raises(TypeError, match=r"^f must be a sequence of str, not "):
        _check.texts("f", value)


def test_a_marked_key() -> None:
    assert _check.unmarked("f", "a-b", "remove_f") == "a-b"
    with pytest.raises(
        ValueError, match=r"^f '-a' starts with '-', .* use remove_f to remove an entry$"
    ):
        _check.unmarked("f", "-a", "remove_f")


def test_enums_by_name_and_number() -> None:
    assert _check.enumerator("f", nri_pb2.MpolMode, "MPOL_BIND") == "MPOL_BIND"
    assert _check.enumerator("f", nri_pb2.MpolMode, nri_pb2.MpolMode.MPOL_BIND) == "MPOL_BIND"
    assert _check.enumerators("f", nri_pb2.MpolFlag, [0, "MPOL_F_NUMA_BALANCING"]) == [
        "MPOL_F_STATIC_NODES",
        "MPOL_F_NUMA_BALANCING",
    ]


@pytest.mark.parametrize("value", ["", "mpol_bind", "BIND", 7, -1])
def test_unknown_enum_values(value: object) -> None:
    with pytest.raises(ValueError, match=r"^f must be one of .*MPOL_BIND.*, not "):
        _check.enumerator("f", nri_pb2.MpolMode, value)


@pytest.mark.parametrize("value", [None, 1.5, True])
def test_enum_values_of_a_wrong_type(value: object) -> None:
    with pytest.raises(TypeError, match=r"^f must be an int"):
        _check.enumerator("f", nri_pb2.MpolMode, value)


@pytest.mark.parametrize("value", ["MPOL_F_STATIC_NODES", 0])
def test_one_enum_value_for_several(value: object) -> None:
    with pytest.raises(TypeError, match=r"^f must be a sequence of MpolFlag, not "):
        _check.enumerators("f", nri_pb2.MpolFlag, value)


def test_a_large_value_is_shown_in_part() -> None:
    assert len(_check.show("x" * 1000)) == 100
