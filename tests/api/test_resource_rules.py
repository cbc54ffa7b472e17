"""The rules for resources apply to adjustments and updates, and to raw messages of both."""

from __future__ import annotations

import contextlib
from typing import Any, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nri_sync.api import (
    Adjustment,
    LinuxDeviceCgroup,
    Update,
    impossible,
    nri_pb2,
    optional,
)

__all__: list[str] = []

Builder = Union[Adjustment, Update]


@pytest.fixture(params=[Adjustment, Update])
def builder(request: pytest.FixtureRequest) -> Builder:
    return Adjustment() if request.param is Adjustment else Update("abc")


@pytest.mark.parametrize("name", ["limit", "reservation", "swap", "kernel", "kernel_tcp"])
def test_amounts_of_memory(builder: Builder, name: str) -> None:
    def put(amount: int) -> None:
        arguments: dict[str, Any] = {name: amount}
        builder.set_memory(**arguments)

    with pytest.raises(ValueError, match=f"^memory {name} -2 must not be negative, except -1"):
        put(-2)
    assert not builder.message.HasField("linux")
    for amount in (-1, 0, 1, 2**63 - 1):
        put(amount)
        assert impossible(builder.message) == []
    optional.put(builder.resources.memory, name, -3)
    (line,) = impossible(builder.message)
    assert line.startswith(f"memory {name} -3 ")


def test_swap_is_memory_and_swap(builder: Builder) -> None:
    builder.set_memory(limit=100, swap=100).set_memory(swap=-1).set_memory(swap=0)
    with pytest.raises(ValueError, match=r"^memory swap 99 is below the limit, 100"):
        builder.set_memory(swap=99)
    assert optional.get(builder.resources.memory, "swap") == 0
    with pytest.raises(ValueError, match=r"^memory swap 5 is below the limit, 6"):
        builder.set_memory(limit=6, swap=5)
    assert optional.get(builder.resources.memory, "limit") == 100


