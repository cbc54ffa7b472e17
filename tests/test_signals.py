"""Signals during the calls of objects with locks, other than a stub, before the bytecodes of the main thread.

tests/samples.py describes how many.
"""

from __future__ import annotations

import pytest

from tests._signals import SUBJECTS
from tests.samples import figures, sizes

__all__: list[str] = []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("subject", SUBJECTS)
@sizes("--cases=15", "--cases=150", "")
def test_signals_at_every_bytecode(subject: str, size: str) -> None:
    found = figures("tests._signals", subject, *size.split())
    for event in ("reenter", "raise"):
        assert sum(count for case, count in found.items() if case.endswith(event)) >= 10
    assert min(found.values()) >= 1, "a call without a case"
