"""The setters that Adjustment and Update share. Every test runs for both classes."""

from __future__ import annotations

from typing import Any, Union

import pytest

from nri_sync.api import Adjustment, LinuxResources, Update, optional

__all__: list[str] = []

Builder = Union[Adjustment, Update]


@pytest.fixture(params=[Adjustment, Update])
def builder(request: pytest.FixtureRequest) -> Builder:
    return Adjustment() if request.param is Adjustment else Update("abc")


MEMORY: dict[str, Any] = {
    "limit": 1,
    "reservation": 2,
    "swap": -1,
    "kernel": 4,
    "kernel_tcp": 5,
    "swappiness": 60,
    "disable_oom_killer": True,
    "use_hierarchy": False,
}
CPU: dict[str, Any] = {
    "shares": 2**64 - 1,
    "quota": -1,
    "period": 100_000,
    "realtime_runtime": 0,
    "realtime_period": 7,
}


def test_nothing_is_set_at_first(builder: Builder) -> None:
    builder.set_memory().set_cpu()
    assert not builder.message.HasField("linux")
    assert builder.resources == LinuxResources()
    assert not builder.message.HasField("linux"), "reading must not set it"


def test_memory(builder: Builder) -> None:
    assert builder.set_memory(**MEMORY) is builder
    memory = builder.message.linux.resources.memory
    assert {field: optional.get(memory, field) for field in MEMORY} == MEMORY


@pytest.mark.parametrize("field", MEMORY)
def test_each_amount_of_memory(builder: Builder, field: str) -> None:
    builder.set_memory(**{field: MEMORY[field]})
    assert [found.name for found, _ in builder.resources.memory.ListFields()] == [field]


def test_cpu(builder: Builder) -> None:
    assert builder.set_cpu(**CPU, cpus="0-3,8", mems="0") is builder
    cpu = builder.message.linux.resources.cpu
    assert {field: optional.get(cpu, field) for field in CPU} == CPU
    assert (cpu.cpus, cpu.mems) == ("0-3,8", "0")


@pytest.mark.parametrize("field", CPU)
def test_each_cpu_setting(builder: Builder, field: str) -> None:
    builder.set_cpu(**{field: CPU[field]})
    assert [found.name for found, _ in builder.resources.cpu.ListFields()] == [field]


def test_later_calls_replace_the_named_settings_only(builder: Builder) -> None:
    builder.set_memory(limit=5, swap=6).set_cpu(shares=1, cpus="0", mems="1")
    builder.set_memory(limit=0).set_cpu(cpus="2", shares=0)
    assert optional.get(builder.resources.memory, "limit") == 0
    assert optional.get(builder.resources.memory, "swap") == 6
    assert optional.get(builder.resources.cpu, "shares") == 0
    assert (builder.resources.cpu.cpus, builder.resources.cpu.mems) == ("2", "1")


@pytest.mark.parametrize(
    ("call", "arguments", "name"),
    [
        ("set_memory", {"limit": 2**63}, "LinuxMemory.limit"),
        ("set_memory", {"swap": -(2**63) - 1}, "LinuxMemory.swap"),
        ("set_memory", {"swappiness": -1}, "LinuxMemory.swappiness"),
        # Go accepts an int64 here and sends it modulo 2**64.
        ("set_cpu", {"period": -5}, "LinuxCPU.period"),
        ("set_cpu", {"shares": -1}, "LinuxCPU.shares"),
        ("set_cpu", {"quota": 2**63}, "LinuxCPU.quota"),
        ("set_cpu", {"cpus": "\ud800"}, "LinuxCPU.cpus"),
        ("set_pids_limit", {"limit": 2**63}, "LinuxPids.limit"),
        ("add_hugepage_limit", {"page_size": "2MB", "limit": -1}, "HugepageLimit.limit"),
        ("add_hugepage_limit", {"page_size": "\ud800", "limit": 1}, "HugepageLimit.page_size"),
        ("set_blockio_class", {"name": "\ud800"}, "blockio_class"),
        ("set_rdt_class", {"name": "\ud800"}, "rdt_class"),
        ("set_unified", {"key": "a.b", "value": "\ud800"}, "LinuxResources.unified['a.b']"),
    ],
)
def test_values_that_the_wire_cannot_carry(
    builder: Builder, call: str, arguments: dict[str, Any], name: str
) -> None:
    with pytest.raises(ValueError, match=r"must be from|UTF-8") as error:
        getattr(builder, call)(**arguments)
    assert str(error.value).startswith(name)
    assert not builder.message.HasField("linux"), "a call that fails changes nothing"


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("set_memory", {"limit": "5"}),
        ("set_memory", {"limit": 5, "use_hierarchy": 1}),
        ("set_cpu", {"shares": 1.5}),
        ("set_cpu", {"shares": 1, "cpus": 3}),
        ("set_pids_limit", {"limit": None}),
        ("set_blockio_class", {"name": None}),
        ("set_rdt_class", {"name": 3}),
        ("set_unified", {"key": 3, "value": "1"}),
    ],
)
def test_values_of_a_wrong_type(builder: Builder, call: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="must be a"):
        getattr(builder, call)(**arguments)
    assert not builder.message.HasField("linux"), "a call that fails changes nothing"


def test_pids(builder: Builder) -> None:
    builder.set_pids_limit(-1)
    assert builder.resources.pids.limit == -1
    builder.set_pids_limit(0)
    assert builder.resources.HasField("pids")
    assert builder.resources.pids.limit == 0


def test_hugepages_add_up(builder: Builder) -> None:
    builder.add_hugepage_limit("2MB", 1 << 30).add_hugepage_limit("1GB", 2**64 - 1)
    limits = [(limit.page_size, limit.limit) for limit in builder.resources.hugepage_limits]
    assert limits == [("2MB", 1 << 30), ("1GB", 2**64 - 1)]


def test_classes(builder: Builder) -> None:
    builder.set_blockio_class("gold").set_rdt_class("")
    assert optional.get(builder.resources, "blockio_class") == "gold"
    assert optional.get(builder.resources, "rdt_class") == ""


def test_unified(builder: Builder) -> None:
    builder.set_unified("memory.high", "1").set_unified("pids.max", "5")
    assert builder.resources.unified == {"memory.high": "1", "pids.max": "5"}
    with pytest.raises(ValueError, match=r"'memory.high' is set twice.*: '1', then 'max'"):
        builder.set_unified("memory.high", "max")
    assert builder.resources.unified == {"memory.high": "1", "pids.max": "5"}


def test_the_repr(builder: Builder) -> None:
    shown = repr(builder.set_cpu(cpus="0-3"))
    assert shown.startswith(f"{type(builder).__name__}(")
    assert 'linux { resources { cpu { cpus: "0-3" } } }' in shown
