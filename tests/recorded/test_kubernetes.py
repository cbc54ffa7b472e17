"""The recorded messages of a real node are those of a simulation of the same manifests.

tests/kubernetes/test_recorded.py has written them, with --write-recordings; see docs/kubernetes.md.
"""

from __future__ import annotations

import pytest

from tests.recorded.compare import compare
from tests.recorded.messages import read
from tests.recorded.scenarios import KUBERNETES, NAMES, node_of, simulated

__all__: list[str] = []


def test_there_is_a_recording_of_each_manifest() -> None:
    assert sorted(path.stem for path in KUBERNETES.glob("*.json")) == sorted([*NAMES, "node"])
    assert len(NAMES) >= 40


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest(name: str) -> None:
    recorded = read(KUBERNETES / f"{name}.json")
    found = compare(recorded, simulated(name, node_of(KUBERNETES)))
    assert found.different == []
    # Empty recordings would be equal, too.
    assert found.equal > 500
