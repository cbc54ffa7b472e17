"""A plugin on a real node receives the messages that ``nri-sync simulate`` predicts, field by field."""

from __future__ import annotations

import json

import pytest

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.recording import node_of, record
from tests.recorded.compare import compare, table
from tests.recorded.messages import write
from tests.recorded.scenarios import KUBERNETES, simulated

__all__: list[str] = []


@pytest.mark.timeout(1200)
def test_all_manifests(cluster: Cluster, request: pytest.FixtureRequest) -> None:
    node = node_of(cluster)
    recorded = record(cluster)
    if request.config.getoption("--write-recordings"):
        (KUBERNETES / "node.json").write_text(json.dumps(node, indent=1) + "\n")
        for name, pods in recorded.items():
            write(KUBERNETES / f"{name}.json", pods)
    found = {name: compare(pods, simulated(name, node)) for name, pods in recorded.items()}
    print(f"\nFields of recorded messages, beside simulated ones:\n\n{table(found)}\n", flush=True)
    different = {name: item.different for name, item in found.items() if item.different}
    assert different == {}
