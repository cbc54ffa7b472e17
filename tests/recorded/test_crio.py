"""The recorded messages of CRI-O are those of a simulation of the same manifests, and of the output of crictl.

tests/e2e/test_recorded.py has written them, with --write-recordings; see docs/e2e.md.
"""

from __future__ import annotations

import json

import pytest

from tests.recorded.compare import compare
from tests.recorded.messages import read
from tests.recorded.rules import OF_CRICTL
from tests.recorded.scenarios import CRIO, WITH_OUTPUTS, for_crictl, node_of, simulated

__all__: list[str] = []


def test_there_is_a_recording_of_each_manifest() -> None:
    outputs = [f"{name}.crictl" for name in WITH_OUTPUTS]
    assert sorted(p.stem for p in CRIO.glob("*.json")) == sorted([*for_crictl(), *outputs, "node"])


@pytest.mark.parametrize("name", for_crictl())
def test_a_manifest(name: str) -> None:
    found = compare(read(CRIO / f"{name}.json"), simulated(name, node_of(CRIO)))
    assert found.different == []
    assert found.equal > 500


@pytest.mark.parametrize("name", WITH_OUTPUTS)
def test_the_output_of_crictl(name: str) -> None:
    outputs = json.loads((CRIO / f"{name}.crictl.json").read_text())
    found = compare(read(CRIO / f"{name}.json"), simulated(name, node_of(CRIO), outputs), OF_CRICTL)
    assert found.different == []
    assert found.equal > 500
