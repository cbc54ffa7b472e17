"""A plugin receives the messages that ``nri-sync simulate`` predicts from a manifest, and from crictl's output."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.node import Node
from tests.e2e.recording import node_of, record
from tests.recorded.compare import Comparison, compare, table
from tests.recorded.messages import write
from tests.recorded.rules import OF_CRICTL
from tests.recorded.scenarios import CRIO, WITH_OUTPUTS, for_crictl, resized, simulated

__all__: list[str] = []

feature = pytest.mark.feature


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, Comparison]]:
    """The comparisons, printed at the end."""
    found: dict[str, Comparison] = {}
    yield found
    print(f"\nFields of recorded messages, beside simulated ones:\n\n{table(found)}\n", flush=True)


@feature("Messages are as nri-sync simulate predicts: of manifests, and of the output of crictl")
@pytest.mark.parametrize("name", for_crictl())
def test_a_manifest(
    node: Node, found: dict[str, Comparison], name: str, request: pytest.FixtureRequest
) -> None:
    if node.name != "cri-o" and resized(name):
        pytest.skip("crictl resizes no pods: tests/kubernetes does")
    recorded, facts = record(node, name), node_of(node)
    if request.config.getoption("--write-recordings") and node.name == "cri-o":
        (CRIO / "node.json").write_text(json.dumps(facts, indent=1) + "\n")
        write(CRIO / f"{name}.json", recorded.events)
        if name in WITH_OUTPUTS:
            text = json.dumps(recorded.outputs, indent=1)
            (CRIO / f"{name}.crictl.json").write_text(text + "\n")
    found[name] = compare(recorded.events, simulated(name, facts))
    assert found[name].different == []
    if not any(event["event"] == "UpdateContainer" for event in recorded.events[0]):
        inspected = compare(recorded.events, simulated(name, facts, recorded.outputs), OF_CRICTL)
        assert inspected.different == []
