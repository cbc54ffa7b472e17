from __future__ import annotations

import pytest

from nri_sync.api import Adjustment, Update, nri_pb2, strip

__all__: list[str] = []

STRIPPED = [
    *("ContainerAdjustment", "ContainerUpdate", "Hooks", "LinuxContainerAdjustment"),
    *("LinuxContainerUpdate", "LinuxCPU", "LinuxIOPriority", "LinuxMemory", "LinuxMemoryPolicy"),
    *("LinuxPids", "LinuxRdt", "LinuxResources", "LinuxScheduler", "LinuxSeccomp"),
]


@pytest.mark.parametrize("name", STRIPPED)
def test_empty_messages_become_none(name: str) -> None:
    assert strip(getattr(nri_pb2, name)()) is None


def test_all_that_is_nested_and_empty_goes() -> None:
    message = nri_pb2.ContainerAdjustment()
    message.hooks.SetInParent()
    for name in ("io_priority", "seccomp_policy", "scheduler", "rdt", "memory_policy"):
        getattr(message.linux, name).SetInParent()
    for name in ("memory", "cpu", "pids"):
        getattr(message.linux.resources, name).SetInParent()
    assert strip(message) is None
    assert message.SerializeToString() == b""


def test_messages_with_content_stay() -> None:
    adjustment = Adjustment().set_cpu(shares=0, cpus="0").set_pids_limit(0)
    message = adjustment.message
    message.linux.resources.memory.SetInParent()
    assert strip(message) is message
    assert adjustment == Adjustment().set_cpu(shares=0, cpus="0")


def test_optional_values_are_content() -> None:
    for adjustment in (
        Adjustment().set_oom_score_adj(0),
        Adjustment().set_rdt(schemata=[]),
        Adjustment().set_memory(use_hierarchy=False),
        Adjustment().set_blockio_class(""),
    ):
        before = adjustment.message.SerializeToString()
        assert before
        assert strip(adjustment.message) is adjustment.message
        assert adjustment.message.SerializeToString() == before


def test_entries_are_content() -> None:
    message = nri_pb2.ContainerAdjustment()
    message.env.add()
    message.linux.net_devices["eth0"].SetInParent()
    before = message.SerializeToString()
    assert strip(message) is message
    assert message.SerializeToString() == before


def test_an_update_with_an_id_stays() -> None:
    message = Update("abc").message
    message.linux.resources.cpu.SetInParent()
    assert strip(message) is message
    assert message == Update("abc").message


def test_other_messages() -> None:
    with pytest.raises(TypeError, match="a Container cannot be stripped"):
        strip(nri_pb2.Container())  # type: ignore[type-var]
