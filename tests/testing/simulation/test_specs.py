"""Specifications with updates applied."""

from __future__ import annotations

from nri_sync import api
from nri_sync.testing.events import rdt_class
from nri_sync.testing.simulation.specs import Specs

__all__: list[str] = []

SPEC = {"linux": {"resources": {"cpu": {"shares": 2, "quota": 5}}}}


def update(id: str = "ctr") -> api.Update:
    return api.Update(id)


def specs() -> Specs:
    held = Specs()
    held.put("ctr", "pod", "app", SPEC)
    return held


def test_the_owners_of_changes() -> None:
    held = specs()
    merged = (
        update().set_cpu(shares=7, quota=9000).set_memory(limit=4).set_rdt_class("gold").message
    )
    first = update().set_cpu(shares=7).message
    second = update().set_memory(limit=4).set_rdt_class("gold").message
    other = update("another").set_cpu(quota=9000).message
    found = held.update(merged, [("10-a", [first]), ("20-b", [second, other])])
    assert (found.pod, found.container, found.id, found.unknown) == ("pod", "app", "ctr", False)
    changes = {str(item.place): (item.before, item.after, item.owner) for item in found.changes}
    assert changes == {
        "linux.resources.cpu.shares": (2, 7, "10-a"),
        "linux.resources.cpu.quota": (5, 9000, ""),
        "linux.resources.memory.limit": (None, 4, "20-b"),
        "linux.resources.memory.swap": (None, 4, "20-b"),
        "linux.intelRdt.closID": (None, "gold", "20-b"),
    }


def test_updates_add_up() -> None:
    held = specs()
    for shares in (7, 8):
        message = update().set_cpu(shares=shares).message
        [change] = held.update(message, [("10-a", [message])]).changes
    assert (change.before, change.after) == (7, 8)
    assert SPEC["linux"]["resources"]["cpu"]["shares"] == 2


def test_nothing_new() -> None:
    assert not specs().update(update().set_cpu(shares=2).message, []).changes


def test_a_container_that_is_not_there() -> None:
    held = specs()
    held.remove("ctr")
    found = held.update(update().message, [])
    assert found.unknown
    assert found.id == "ctr"
    assert not found.changes


def test_classes() -> None:
    assert rdt_class("gold") == {"closID": "gold"}
    assert rdt_class("") is None
