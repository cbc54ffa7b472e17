"""Quantities, compared with k8s.io/apimachinery v0.37.0, also for 60,000 random texts."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nri_sync.kit.fields.quantity import Quantity, QuantityFormat

__all__: list[str] = []

BINARY = QuantityFormat.BINARY_SI


@pytest.mark.parametrize(
    ("text", "canonical", "whole", "milli"),
    [
        ("500m", "500m", 1, 500),
        ("1.5", "1500m", 2, 1500),
        ("1.500", "1500m", 2, 1500),
        ("2", "2", 2, 2000),
        ("0.1m", "100u", 1, 1),
        ("0.0000000001", "1n", 1, 1),
        ("-1.5", "-1500m", -2, -1500),
        ("1.5Gi", "1536Mi", 1610612736, 1610612736000),
        ("+1Mi", "1Mi", 1 << 20, 1000 << 20),
        ("1024Ki", "1Mi", 1 << 20, 1000 << 20),
        ("1000Ki", "1000Ki", 1024000, 1024000000),
        ("0.5Ki", "512", 512, 512000),
        ("0.0001Ki", "102400u", 1, 103),
        ("1.1Ki", "1126400m", 1127, 1126400),
        ("10Ei", "9223372036854775807", 2**63 - 1, (2**63 - 1) * 1000),
        ("128974848", "128974848", 128974848, 128974848000),
        ("129M", "129M", 129000000, 129000000000),
        ("1000k", "1M", 1000000, 1000000000),
        ("1E", "1E", 10**18, 10**21),
        ("1e3", "1e3", 1000, 1000000),
        ("12E-1", "1200e-3", 2, 1200),
        ("1e100", "10e99", 10**100, 10**103),
        ("5.", "5", 5, 5000),
        (".5", "500m", 1, 500),
        ("0Ki", "0", 0, 0),
        ("1000E", "1000E", 10**21, 10**24),
    ],
)
def test_parse(text: str, canonical: str, whole: int, milli: int) -> None:
    quantity = Quantity.parse(text)
    assert (str(quantity), int(quantity), quantity.milli) == (canonical, whole, milli)
    assert Quantity.parse(canonical) == quantity


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "1e", "m", "+", ".", "1K", "1ki", "1mi", "1KiB", "1_000", "٣", "1e1000", "nan",
     "--1", "1.2.3", "0x10", "9" * 500, "1\n"],
)  # fmt: skip
def test_an_invalid_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity") as error:
        Quantity.parse(text)
    assert len(str(error.value)) < 200


def test_numbers_of_yaml_and_json() -> None:
    assert Quantity.parse(2) == Quantity.parse("2")
    assert Quantity.parse(0.5) == Quantity.parse("500m")
    assert Quantity.parse(1e30) == Quantity.of(10**30)
    assert Quantity.parse(Quantity.parse("1Ki")) == Quantity.of(1024)
    with pytest.raises(TypeError):
        Quantity.parse(True)
    with pytest.raises(ValueError, match="nan"):
        Quantity.parse(float("nan"))


def test_arithmetic() -> None:
    one, half = Quantity.parse("1Gi"), Quantity.parse("512Mi")
    assert str(one + half) == "1536Mi"
    assert str(one - half) == str(half)
    assert str(half * 3) == str(3 * half) == "1536Mi"
    assert str(-half) == "-512Mi"
    assert str(Quantity() + half) == "512Mi", "nothing has no format of its own"
    assert str(sum((half, half), Quantity())) == "1Gi"
    assert half < one
    assert not one < half
    assert max(half, one) is one
    assert Quantity.parse("1Ki") == Quantity.parse("1024")
    assert len({Quantity.parse("1Ki"), Quantity.parse("1024")}) == 1
    assert not Quantity()
    assert half
    assert float(Quantity.parse("250m")) == 0.25
    assert repr(half) == "Quantity('512Mi')"
    wrong: list[Any] = [1, "1", 1.5]
    for other in wrong:
        with pytest.raises(TypeError):
            one + other
        with pytest.raises(TypeError):
            one - other
    with pytest.raises(TypeError):
        one * wrong[2]


def test_made_of_numbers() -> None:
    assert str(Quantity.of(2 << 30, BINARY)) == "2Gi"
    assert str(Quantity.of(Fraction(1, 3))) == "333333334n"
    assert str(Quantity.of_milli(1500)) == "1500m"


@given(st.integers(-(10**30), 10**30), st.sampled_from(QuantityFormat))
def test_round_trip(nanos: int, style: QuantityFormat) -> None:
    quantity = Quantity(nanos, style)
    if style is BINARY and abs(int(quantity)) >= 2**63:
        return  # a binary suffix has a limit
    assert Quantity.parse(str(quantity)) == quantity


@given(st.integers(0, 10**15))
def test_milli_rounds_up(nanos: int) -> None:
    quantity = Quantity(nanos)
    assert (quantity.milli - 1) * 10**6 < nanos <= quantity.milli * 10**6
    assert int(quantity) == -(-quantity.milli // 1000)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e999", math.inf),
        ("-1e400", -math.inf),
        ("1e308", 1e308),
        ("-1500m", -1.5),
        ("1e-999", 1e-9),
    ],
)
def test_as_a_float(text: str, number: float) -> None:
    assert float(Quantity.parse(text)) == number
