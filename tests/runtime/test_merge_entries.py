"""Maps and lists with keyed entries: owners, removals, replacements of another plugin's entries."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import pytest

from nri_sync.api import (
    ContainerAdjustment,
    Field,
    KeyValue,
    LinuxContainer,
    LinuxContainerAdjustment,
    Owners,
)
from nri_sync.errors import ConflictError
from nri_sync.runtime.claims import OwnershipClaims
from nri_sync.runtime.merge_entries import NET_DEVICES, SYSCTL, delete, merge_list, merge_map

__all__: list[str] = []


class Maps:
    """A map of the container, and the map of the reply."""

    def __init__(self, **seen: str) -> None:
        self.owners = Owners()
        self.seen = LinuxContainer(sysctl=seen)
        self.reply = LinuxContainerAdjustment()

    def merge(self, plugin: str, **wanted: str) -> None:
        # A keyword cannot start with the mark.
        entries = {key.replace("no_", "-"): value for key, value in wanted.items()}
        claims = OwnershipClaims(self.owners, plugin, "c")
        merge_map(claims, SYSCTL, entries, self.seen.sysctl, self.reply.sysctl)


class TestMap:
    def test_an_entry(self) -> None:
        maps = Maps(a="0", b="0")
        maps.merge("10-a", a="1", c="2")
        assert maps.seen.sysctl == {"a": "1", "b": "0", "c": "2"}
        assert maps.reply.sysctl == {"a": "1", "c": "2"}
        assert maps.owners.entries("c", Field.Sysctl) == {"a": "10-a", "c": "10-a"}

    def test_a_conflict(self) -> None:
        maps = Maps()
        maps.merge("10-a", a="1")
        with pytest.raises(ConflictError, match=r'plugins "20-b" and "10-a" .* Sysctl a$'):
            maps.merge("20-b", a="1")

    def test_of_several_conflicts_the_first_key_is_reported(self) -> None:
        maps = Maps()
        maps.merge("10-a", a="1", b="1")
        with pytest.raises(ConflictError, match=r"Sysctl a$"):
            maps.merge("20-b", b="1", a="1")

    def test_a_take_over(self) -> None:
        maps = Maps()
        maps.merge("10-a", a="1")
        maps.merge("20-b", no_a="", a="2")
        assert maps.seen.sysctl == {"a": "2"}
        assert maps.reply.sysctl == {"a": "2", "-a": ""}
        with pytest.raises(ConflictError, match='plugins "30-c" and "20-b"'):
            maps.merge("30-c", a="3")

    def test_a_removal_only_gets_to_the_runtime(self, caplog: pytest.LogCaptureFixture) -> None:
        maps = Maps(a="0")
        maps.merge("10-a", no_a="")
        assert maps.seen.sysctl == {"a": "0"}
        assert maps.reply.sysctl == {"-a": ""}
        assert maps.owners.entries("c", Field.Sysctl) == {}
        assert caplog.messages == []

    def test_a_removal_of_an_earlier_entry_is_lost(self, caplog: pytest.LogCaptureFixture) -> None:
        maps = Maps()
        maps.merge("10-a", a="1")
        maps.merge("20-b", no_a="")
        assert maps.seen.sysctl == {"a": "1"}
        assert maps.reply.sysctl == {"a": "1", "-a": ""}
        assert "the removal of sysctl 'a' is lost" in caplog.text
        with pytest.raises(ConflictError, match='plugins "30-c" and "10-a"'):
            maps.merge("30-c", a="3")

    def test_only_one_removal_mark_is_stripped(self) -> None:
        maps = Maps()
        maps.merge("10-a", **{"no_-a": ""})
        assert maps.reply.sysctl == {"--a": ""}

    def test_entries_that_are_messages(self) -> None:
        wanted = LinuxContainerAdjustment()
        wanted.net_devices["eth0"].name = "net0"
        wanted.net_devices["-eth0"].SetInParent()
        wanted.net_devices["-eth1"].SetInParent()
        seen, reply = LinuxContainer(), LinuxContainerAdjustment()
        seen.net_devices["eth0"].name = "old"
        claims = OwnershipClaims(Owners(), "10-a", "c")
        merge_map(claims, NET_DEVICES, wanted.net_devices, seen.net_devices, reply.net_devices)
        assert {key: value.name for key, value in seen.net_devices.items()} == {"eth0": "net0"}
        assert reply == wanted


def env(*entries: str) -> list[KeyValue]:
    return [KeyValue(key=key, value=value) for key, _, value in (e.partition("=") for e in entries)]


class Lists:
    def __init__(self) -> None:
        self.owners = Owners()
        self.reply = ContainerAdjustment()

    def merge(self, plugin: str, *entries: str) -> tuple[dict[str, Any], dict[str, Any]]:
        claims = OwnershipClaims(self.owners, plugin, "c")
        return merge_list(claims, Field.Env, attrgetter("key"), env(*entries), self.reply.env)


class TestList:
    def test_entries_are_appended(self) -> None:
        lists = Lists()
        lists.merge("10-a", "A=1")
        removed, added = lists.merge("20-b", "B=2", "-C", "-B")
        assert list(lists.reply.env) == env("A=1", "B=2")
        assert list(removed) == ["C", "B"]
        assert list(added.values()) == env("B=2")

    def test_a_conflict(self) -> None:
        lists = Lists()
        lists.merge("10-a", "A=1")
        with pytest.raises(ConflictError, match=r'plugins "20-b" and "10-a" .* Env A$'):
            lists.merge("20-b", "A=1")

    def test_a_plugin_conflicts_with_itself(self) -> None:
        with pytest.raises(ConflictError, match='plugins "10-a" and "10-a"'):
            Lists().merge("10-a", "A=1", "A=2")

    @pytest.mark.parametrize("entries", [("-A", "A=2"), ("A=2", "-A")])
    def test_a_take_over(self, entries: tuple[str, str]) -> None:
        lists = Lists()
        lists.merge("10-a", "A=1", "B=1")
        lists.merge("20-b", *entries)
        assert list(lists.reply.env) == env("B=1", "A=2")

    def test_a_removal_takes_out_and_reserves(self) -> None:
        lists = Lists()
        lists.merge("10-a", "A=1")
        lists.merge("20-b", "-A")
        assert not lists.reply.env
        with pytest.raises(ConflictError, match='plugins "30-c" and "20-b"'):
            lists.merge("30-c", "A=3")

    def test_a_removal_of_nothing_reserves_nothing(self) -> None:
        lists = Lists()
        lists.merge("10-a", "-A")
        lists.merge("20-b", "A=2")
        assert list(lists.reply.env) == env("A=2")


def test_delete() -> None:
    items = ["a1", "b1", "a2", "c1"]
    assert delete(items, "abac", {"a", "c"}) == ["a", "a", "c"]
    assert items == ["b1"]
    assert delete(items, "b", set()) == []
    assert items == ["b1"]
