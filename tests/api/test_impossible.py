"""The rules themselves are tested in test_rules.py and test_resource_rules.py."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nri_sync.api import Adjustment, Update, impossible, nri_pb2

__all__: list[str] = []


@pytest.mark.parametrize(
    "message", [nri_pb2.ContainerAdjustment(), nri_pb2.ContainerUpdate(container_id="a")]
)
def test_an_empty_message(message: nri_pb2.ContainerAdjustment) -> None:
    before = message.SerializeToString()
    assert impossible(message) == []
    assert message.SerializeToString() == before


def test_every_mistake_is_named() -> None:
    message = Adjustment().add_env("A", "1").set_oom_score_adj(5).message
    message.env.add(key="B=C")
    message.env.add(key="-")
    message.mounts.add(destination="-data")
    message.linux.oom_score_adj.value = 5000
    message.linux.net_devices["-a/b"].SetInParent()
    message.linux.scheduler.policy = 99  # type: ignore[assignment]
    lines = impossible(message)
    assert [line.partition("'")[0].strip() for line in lines[:3]] == [
        *("mount destination", "environment key", "environment key"),
    ]
    assert len(lines) == 6
    assert lines[-2] == "oom_score_adj 5000 must be from -1000 to 1000"
    assert "99" in lines[-1]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=100)
@given(st.binary(max_size=200))
def test_any_message_is_answered(data: bytes) -> None:
    for kind in (nri_pb2.ContainerAdjustment, nri_pb2.ContainerUpdate):
        message = kind()
        try:
            message.ParseFromString(data)
        except Exception:
            continue
        assert all(isinstance(line, str) for line in impossible(message))


def test_updates() -> None:
    update = Update("a").set_cpu(cpus="0").message
    update.linux.resources.cpu.cpus = "a"
    assert impossible(update) == ["cpus 'a' is not a list such as '0-3,8': 'a'"]
