from __future__ import annotations

import pytest

from nri_sync.api import Adjustment, ContainerEviction, ContainerUpdate, Update, eviction

__all__: list[str] = []


def test_an_update_has_an_id() -> None:
    update = Update("abc")
    assert update.message == ContainerUpdate(container_id="abc")
    assert update.message.ignore_failure is False


def test_failures_can_be_ignored() -> None:
    update = Update("abc", ignore_failure=True)
    assert update.message == ContainerUpdate(container_id="abc", ignore_failure=True)


def test_setters_write_to_the_message() -> None:
    message = Update("abc").set_cpu(cpus="0-1").message
    assert message.linux.resources.cpu.cpus == "0-1"


def test_on_top_of_a_message() -> None:
    message = ContainerUpdate(container_id="abc", ignore_failure=True)
    update = Update.of(message)
    assert update.message is message
    update.set_pids_limit(5)
    assert message.linux.resources.pids.limit == 5
    assert message.ignore_failure is True


def test_equality() -> None:
    assert Update("abc").set_cpu(shares=1) == Update("abc").set_cpu(shares=1)
    assert Update("abc") != Update("abd")
    assert Update("abc") != Update("abc").message
    assert Update("abc") != Adjustment()


@pytest.mark.parametrize("container_id", [None, 5, b"abc"])
def test_an_id_of_a_wrong_type(container_id: object) -> None:
    with pytest.raises(TypeError, match="container_id must be a str"):
        Update(container_id)  # type: ignore[arg-type]


def test_a_flag_of_a_wrong_type() -> None:
    with pytest.raises(TypeError, match="ignore_failure must be a bool"):
        Update("abc", ignore_failure=1)  # type: ignore[arg-type]


def test_evictions() -> None:
    assert eviction("abc") == ContainerEviction(container_id="abc")
    assert eviction("abc", "too loud") == ContainerEviction(container_id="abc", reason="too loud")
    with pytest.raises(ValueError, match="eviction reason cannot be written as UTF-8"):
        eviction("abc", "\ud800")
