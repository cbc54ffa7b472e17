"""Durations in the notation of Go and Kubernetes: "1.5s", "2m30s", "300ms"."""

from __future__ import annotations

import math
import re

from nri_sync.text import quoted

__all__ = ["parse_duration"]

# The seconds of each unit, exactly.
_SECONDS = {
    "ns": "1e-9", "us": "1e-6", "µs": "1e-6", "μs": "1e-6", "ms": "1e-3", "s": "1", "m": "60", "h": "3600",
}  # fmt: skip
# Longer units first, so that "ms" does not match as "m" and "s".
_UNITS = "|".join(sorted(_SECONDS, key=len, reverse=True))
_PART = re.compile(rf"([0-9]+\.?[0-9]*|\.[0-9]+)({_UNITS})")
_DURATION = re.compile(rf"([+-]?)((?:{_PART.pattern})+)")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)")
# The greatest length of a text: more than any use needs, and cheap to compute.
_LONGEST = 100


def parse_duration(value: str | float) -> float:
    """Return a duration in seconds. A number, also as a text, is a number of seconds.

    Raises ValueError for all other values.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if isinstance(value, str) and len(value) <= _LONGEST:
        if _NUMBER.fullmatch(value):
            return float(value)
        found = _DURATION.fullmatch(value)
        if found is not None:
            from decimal import Decimal  # only here: 0.3 MB that most programs do not need

            parts = _PART.findall(found[2])
            seconds = sum(Decimal(number) * Decimal(_SECONDS[unit]) for number, unit in parts)
            return float(-seconds if found[1] == "-" else seconds)
    raise ValueError(f'{quoted(value)} is not a duration such as "1.5s", "2m30s" or "300ms"')
