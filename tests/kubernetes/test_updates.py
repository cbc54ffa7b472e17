"""Rolling updates of a plugin while pods are created."""

from __future__ import annotations

import pytest

from tests.kubernetes.conftest import Table
from tests.kubernetes.deployment import MODES, NEITHER, Deployment
from tests.kubernetes.pods import Pods

__all__: list[str] = []

BURST = 50
STEADY = 80
EACH = 0.25


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", MODES)
def test_a_burst_of_pods(deployment: Deployment, pods: Pods, table: Table, mode: str) -> None:
    deployment.apply(mode)
    with pods.steadily(0.0, BURST):
        took = deployment.update()
    pods.wait_running()
    count = pods.count()
    table.note(f"update, {BURST} pods at once", mode, f"{count}, {took:.1f} s")
    assert count.containers >= BURST
    # In the mode NEITHER, the plugin is absent for seconds. This proves that the count finds unadjusted pods.
    assert bool(count.unadjusted) == (mode == NEITHER), count


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", MODES)
def test_a_steady_creation(deployment: Deployment, pods: Pods, table: Table, mode: str) -> None:
    deployment.apply(mode)
    with pods.steadily(EACH, STEADY):
        took = deployment.update()
    pods.wait_running()
    count = pods.count()
    table.note(f"update, {1 / EACH:g} pods a second", mode, f"{count}, {took:.1f} s")
    assert count.containers >= STEADY
    assert mode == NEITHER or not count.unadjusted, count
