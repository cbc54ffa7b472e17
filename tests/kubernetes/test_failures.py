"""Plugins, runtimes and kubelets that fail while pods are created."""

from __future__ import annotations

import json
import os
import signal
import statistics
import time

import pytest

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.conftest import Table
from tests.kubernetes.deployment import HANDOVER, NAME, REQUIRED, Deployment
from tests.kubernetes.pods import Count, Pods

__all__: list[str] = []

EACH = 0.25
COUNT = 40
RESTARTS = 3
MODES = pytest.mark.parametrize("mode", [HANDOVER, REQUIRED])


def settle(pods: Pods, mode: str, *, least: int = COUNT, lost: int = 0) -> Count:
    """Finally all pods run. If the plugin is required, at most ``lost`` of them run without it."""
    pods.wait_running()
    count = pods.count()
    assert count.containers >= least
    if mode == REQUIRED:
        assert len(count.unadjusted) <= lost, count
    return count


def wait_registered(cluster: Cluster, began: float) -> None:
    cluster.wait(lambda: cluster.registered_after(began), "the plugin's registration")


@MODES
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_plugin_is_killed_or_stopped(
    deployment: Deployment, pods: Pods, table: Table, mode: str, number: signal.Signals
) -> None:
    deployment.apply(mode)
    restarts = deployment.restarts
    with pods.steadily(EACH, COUNT):
        os.kill(deployment.pid, number)
    deployment.wait_ready_after(restarts)
    # The plugin had this request when it died. NRI continues without the answer, and its validator counts the
    # plugin among those that were called (CreateContainer of NRI's adaptation).
    count = settle(pods, mode, lost=1)
    table.note(f"{number.name} of the plugin", mode, count)


@MODES
@pytest.mark.timeout(900)
def test_containerd_is_restarted(
    cluster: Cluster, deployment: Deployment, pods: Pods, table: Table, mode: str
) -> None:
    deployment.apply(mode)
    with pods.steadily(1.0, COUNT):
        for number in range(RESTARTS):
            began = time.time()
            (cluster.stop if number % 2 else cluster.kill)()
            cluster.start()
            wait_registered(cluster, began)
    table.note(f"containerd restarted {RESTARTS} times", mode, settle(pods, mode))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", [HANDOVER])
def test_the_plugin_is_back_at_once(
    cluster: Cluster, deployment: Deployment, table: Table, mode: str
) -> None:
    deployment.apply(mode)
    took = []
    for _ in range(20):
        cluster.kill()
        began = time.time()
        cluster.start()
        wait_registered(cluster, began)
        took.append(cluster.registered_after(began) - cluster.listening_after(began))
    text = f"median {statistics.median(took):.2f} s, at most {max(took):.2f} s"
    table.note("registered after containerd listens, 20 restarts", mode, text)
    assert statistics.median(took) < 0.5


@MODES
@pytest.mark.timeout(900)
def test_the_kubelet_is_restarted(
    cluster: Cluster, deployment: Deployment, pods: Pods, table: Table, mode: str
) -> None:
    deployment.apply(mode)
    with pods.steadily(EACH, COUNT):
        cluster.stop_kubelet()
        cluster.start_kubelet()
    count = settle(pods, mode)
    table.note("kubelet restarted", mode, count)
    assert count.unadjusted == []


@MODES
@pytest.mark.timeout(900)
def test_a_container_is_resized(
    cluster: Cluster, deployment: Deployment, pods: Pods, table: Table, mode: str
) -> None:
    deployment.apply(mode)
    pods.create(1, resources={"limits": {"cpu": "100m", "memory": "64Mi"}})
    pods.wait_running()
    resources = {"requests": {"cpu": "200m"}, "limits": {"cpu": "200m"}}
    patch = {"spec": {"containers": [{"name": "main", "resources": resources}]}}
    name = pods.names[0]
    cluster.kubectl("patch", "pod", name, "--subresource=resize", "-p", json.dumps(patch))
    path = "{.status.containerStatuses[0].resources.limits.cpu}"
    command = ("get", "pod", name, "-o", f"jsonpath={path}")
    cluster.wait(lambda: cluster.kubectl(*command) == "200m", "the new limit")
    count = settle(pods, mode, least=1)
    table.note("in-place resize", mode, count)
    assert (count.containers, count.unadjusted) == (1, [])


@MODES
@pytest.mark.timeout(900)
def test_the_pod_of_the_plugin_is_evicted(
    cluster: Cluster, deployment: Deployment, pods: Pods, table: Table, mode: str
) -> None:
    deployment.apply(mode)
    (before,) = deployment.pods()
    name = before.partition("/")[2]
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": "kube-system"},
    }
    path = f"/api/v1/namespaces/kube-system/pods/{name}/eviction"
    with pods.steadily(EACH, COUNT):
        cluster.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(eviction))
    cluster.wait(lambda: deployment.pods() and before not in deployment.pods(), "another pod")
    deployment.wait_rolled_out()
    table.note("eviction of the plugin's pod", mode, settle(pods, mode))


@MODES
@pytest.mark.timeout(900)
def test_a_handler_that_hangs(deployment: Deployment, pods: Pods, table: Table, mode: str) -> None:
    """The stub answers in its place. Only the pod's annotation can reject containers without the plugin."""
    deployment.apply(mode)
    deployment.hang()
    annotations = {"hang": "once"}
    if mode == REQUIRED:
        annotations["required-plugins.noderesource.dev"] = "[ulimit-adjuster]"
    pods.create(1, annotations=annotations)
    pods.create(9)
    count = settle(pods, mode, least=10)
    table.note("a handler that hangs for one pod", mode, count)
    assert count.unadjusted == ([] if mode == REQUIRED else [pods.names[0]])
    assert NAME in deployment.pods()[0]
