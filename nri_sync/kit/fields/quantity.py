"""Quantities in the notation of Kubernetes: "500m", "1.5Gi", "2e3".

Behaves like ``Quantity`` in k8s.io/apimachinery, ``pkg/api/resource/quantity.go``: exact, in steps of a billionth;
finer amounts are rounded away from zero. Immutable, without I/O.
"""

from __future__ import annotations

import enum
import math
import re
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Callable

from nri_sync.text import quoted

__all__ = ["Quantity", "QuantityFormat"]

_NANO = 10**9
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL = {
    "n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18,
}  # fmt: skip
_SUFFIXES = {exponent: suffix for suffix, exponent in _DECIMAL.items()}
_QUANTITY = re.compile(
    r"([+-]?)([0-9]*)(?:\.([0-9]*))?([numkMGTPE]?|[KMGTPE]i|[eE][+-]?[0-9]{1,3})"
)
# The greatest length of a text: more than any use needs, and cheap to compute.
_LONGEST = 400
_MAX_BINARY = 2**63 - 1


class QuantityFormat(enum.Enum):
    """The notation of a quantity: with the suffixes m, k, M, ... or Ki, Mi, ..., or with an exponent."""

    DECIMAL_SI = "DecimalSI"
    BINARY_SI = "BinarySI"
    DECIMAL_EXPONENT = "DecimalExponent"


@dataclass(frozen=True, order=True)
class Quantity:
    """An exact amount of CPUs, bytes or any other unit.

    ``int(q)`` is the amount in whole units, and ``q.milli`` in thousandths. Both round away from zero, as
    Kubernetes does. ``str(q)`` is the canonical form. Quantities compare, add and subtract by amount. A sum has
    the format of its first term that is not zero. ``nanos`` is the amount in billionths.
    """

    nanos: int = 0
    format: QuantityFormat = field(default=QuantityFormat.DECIMAL_SI, compare=False)

    @classmethod
    def parse(cls, text: str | int | float | Quantity) -> Quantity:
        """Parse a quantity. A number of YAML or JSON is parsed from its printed form.

        Accepts the texts that Kubernetes accepts, except a sign or a suffix without a digit, which Kubernetes
        reads as 0. Raises ValueError for any other text.
        """
        if isinstance(text, Quantity):
            return text
        if isinstance(text, bool) or not isinstance(text, (str, int, float)):
            raise TypeError(f"a quantity must be a str or a number, not {type(text).__name__}")
        written = str(text)
        match = _QUANTITY.fullmatch(written) if len(written) <= _LONGEST else None
        if match is None or not (match[2] or match[3]):
            raise ValueError(
                f'{quoted(written)} is not a quantity such as "2", "500m", "1.5Gi" or "1e3"'
            )
        sign, whole, digits, suffix = match[1], match[2], match[3] or "", match[4]
        number = Fraction(int(whole + digits), 10 ** len(digits))
        if suffix in _DECIMAL:
            number *= Fraction(10) ** _DECIMAL[suffix]
            style = QuantityFormat.DECIMAL_SI
        elif suffix in _BINARY:
            number = min(number * 2 ** _BINARY[suffix], Fraction(_MAX_BINARY))
            style = QuantityFormat.BINARY_SI
        else:
            number *= Fraction(10) ** int(suffix[1:])
            style = QuantityFormat.DECIMAL_EXPONENT
        nanos = _away_from_zero(number * _NANO)
        return cls(-nanos if sign == "-" else nanos, style)

    @classmethod
    def of(
        cls, amount: int | Fraction, format: QuantityFormat = QuantityFormat.DECIMAL_SI
    ) -> Quantity:
        """Return a quantity of whole units; ``Quantity.of(2 << 30, QuantityFormat.BINARY_SI)`` is 2Gi."""
        return cls(_away_from_zero(Fraction(amount) * _NANO), format)

    @classmethod
    def of_milli(cls, milli: int) -> Quantity:
        """Return a quantity of thousandths, the unit of CPUs."""
        return cls(milli * (_NANO // 1000))

    @property
    def milli(self) -> int:
        """The amount in thousandths, rounded away from zero (``MilliValue`` in Go)."""
        return _away_from_zero(Fraction(self.nanos, _NANO // 1000))

    def __int__(self) -> int:
        return _away_from_zero(Fraction(self.nanos, _NANO))

    def __float__(self) -> float:
        """Infinite if the amount is too large for a float, as ``AsApproximateFloat64`` in Go."""
        try:
            return self.nanos / _NANO
        except OverflowError:
            return math.inf if self.nanos > 0 else -math.inf

    def __bool__(self) -> bool:
        return self.nanos != 0

    def __add__(self, other: Quantity) -> Quantity:
        if not isinstance(other, Quantity):
            return NotImplemented
        return Quantity(self.nanos + other.nanos, self.format if self else other.format)

    def __sub__(self, other: Quantity) -> Quantity:
        if not isinstance(other, Quantity):
            return NotImplemented
        return self + -other

    def __neg__(self) -> Quantity:
        return replace(self, nanos=-self.nanos)

    def __mul__(self, times: int) -> Quantity:
        if not isinstance(times, int):
            return NotImplemented
        return replace(self, nanos=self.nanos * times)

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return f"Quantity({str(self)!r})"

    def __str__(self) -> str:
        if not self.nanos:
            return "0"
        whole, rest = divmod(self.nanos, _NANO)
        # Small amounts and fractions are more readable with decimal suffixes, and lose nothing.
        if self.format is QuantityFormat.BINARY_SI and not rest and abs(whole) >= 1024:
            return _shortened(
                whole, 1024, 6, lambda power: f"{'KMGTPE'[power - 1]}i" if power else ""
            )
        if self.format is QuantityFormat.DECIMAL_EXPONENT:
            return _shortened(
                self.nanos, 1000, None, lambda power: f"e{3 * power - 9}" if power != 3 else ""
            )
        return _shortened(self.nanos, 1000, 9, lambda power: _SUFFIXES[3 * power - 9])


def _away_from_zero(number: Fraction) -> int:
    return -(-number.numerator // number.denominator) if number >= 0 else number.__floor__()


def _shortened(number: int, base: int, most: int | None, suffix: Callable[[int], str]) -> str:
    """Divide ``number`` by ``base``, at most ``most`` times while it divides evenly, and append the suffix."""
    power = 0
    while power != most and number % base == 0:
        number //= base
        power += 1
    return f"{number}{suffix(power)}"
