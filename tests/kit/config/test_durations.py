"""Durations: the notation of Go's time.ParseDuration, and plain numbers of seconds."""

from __future__ import annotations

from typing import Any

import pytest

from nri_sync.kit.config.durations import parse_duration

__all__: list[str] = []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1.5s", 1.5), ("300ms", 0.3), ("2m30s", 150.0), ("1h", 3600.0), ("1h0m.5s", 3600.5),
        ("10us", 1e-5), ("10µs", 1e-5), ("10μs", 1e-5), ("7ns", 7e-9), ("-1m1s", -61.0), ("+2s", 2.0),
        ("0", 0.0), ("2.5", 2.5), ("-3", -3.0), (4, 4.0), (0.25, 0.25),
    ],
)  # fmt: skip
def test_seconds(text: Any, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    ["", "s", "1 s", "1d", "1s2", "5 parsecs", "1e3", "--1s", ".", ".s", "nan", "9" * 200,
     True, None, float("nan"), float("inf"), [], "\u0661s"],
)  # fmt: skip
def test_no_duration(value: Any) -> None:
    with pytest.raises(ValueError, match=r'is not a duration such as "1\.5s"') as error:
        parse_duration(value)
    assert len(str(error.value)) < 200
