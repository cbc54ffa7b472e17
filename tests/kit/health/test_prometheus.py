"""The metrics of a plugin, read with the parsers of prometheus_client, and the behaviour without that package."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
import threading
import types
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nri_sync
from nri_sync import api, kit
from nri_sync.kit import HealthState
from tests.kit._node import CONTAINER, LONG, POD, Node, PluginWith, eventually
from tests.patience import say_request_timeout

__all__: list[str] = []

prometheus_client = pytest.importorskip(
    "prometheus_client", reason="the extra metrics is not installed"
)
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"


@pytest.fixture
def node(socket_dir: Path) -> Iterator[Node]:
    with Node(socket_dir) as made:
        yield made


@pytest.fixture
def registry() -> Any:
    return prometheus_client.CollectorRegistry()


def read(health: kit.Health, accept: str = "") -> dict[tuple[str, frozenset[Any]], float]:
    """Return the samples of an exposition by name and labels."""
    from prometheus_client.openmetrics import parser as openmetrics
    from prometheus_client.parser import text_string_to_metric_families

    body, content_type = health.exposition(accept)
    parse: Any = text_string_to_metric_families
    if content_type.startswith("application/openmetrics-text; version=1"):
        parse = openmetrics.text_string_to_metric_families
    else:
        assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    found: dict[tuple[str, frozenset[Any]], float] = {}
    for family in parse(body.decode()):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, f"{key} comes twice"
            found[key] = sample.value
    return found


def value(samples: dict[tuple[str, frozenset[Any]], float], name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


@pytest.mark.parametrize("accept", ["", "text/plain", OPENMETRICS])
def test_a_plugin(node: Node, registry: Any, accept: str) -> None:
    plugin = PluginWith(create_container=lambda pod, container: None)
    health = kit.Health(registry=registry)
    stub = node.stub(plugin, interceptors=[health])
    found = read(health, accept)
    assert value(found, "nri_plugin_state", state="connecting") == 1
    assert value(found, "nri_plugin_ready") == 0
    assert not any(name == "nri_plugin_runtime_info" for name, _ in found)
    node.start()
    node.connect(stub)
    node.runtime.create_container(POD, CONTAINER)
    node.lose(stub)
    node.start(nri_version="v0.12.0")
    node.connect(stub)

    found = read(health, accept)
    states = {state: value(found, "nri_plugin_state", state=state.value) for state in HealthState}
    assert states == {**dict.fromkeys(HealthState, 0), HealthState.SYNCHRONIZED: 1}
    assert value(found, "nri_plugin_live") == value(found, "nri_plugin_ready") == 1
    about = {"nri_version": api.NRI_VERSION, "nri_sync_version": nri_sync.__version__}
    assert value(found, "nri_plugin_info", plugin="10-test", **about) == 1
    runtime = {"runtime": "test-runtime", "version": "v1.0.0", "nri_version": "v0.12.0"}
    assert value(found, "nri_plugin_runtime_info", **runtime) == 1
    assert value(found, "nri_plugin_reconnects_total") == 1
    assert value(found, "nri_plugin_losses_total") == 1
    assert value(found, "nri_plugin_handler_calls_total") == 1
    assert value(found, "nri_plugin_requests_total", method="Configure", outcome="ok") == 2
    assert value(found, "nri_plugin_requests_in_flight", method="CreateContainer") == 0
    duration = "nri_plugin_request_duration_seconds"
    assert value(found, f"{duration}_count", method="Configure") == 2
    assert value(found, f"{duration}_bucket", method="Configure", le="+Inf") == 2
    assert value(found, f"{duration}_sum", method="Configure") > 0
    assert all(name.startswith("nri_plugin_") for name, _ in found)


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_metrics_of_the_application(registry: Any, accept: str) -> None:
    health = kit.Health(registry=registry)
    assert health.registry is registry
    pods = prometheus_client.Gauge("my_pods", "Mine.", ["node"], registry=health.registry)
    pods.labels(node='"a"\n\\é').set(3)
    assert value(read(health, accept), "my_pods", node='"a"\n\\é') == 3


def test_the_default_is_the_registry_of_the_process() -> None:
    health = kit.Health()
    assert health.registry is prometheus_client.REGISTRY
    assert any(name == "python_info" for name, _ in read(health))


def test_the_health_in_a_registry(registry: Any) -> None:
    health = kit.Health(registry=registry)
    registry.register(health)
    assert value(read(health), "nri_plugin_live") == 1  # once
    assert registry.get_sample_value("nri_plugin_live") == 1
    other = prometheus_client.CollectorRegistry(auto_describe=True)
    requests = kit.RequestMetrics()
    other.register(requests)
    assert other.get_sample_value("nri_plugin_request_longest_in_flight_seconds") == 0


@pytest.mark.parametrize("wrong", ["raises", "unencodable"])
def test_a_registry_that_fails(registry: Any, wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> float:
        raise ValueError("no figure")

    health = kit.Health(registry=registry)
    gauge = prometheus_client.Gauge("mine", "Mine.", ["file"], registry=registry)
    if wrong == "raises":
        gauge.labels("a").set_function(fail)
    else:
        gauge.labels("\udcff").set(1)
    with caplog.at_level(logging.ERROR, "nri_sync.kit.health"):
        assert value(read(health), "nri_plugin_live") == 1
    assert "the registry failed" in caplog.text


def test_odd_names_of_runtimes(node: Node, registry: Any) -> None:
    class Odd:
        """The attributes of a stub that _of_stub() reads."""

        name = "10-\udcff"
        plugin_nri_version = runtime_version = runtime_nri_version = "v1"
        runtime_name = 'a"\\\nb'
        request_timeout = 2.0
        timer_delay = 0.25
        late_by_event = types.MappingProxyType[str, int]({})
        counters = node.stub(PluginWith(run_pod_sandbox=lambda pod: None)).counters

    from nri_sync.kit.health import prometheus

    stub: Any = Odd()
    infos = [metric for metric in prometheus.of_stub(stub) if metric.type == "info"]
    names = [infos[0].samples[0].labels["plugin"], infos[1].samples[0].labels["runtime"]]
    assert names == ["10-?", 'a"\\\nb']


def test_requests_in_flight(node: Node, registry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, release = threading.Event(), threading.Event()

    def slow(pod: Any, container: Any) -> None:
        inside.set()
        assert release.wait(LONG)

    health = kit.Health(registry=registry, buckets=(LONG,))
    say_request_timeout(monkeypatch, 1.0)
    node.start()
    node.connect(node.stub(PluginWith(create_container=slow), interceptors=[health]))
    node.create_container()
    assert inside.wait(LONG)
    found = read(health)
    assert value(found, "nri_plugin_requests_in_flight", method="CreateContainer") == 1
    assert value(found, "nri_plugin_request_longest_in_flight_seconds") > 0
    duration = "nri_plugin_request_duration_seconds_bucket"
    assert value(found, duration, method="Configure", le=repr(LONG)) == 1
    eventually(lambda: health.stub and health.stub.late_by_event)
    release.set()
    eventually(lambda: "CreateContainer" in health.requests.figures())
    found = read(health)
    late = "nri_plugin_late_replies_by_method_total"
    assert value(found, late, method="CreateContainer") == 1
    assert value(found, "nri_plugin_unserved_answers_recent_ratio") == 1


def test_no_counter_of_the_stub_is_left_out() -> None:
    from nri_sync.kit.health.prometheus import COUNTERS

    assert set(COUNTERS) == {*nri_sync.Counters._fields, "restarts"}


def test_over_http(registry: Any) -> None:
    health = kit.Health(registry=registry)
    prometheus_client.Counter("mine", "Mine.", registry=registry).inc()
    with kit.HealthServer(health, "127.0.0.1:0") as server:
        request = urllib.request.Request(f"http://{server.address}/metrics")
        with urllib.request.urlopen(request, timeout=LONG) as response:
            assert "\nmine_total 1.0\n" in response.read().decode()
        request.add_header("Accept", OPENMETRICS)
        with urllib.request.urlopen(request, timeout=LONG) as response:
            assert response.headers["Content-Type"].startswith("application/openmetrics-text")
            assert response.read().endswith(b"# EOF\n")


def test_without_the_package() -> None:
    code = """
        import sys, urllib.error, urllib.request
        sys.modules["prometheus_client"] = None  # as if it were not installed
        from nri_sync import kit

        import logging

        logging.basicConfig(level=logging.INFO)
        health = kit.Health()
        assert health.requests.figures() == {} and health.details()["state"] == "connecting"
        for ask in (health.exposition, health.collect, health.requests.collect, lambda: health.registry):
            try:
                ask()
            except ModuleNotFoundError as error:
                text = str(error)
            assert text.endswith("to get metrics: pip install 'nri_sync[metrics]'"), text
        with kit.HealthServer(health, "127.0.0.1:0") as server:
            assert urllib.request.urlopen(f"http://{server.address}/livez").status == 200
            try:
                urllib.request.urlopen(f"http://{server.address}/metrics")
            except urllib.error.HTTPError as error:
                assert error.code == 501 and error.read().decode() == text + "\\n"
            else:
                raise AssertionError("there are metrics")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        check=True,
        timeout=60,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.stderr.count("/metrics is not served; to serve it: pip install") == 1
