"""The facts about releases of runtimes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from nri_sync import EventMask, api
from nri_sync.api import nri_pb2
from nri_sync.api.runtimes import EFFECTLESS, MEASURED, RuntimeFacts, runtime_facts

__all__: list[str] = []

DOCS = Path(__file__).resolve().parents[2] / "docs"

CONTAINERD = runtime_facts("containerd", "v2.4.2", "v0.12.3")
CRIO = runtime_facts("cri-o", "1.34.0")


def test_the_nri_release_is_inferred() -> None:
    assert runtime_facts("containerd", "1.7.28").nri_version == "v0.8.0"
    assert CRIO.nri_version is not None
    assert runtime_facts("other", "1.0") == RuntimeFacts("other", "1.0", None)
    assert runtime_facts("other", "1.0", "v0.9.0").nri_version == "v0.9.0"


def test_events_and_fields() -> None:
    old = runtime_facts("containerd", "1.7.28")
    assert EventMask.UPDATE_POD_SANDBOX not in old.events
    assert EventMask.UPDATE_POD_SANDBOX in old.missing_events
    assert not CONTAINERD.missing_events
    adjustment = api.Adjustment().set_args(["sh"]).message
    assert old.unknown(adjustment) == ["args"]
    assert "args" in old.all_unknown(adjustment.DESCRIPTOR)
    unknown = runtime_facts("other", "1.0")
    assert (unknown.events, unknown.unknown(adjustment)) == (EventMask.ALL, [])
    assert not unknown.locks_while_relaying
    assert old.locks_while_relaying


def test_fields_without_an_effect() -> None:
    adjustment = api.Adjustment().set_memory(limit=1 << 20, reservation=1 << 19)
    adjustment.add_cdi_device("example.com/a=b")
    memory = "linux.resources.memory.reservation"
    assert list(CONTAINERD.without_effect(adjustment.message)) == [memory]
    assert list(CRIO.without_effect(adjustment.message)) == [memory, "CDI_devices"]
    assert runtime_facts("other", "1").without_effect(adjustment.message) == {}
    update = api.Update("ctr0").set_pids_limit(5).message
    (reason,) = CONTAINERD.without_effect(update).values()
    assert reason == "an update leaves the limit of processes as it is"
    assert CRIO.without_effect(update) == {}
    request = nri_pb2.UpdateContainersRequest(evict=[nri_pb2.ContainerEviction(container_id="a")])
    assert list(CONTAINERD.without_effect(request)) == ["evict"]
    assert CONTAINERD.without_effect(nri_pb2.ContainerAdjustment()) == {}


def test_clearing() -> None:
    adjustment = api.Adjustment().set_memory(limit=1 << 20, swap=1 << 21).message
    assert list(CONTAINERD.without_effect(adjustment, clear=True)) == [
        "linux.resources.memory.swap"
    ]
    assert adjustment == api.Adjustment().set_memory(limit=1 << 20).message


@pytest.mark.parametrize("entry", EFFECTLESS, ids=lambda entry: f"{entry.message}-{entry.paths[0]}")
def test_the_paths_exist(entry: Any) -> None:
    for path in entry.paths:
        kind = getattr(nri_pb2, entry.message).DESCRIPTOR
        for name in path.split("."):
            field = kind.fields_by_name[name]
            kind = field.message_type
    assert set(entry.runtimes) <= MEASURED.keys()


def test_the_measurements_are_those_of_the_page() -> None:
    page = (DOCS / "e2e.md").read_text()
    for name, version in MEASURED.items():
        assert f"| {name} {version} (NRI " in page
    rows = dict(re.findall(r"^\| ([^|]+) \| (.*) \|$", page, re.MULTILINE))
    ignored = {feature: row.split(" | ") for feature, row in rows.items()}
    both = ["ignored by the runtime"] * 2
    assert ignored["cgroup: memory reservation, swap, swappiness"] == both
    assert ignored["Evictions"] == both
    assert ignored["CDI devices"][1] == both[1]
    assert ignored["Unsolicited updates: the pids limit"] == [both[0], "yes"]


def test_the_table_of_the_documentation() -> None:
    page = (DOCS / "api.md").read_text()
    for entry in EFFECTLESS:
        paths = ", ".join(f"`{path}`" for path in entry.paths)
        row = f"| {', '.join(entry.runtimes)} | `{entry.message}` | {paths} | {entry.reason} |"
        assert row in page, row
