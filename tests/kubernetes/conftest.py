"""One cluster for all tests, and the table of pods that the plugin has not adjusted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import machine
from tests.kubernetes.build import Cached, build
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.deployment import MODES, Deployment
from tests.kubernetes.pods import Count, Pods

__all__ = ["Table"]

# Words in the names of files that a cluster without a cleanup leaves.
_TRACES = "containe|cni|runc|nri|kube"
_PLACES = ("/var/log", "/run/containerd")


class Table:
    """The numbers of unadjusted pods, by scenario and mode."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, str]] = {}

    def note(self, scenario: str, mode: str, count: Count | str) -> None:
        self.rows.setdefault(scenario, {})[mode] = str(count)

    def __str__(self) -> str:
        lines = ["| | " + " | ".join(MODES) + " |", "|---" * (len(MODES) + 1) + "|"]
        for scenario, found in self.rows.items():
            lines.append(f"| {scenario} | " + " | ".join(found.get(m, "") for m in MODES) + " |")
        return "\n".join(lines)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-recordings", action="store_true", help="write tests/recorded/kubernetes"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0 and items:
        raise pytest.UsageError("the tests on a cluster need root: a kubelet does")
    # Group the tests by mode: each change of the mode restarts containerd.
    items.sort(key=_mode_of)


def _mode_of(item: pytest.Item) -> int:
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return MODES.index(parameters["mode"]) if "mode" in parameters else -1


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Iterator[None]:
    outcome: Any = yield
    report: pytest.TestReport = outcome.get_result()
    cluster = item.funcargs.get("cluster")
    if report.failed and isinstance(cluster, Cluster):
        report.sections.append(("log of the kubelet", cluster.log_of("kubelet")))
        events = cluster.kubectl("get", "events", "-A", "--sort-by=.lastTimestamp", check=False)
        report.sections.append(("events", events[-4000:]))
        logs = ("logs", "-n", "kube-system", "-l", "app.kubernetes.io/name", "--tail=60")
        report.sections.append(("log of the plugin", cluster.kubectl(*logs, check=False)))


@pytest.fixture(scope="session")
def cached() -> Cached:
    return build()


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """After all tests, look for traces of the cluster."""
    before = _shared()
    yield
    left = [path for path in _shared() - before if re.search(_TRACES, path)]
    for root in Cluster.made:
        left += machine.traces(root)
        left += [str(root)] * root.exists()
    print(f"left on the machine: {left}", flush=True)
    assert left == []


def _shared() -> set[str]:
    found = machine.shared_files()
    for place in _PLACES:
        if Path(place).exists():
            found.update(str(path) for path in Path(place).iterdir())
    sysctls = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")
    return found | {f"kube {name}={Path('/proc/sys', name).read_text()}" for name in sysctls}


@pytest.fixture(scope="session")
def cluster(cached: Cached) -> Iterator[Cluster]:
    with Cluster(cached) as cluster:
        cluster.start_cluster()
        yield cluster


@pytest.fixture(scope="session")
def deployment(cluster: Cluster) -> Deployment:
    return Deployment(cluster)


@pytest.fixture
def pods(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Pods]:
    prefix = re.sub(r"[^a-z]+", "-", request.node.name.lower()).strip("-")[:50].strip("-")
    pods = Pods(cluster, prefix)
    yield pods
    pods.remove()


@pytest.fixture(scope="session")
def table() -> Iterator[Table]:
    table = Table()
    yield table
    print(f"\nPods without what they have asked the plugin for:\n\n{table}\n", flush=True)
