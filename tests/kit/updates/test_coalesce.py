"""Two updates of a container as one."""

from __future__ import annotations

import pytest

from nri_sync import api
from nri_sync.api import ContainerUpdate, nri_pb2
from nri_sync.kit.updates.coalesce import overlay

__all__: list[str] = []


def update() -> api.Update:
    return api.Update("ctr0")


def both(first: api.Update, later: api.Update) -> ContainerUpdate:
    untouched = ContainerUpdate()
    untouched.CopyFrom(later.message)
    overlay(first.message, later.message)
    assert later.message == untouched
    return first.message


class TestOverlay:
    @pytest.mark.parametrize(
        ("first", "later", "wanted"),
        [
            # The later value wins, field by field.
            (
                update().set_cpu(shares=5, cpus="0-3").set_memory(limit=7),
                update().set_cpu(shares=6, mems="1").set_memory(swap=8),
                update().set_cpu(shares=6, cpus="0-3", mems="1").set_memory(limit=7, swap=8),
            ),
            # Zeros, False and empty names are values, too.
            (
                update().set_memory(limit=7, disable_oom_killer=True).set_blockio_class("slow"),
                update().set_memory(limit=0, disable_oom_killer=False).set_blockio_class(""),
                update().set_memory(limit=0, disable_oom_killer=False).set_blockio_class(""),
            ),
            (
                update().set_pids_limit(5),
                update().set_pids_limit(0),
                update().set_pids_limit(0),
            ),
            (
                update().set_cpu(cpus="0-3"),
                update().set_cpu(shares=2),
                update().set_cpu(cpus="0-3", shares=2),
            ),
            (
                update().set_unified("memory.high", "1").set_unified("cpu.idle", "0"),
                update().set_unified("memory.high", "2").set_unified("io.weight", "9"),
                update()
                .set_unified("memory.high", "2")
                .set_unified("cpu.idle", "0")
                .set_unified("io.weight", "9"),
            ),
            (
                update().add_hugepage_limit("2MB", 1).add_hugepage_limit("1GB", 2),
                update().add_hugepage_limit("2MB", 3).add_hugepage_limit("64KB", 4),
                update()
                .add_hugepage_limit("2MB", 3)
                .add_hugepage_limit("1GB", 2)
                .add_hugepage_limit("64KB", 4),
            ),
            (
                update().set_rdt_class("gold"),
                update().set_rdt_class("silver"),
                update().set_rdt_class("silver"),
            ),
            (update(), update().set_cpu(shares=1), update().set_cpu(shares=1)),
        ],
    )
    def test_the_overlay_of_two_updates_has_the_effect_of_both(
        self, first: api.Update, later: api.Update, wanted: api.Update
    ) -> None:
        assert both(first, later) == wanted.message

    def test_rules_for_devices_are_appended(self) -> None:
        first, later = update(), update()
        first.resources.devices.add(access="r")
        later.resources.devices.add(access="w")
        merged = both(first, later)
        assert [rule.access for rule in merged.linux.resources.devices] == ["r", "w"]

    @pytest.mark.parametrize("first", [True, False])
    @pytest.mark.parametrize("later", [True, False])
    def test_a_failure_is_ignored_if_both_ignore_it(self, first: bool, later: bool) -> None:
        merged = both(
            api.Update("ctr0", ignore_failure=first), api.Update("ctr0", ignore_failure=later)
        )
        assert merged.ignore_failure is (first and later)

    def test_every_resource_is_known_here(self) -> None:
        # New fields of the protocol must be merged, too.
        assert {field.name for field in nri_pb2.LinuxResources.DESCRIPTOR.fields} == {
            "memory", "cpu", "hugepage_limits", "blockio_class", "rdt_class", "unified", "devices", "pids",
        }  # fmt: skip
        assert len(ContainerUpdate.DESCRIPTOR.fields) == 3
        assert len(nri_pb2.LinuxContainerUpdate.DESCRIPTOR.fields) == 1
