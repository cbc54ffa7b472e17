"""Metrics: the methods of the base class, and failures of the application's metrics."""

from __future__ import annotations

import pytest

from nri_sync.runtime import Metrics
from nri_sync.runtime.metrics import SafeMetrics

__all__: list[str] = []


class _Failing(Metrics):
    def plugin_count(self, count: int) -> None:
        raise ZeroDivisionError("of the test")


def test_everything_can_be_ignored() -> None:
    metrics = Metrics()
    safe = SafeMetrics(metrics)
    safe.latency("10-a", "RunPodSandbox", 0.1)
    safe.invocation("10-a", "RunPodSandbox", None)
    safe.adjustments("10-a", "Synchronize", None, 1, 0)
    safe.count(1)


def test_a_failure_is_logged_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    SafeMetrics(_Failing()).count(1)
    assert caplog.messages == ["the metrics' plugin_count failed"]
    assert caplog.records[0].exc_info is not None