def test_swappiness(builder: Builder) -> None:
    builder.set_memory(swappiness=100).set_memory(swappiness=0)
    with pytest.raises(ValueError, match=r"^memory swappiness 101 must be from 0 to 100"):
        builder.set_memory(swappiness=101)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"quota": 999}, "CPU quota 999 must be 1000 microseconds or more"),
        ({"quota": 1}, "CPU quota 1 must be"),
        ({"period": 999}, "CPU period 999 must be from 1000 to 1000000 microseconds"),
        ({"period": 1_000_001}, "CPU period 1000001 must be"),
        ({"realtime_runtime": -2}, "CPU realtime_runtime -2 must not be negative"),
        ({"cpus": ""}, "cpus '' sets nothing: the container keeps its value; leave it out"),
        ({"mems": ""}, "mems '' sets nothing"),
        ({"cpus": " , "}, "cpus ' , ' sets nothing"),
        ({"cpus": "a-b"}, "cpus 'a-b' is not a list such as '0-3,8': 'a-b'"),
        ({"cpus": "all"}, "cpus 'all' is not a list"),
        ({"cpus": "0-"}, "cpus '0-' is not a list"),
        ({"cpus": "-1"}, "cpus '-1' is not a list"),
        ({"cpus": "0--3"}, "cpus '0--3' is not a list"),
        ({"cpus": "1.5"}, "cpus '1.5' is not a list"),
        ({"cpus": "0x3"}, "cpus '0x3' is not a list"),
        ({"cpus": "[0, 1]"}, "cpus '[0, 1]' is not a list"),
        ({"cpus": "\u0663"}, "cpus '\u0663' is not a list"),
        ({"cpus": "0\0"}, "cpus '0\\x00' is not a list"),
        ({"cpus": "9" * 10}, "cpus '9999999999' is not a list"),
        ({"cpus": "0,3-1"}, "cpus '0,3-1' has the range 3-1, which ends before it begins"),
        ({"cpus": "0-7:3/2"}, "cpus '0-7:3/2' has the range 0-7:3/2, which takes 3 of each 2"),
        ({"mems": "1-0"}, "mems '1-0' has the range 1-0"),
        ({"shares": 5, "mems": "x"}, "mems 'x' is not a list"),
    ],
)
def test_cpu(builder: Builder, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 -- compared whole
        builder.set_cpu(**arguments)
    assert str(error.value).startswith(text)
    assert not builder.message.HasField("linux")


@pytest.mark.parametrize(
    "arguments",
    [
        *({"quota": quota} for quota in (-1, -5, 0, 1000, 2**63 - 1)),
        *({"period": period} for period in (0, 1000, 1_000_000)),
        {"realtime_runtime": -1, "realtime_period": 2**64 - 1},
        {"shares": 0},
        {"shares": 2**64 - 1},
        *({"cpus": cpus} for cpus in ("0", "0-3,8", "5-5", "0, 1", "0-3,", "0-31:1/4", "0 1\n")),
        {"mems": "0-1"},
    ],
)
def test_cpu_settings_that_pass(builder: Builder, arguments: dict[str, Any]) -> None:
    builder.set_cpu(**arguments)
    assert impossible(builder.message) == []


@given(st.sets(st.integers(0, 8191), min_size=1, max_size=20))
def test_every_list_of_cpus_passes(cpus: set[int]) -> None:
    text = ",".join(map(str, sorted(cpus)))
    assert Adjustment().set_cpu(cpus=text).resources.cpu.cpus == text


@given(st.text(max_size=10))
def test_any_text_is_taken_or_named(text: str) -> None:
    adjustment = Adjustment()
    with contextlib.suppress(ValueError):
        adjustment.set_cpu(cpus=text)
    assert adjustment.resources.cpu.cpus in ("", text)
    assert impossible(adjustment.message) == []


def test_processes(builder: Builder) -> None:
    builder.set_pids_limit(-1).set_pids_limit(0)
    with pytest.raises(ValueError, match=r"^limit of processes -2 must not be negative"):
        builder.set_pids_limit(-2)


@pytest.mark.parametrize("size", ["", "2M", "2Mi", "2MiB", "2 MB", "mb", "0MB", "-1MB", "2097152"])
def test_sizes_of_huge_pages(builder: Builder, size: str) -> None:
    with pytest.raises(ValueError, match=r"^size of huge pages '.*' is not a size such as '2MB'"):
        builder.add_hugepage_limit(size, 1)
    builder.add_hugepage_limit("64KB", 0).add_hugepage_limit("1GB", 2**64 - 1)
    builder.resources.hugepage_limits[0].page_size = size
    assert len(impossible(builder.message)) == 1


@pytest.mark.parametrize("key", ["", "memory", ".max", "memory.", "a/memory.max", "../x.y", "m.\0"])
def test_files_of_cgroups(builder: Builder, key: str) -> None:
    with pytest.raises(
        ValueError, match=r"^cgroup file '.*' (is not the name of a file|has a NUL)"
    ):
        builder.set_unified(key, "1")
    builder.resources.unified[key] = "1"
    assert len(impossible(builder.message)) == 1


@pytest.mark.parametrize(("value", "text"), [("", "sets nothing"), ("1\0", "has a NUL")])
def test_values_of_cgroup_files(builder: Builder, value: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"^value of the cgroup file 'memory.high': .* {text}"):
        builder.set_unified("memory.high", value)
    builder.set_unified("io.max", "8:0 rbps=1\n8:16 wbps=2")


@pytest.mark.parametrize("name", ["set_blockio_class", "set_rdt_class"])
def test_classes(builder: Builder, name: str) -> None:
    with pytest.raises(ValueError, match="class 'a\\\\x00' has a NUL"):
        getattr(builder, name)("a\0")
    # An empty class name removes the class.
    getattr(builder, name)("")
    assert impossible(builder.message) == []


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        (LinuxDeviceCgroup(type="c", access="rwm"), 0),
        (LinuxDeviceCgroup(access="r"), 0),
        (LinuxDeviceCgroup(type="p", access="r"), 1),
        (LinuxDeviceCgroup(type="a"), 1),
        (LinuxDeviceCgroup(type="a", access="rx"), 1),
    ],
)
def test_rules_for_devices(builder: Builder, rule: LinuxDeviceCgroup, found: int) -> None:
    builder.resources.devices.append(rule)
    assert len(impossible(builder.message)) == found


def test_an_update_names_a_container() -> None:
    assert impossible(nri_pb2.ContainerUpdate()) == ["container_id of an update '' is empty"]
