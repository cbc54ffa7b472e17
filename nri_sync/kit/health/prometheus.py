"""The metrics of a plugin, made with ``prometheus_client``. Importing this module needs the extra ``metrics``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import nri_sync
from nri_sync.logger import get_logger

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Metric
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        InfoMetricFamily,
    )
    from prometheus_client.exposition import choose_encoder
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error}; to get metrics: pip install 'nri_sync[metrics]'", name=error.name
    ) from error

if TYPE_CHECKING:
    from nri_sync.kit.health.health import Health
    from nri_sync.kit.health.metrics import RequestMetrics

__all__ = ["COUNTERS", "REGISTRY", "exposition", "of_health", "of_requests", "of_stub"]

logger = get_logger("nri_sync.kit.health")

#: The metric of each counter of a stub: field of ``Counters``, then name and help.
COUNTERS = {
    "sessions": ("sessions", "Sessions that the runtime configured."),
    "failed_starts": ("failed_starts", "Starts that failed."),
    "losses": ("losses", "Sessions that ended other than by stop()."),
    "restarts": ("reconnects", "Sessions after the first."),
    "requests": ("handler_calls", "Requests for which a handler was called."),
    "errors": ("handler_errors", "Handlers that raised."),
    "rejections": ("rejections", "Container adjustments that were rejected."),
    "late_replies": (
        "late_replies",
        "Requests that the stub answered, because the handler took too long.",
    ),
    "late_results": (
        "late_results",
        "Handlers that returned after the stub had answered their request.",
    ),
    "timer_delays": (
        "timer_delays",
        "Times that the timer thread, which gives late answers, ran 0.1 s late or more.",
    ),
    "updates": ("update_calls", "Calls of update_containers()."),
    "ignored_fields": (
        "ignored_fields",
        "Fields of answers and updates that the runtime's NRI release does not know, and ignores.",
    ),
    "unvalidated_sessions": (
        "unvalidated_sessions",
        "Sessions with a runtime that cannot call the plugin's validator.",
    ),
}


class _Families:
    """Metrics in the form of a registry, for an encoder of prometheus_client."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def exposition(health: Health, accept: str) -> tuple[bytes, str]:
    """Return body and content type for :meth:`nri_sync.kit.Health.exposition`."""
    encode, content_type = choose_encoder(accept)
    own = list(of_health(health))
    try:
        body: bytes = encode(_Families(_merged(own, health.registry)))
    except Exception:
        logger.exception("the registry failed; only the metrics of the plugin's health are served")
        body = encode(_Families(own))
    return body, content_type


def _merged(own: list[Metric], registry: CollectorRegistry) -> Iterator[Metric]:
    yield from own
    # The health may be registered there, too, and a name must not occur twice.
    names = {metric.name for metric in own}
    yield from (metric for metric in registry.collect() if metric.name not in names)


def of_requests(requests: RequestMetrics) -> Iterator[Metric]:
    """Yield the metrics of the requests."""
    figures = requests.figures()
    # Methods without a running request get 0, so that their series do not disappear.
    in_flight = Counter(dict.fromkeys(figures, 0))
    in_flight.update(running.event for running in requests.running())
    ended = CounterMetricFamily(
        "nri_plugin_requests",
        "Requests of the runtime that were handled, by their outcome.",
        labels=["method", "outcome"],
    )
    durations = HistogramMetricFamily(
        "nri_plugin_request_duration_seconds", "How long handlers took.", labels=["method"]
    )
    for method, figure in figures.items():
        for outcome, count in sorted(figure.outcomes.items()):
            ended.add_metric([method, outcome], count)
        buckets = [(_bound(bound), count) for bound, count in figure.durations.items()]
        durations.add_metric([method], buckets, figure.seconds)
    yield ended
    yield durations
    running_now = GaugeMetricFamily(
        "nri_plugin_requests_in_flight", "Requests whose handlers are running.", labels=["method"]
    )
    for method, count in sorted(in_flight.items()):
        running_now.add_metric([method], count)
    yield running_now
    yield GaugeMetricFamily(
        "nri_plugin_request_longest_in_flight_seconds",
        "The age of the longest-running handler.",
        requests.longest(),
    )
    slowest = GaugeMetricFamily(
        "nri_plugin_request_slowest_recent_seconds",
        "The slowest request in the last five to ten minutes.",
        labels=["method"],
    )
    for slow in requests.slowest():
        slowest.add_metric([slow.event], slow.seconds)
    yield slowest
    yield GaugeMetricFamily(
        "nri_plugin_unserved_answers_recent_ratio",
        "The share of late and failed answers among the recent ones.",
        requests.answers().share,
    )


def of_health(health: Health) -> Iterator[Metric]:
    """Yield the metrics of the health, of its requests and of its stub."""
    report = health.report()
    yield from of_requests(health.requests)
    states = GaugeMetricFamily(
        "nri_plugin_state",
        "The state of the plugin: 1 for the current state.",
        labels=["state"],
    )
    for state in type(report.state):
        states.add_metric([state.value], report.state is state)
    yield states
    yield GaugeMetricFamily("nri_plugin_live", "Whether no handler is wedged.", report.live)
    yield GaugeMetricFamily("nri_plugin_ready", "Whether the plugin serves.", report.ready)
    if health.stub is not None:
        yield from of_stub(health.stub)


def of_stub(stub: nri_sync.Stub) -> Iterator[Metric]:
    """The metrics of a stub."""
    plugin = {
        "plugin": stub.name,
        "nri_version": stub.plugin_nri_version,
        "nri_sync_version": nri_sync.__version__,
    }
    yield InfoMetricFamily("nri_plugin", "The plugin; always 1.", _encodable(plugin))
    yield GaugeMetricFamily(
        "nri_plugin_request_timeout_seconds",
        "The time that the runtime waits for a handler.",
        stub.request_timeout,
    )
    yield GaugeMetricFamily(
        "nri_plugin_timer_delay_seconds",
        "The recent delay of the timer thread, which gives late answers.",
        stub.timer_delay,
    )
    if stub.runtime_name:
        runtime = {
            "runtime": stub.runtime_name,
            "version": stub.runtime_version,
            "nri_version": stub.runtime_nri_version,
        }
        text = "The runtime that configured the plugin last; always 1."
        yield InfoMetricFamily("nri_plugin_runtime", text, _encodable(runtime))
    late = CounterMetricFamily(
        "nri_plugin_late_replies_by_method",
        "Requests that the stub answered, because the handler took too long.",
        labels=["method"],
    )
    for method, count in sorted(stub.late_by_event.items()):
        late.add_metric([method], count)
    yield late
    counters = stub.counters
    for field, (name, text) in COUNTERS.items():
        yield CounterMetricFamily(f"nri_plugin_{name}", text, getattr(counters, field))


def _encodable(labels: dict[str, str]) -> dict[str, str]:
    # Replace lone surrogates, for example from an argument that is not UTF-8: they cannot be encoded.
    return {name: value.encode("utf-8", "replace").decode() for name, value in labels.items()}


def _bound(bound: float) -> str:
    return "+Inf" if math.isinf(bound) else repr(bound)
