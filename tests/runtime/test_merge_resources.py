"""Resources: every setting has one owner, and a setting counts if it is present."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nri_sync.api import Field, LinuxResources, Owners, Update
from nri_sync.errors import ConflictError
from nri_sync.runtime.claims import OwnershipClaims
from nri_sync.runtime.merge_resources import copy_field, merge_resources, merge_update

__all__: list[str] = []

# 0, false and an empty class are values.
SETTINGS: list[tuple[str, Callable[[Update], object]]] = [
    ("MemLimit", lambda u: u.set_memory(limit=0)),
    ("MemReservation", lambda u: u.set_memory(reservation=1)),
    ("MemSwapLimit", lambda u: u.set_memory(swap=-1)),
    ("MemKernelLimit", lambda u: u.set_memory(kernel=0)),
    ("MemTCPLimit", lambda u: u.set_memory(kernel_tcp=1)),
    ("MemSwappiness", lambda u: u.set_memory(swappiness=0)),
    ("MemDisableOomKiller", lambda u: u.set_memory(disable_oom_killer=False)),
    ("MemUseHierarchy", lambda u: u.set_memory(use_hierarchy=True)),
    ("CPUShares", lambda u: u.set_cpu(shares=0)),
    ("CPUQuota", lambda u: u.set_cpu(quota=-1)),
    ("CPUPeriod", lambda u: u.set_cpu(period=1000)),
    ("CPURealtimeRuntime", lambda u: u.set_cpu(realtime_runtime=0)),
    ("CPURealtimePeriod", lambda u: u.set_cpu(realtime_period=1)),
    ("CPUSetCPUs", lambda u: u.set_cpu(cpus="0-1")),
    ("CPUSetMems", lambda u: u.set_cpu(mems="0")),
    ("HugepageLimits 2MB", lambda u: u.add_hugepage_limit("2MB", 0)),
    ("CgroupsUnified memory.high", lambda u: u.set_unified("memory.high", "1")),
    ("BlockioClass", lambda u: u.set_blockio_class("")),
    ("RdtClass", lambda u: u.set_rdt_class("gold")),
]
PIDS: tuple[str, Callable[[Update], object]] = ("PidsLimit", lambda u: u.set_pids_limit(0))


def wanted(change: Callable[[Update], object]) -> LinuxResources:
    update = Update("c")
    change(update)
    return update.resources


@pytest.mark.parametrize(("name", "change"), [*SETTINGS, PIDS])
def test_a_setting_of_a_new_container(name: str, change: Callable[[Update], object]) -> None:
    owners = Owners()
    seen, reply = LinuxResources(), LinuxResources()
    resources = wanted(change)
    merge_resources(OwnershipClaims(owners, "10-a", "c"), resources, seen, reply)
    assert seen == reply == resources
    with pytest.raises(ConflictError) as error:
        merge_resources(OwnershipClaims(owners, "20-b", "c"), resources, seen, reply)
    text = str(error.value)
    assert text.rstrip() == f'plugins "20-b" and "10-a" both tried to set {name}'


@pytest.mark.parametrize(("name", "change"), SETTINGS)
def test_a_setting_of_an_existing_container(name: str, change: Callable[[Update], object]) -> None:
    owners = Owners()
    merged = LinuxResources()
    resources = wanted(change)
    merge_update(OwnershipClaims(owners, "10-a", "c"), resources, merged)
    assert merged == resources
    with pytest.raises(ConflictError, match=f"both tried to set {name}"):
        merge_update(OwnershipClaims(owners, "20-b", "c"), resources, merged)


def test_empty_cpusets_are_none() -> None:
    owners = Owners()
    seen = LinuxResources()
    resources = LinuxResources()
    resources.cpu.SetInParent()
    merge_resources(OwnershipClaims(owners, "10-a", "c"), resources, seen)
    assert not owners.message.owners
    assert not seen.cpu.cpus


def test_rules_for_devices_have_no_owners() -> None:
    resources = LinuxResources()
    resources.devices.add(allow=True, type="c")
    owners = Owners()
    seen, reply = LinuxResources(), LinuxResources()
    merge_resources(OwnershipClaims(owners, "10-a", "c"), resources, seen, reply)
    merge_resources(OwnershipClaims(owners, "20-b", "c"), resources, seen, reply)
    assert len(seen.devices) == len(reply.devices) == 2
    assert not owners.message.owners


def test_limits_of_huge_pages_are_appended() -> None:
    seen = wanted(lambda u: u.add_hugepage_limit("2MB", 1))
    change = wanted(lambda u: u.add_hugepage_limit("2MB", 2))
    merge_update(OwnershipClaims(Owners(), "10-a", "c"), change, seen)
    assert [limit.limit for limit in seen.hugepage_limits] == [1, 2]


def test_the_first_conflict_in_the_references_order_is_reported() -> None:
    owners = Owners()
    change = wanted(lambda u: u.set_rdt_class("a").set_cpu(shares=1).set_unified("k.k", "1"))
    merge_update(OwnershipClaims(owners, "10-a", "c"), change, LinuxResources())
    with pytest.raises(ConflictError, match="CPUShares"):
        merge_update(OwnershipClaims(owners, "20-b", "c"), change, LinuxResources())
    assert owners.owner("c", Field.CgroupsUnified, "k.k") == "10-a"


def test_an_empty_message_is_copied_too() -> None:
    target = LinuxResources()
    copy_field(target, "pids", LinuxResources().pids)
    assert target.HasField("pids")
