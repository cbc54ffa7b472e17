"""Some seconds of the soak, with the Go runtime."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from nri_sync.testing import FAULT_KINDS
from tests.soak.figures import table
from tests.soak.harness import soaking

__all__: list[str] = []

FAULTS = 4


@pytest.mark.timeout(300)
def test_each_kind_of_fault(socket_dir: Path) -> None:
    seed = secrets.randbits(32)
    print("seed", seed)
    with soaking("go", socket_dir, seed) as soak:
        soak.run(FAULT_KINDS, lambda faults: faults < FAULTS * len(FAULT_KINDS), block=FAULTS)
        print(*table(soak.figures), sep="\n")
    assert sum(row.struck for row in soak.figures.values()) >= len(FAULT_KINDS)
