"""Classes and files of memory, as in the Go plugin."""

from __future__ import annotations

import pytest

from examples.memory_qos.plugin import Config, MemoryQoS
from nri_sync import api, kit
from nri_sync.errors import ConfigError, Reject
from nri_sync.testing import FakeRuntime, StartPlugin, make_container, make_pod

__all__: list[str] = []

CLASS = "class.memory-qos.nri.io"
CONFIG = """
classes:
- name: bronze
  swaplimitratio: 0.5
- name: silver
  swaplimitratio: 0.2
- name: plain
unifiedannotations:
- memory.swap.max
- memory.high
"""


@pytest.fixture
def plugin() -> MemoryQoS:
    plugin = MemoryQoS()
    plugin.config = kit.load(Config, CONFIG)
    return plugin


def settings(plugin: MemoryQoS, limit: int | None = 1000, **annotations: str) -> dict[str, str]:
    keys = {"cls": CLASS, "for_c0": f"{CLASS}/c0", "for_c1": f"{CLASS}/c1",
            "high": "memory.high.memory-qos.nri.io", "swap": "memory.swap.max.memory-qos.nri.io/c0",
            "wrong": "memory.higher.memory-qos.nri.io"}  # fmt: skip
    pod = make_pod(annotations={keys[name]: text for name, text in annotations.items()})
    container = make_container(pod, "c0")
    api.optional.put(container.linux.resources.memory, "limit", limit)
    adjustment = plugin.create_container(pod, container)
    return {} if adjustment is None else dict(adjustment.resources.unified)


def test_on_a_runtime(nri_runtime: FakeRuntime, nri_plugin: StartPlugin, plugin: MemoryQoS) -> None:
    nri_plugin(plugin)
    pod = make_pod(annotations={CLASS: "bronze"})
    nri_runtime.run_pod(pod)
    memory = api.LinuxMemory(limit=api.OptionalInt64(value=200 << 20))
    container = make_container(pod, resources=api.LinuxResources(memory=memory))
    created = nri_runtime.create_container(pod, container)
    wanted = {"memory.high": str(100 << 20), "memory.swap.max": "max"}
    assert dict(created.resources.unified) == wanted


def test_the_most_specific_class(plugin: MemoryQoS) -> None:
    assert settings(plugin, cls="bronze", for_c0="silver", for_c1="bronze") == {
        "memory.high": "800",
        "memory.swap.max": "max",
    }
    assert settings(plugin, cls="bronze", for_c0="plain") == {}
    assert settings(plugin, for_c1="bronze") == {}


def test_files_win_over_the_class(plugin: MemoryQoS) -> None:
    assert settings(plugin, cls="bronze", swap="0") == {
        "memory.high": "500",
        "memory.swap.max": "0",
    }
    assert settings(plugin, limit=None, high="max") == {"memory.high": "max"}


def test_amounts_are_exact(plugin: MemoryQoS) -> None:
    # In 32-bit floating point the error would be a few hundred bytes.
    assert settings(plugin, limit=(10 << 30) + 2, cls="bronze")["memory.high"] == str((5 << 30) + 1)


def test_mistakes_in_annotations(plugin: MemoryQoS) -> None:
    with pytest.raises(Reject, match=rf"{CLASS}: 'gold': not one of bronze, silver, plain"):
        settings(plugin, cls="gold")
    with pytest.raises(Reject, match="'bronze' needs a container with a memory limit"):
        settings(plugin, limit=None, cls="bronze")
    with pytest.raises(Reject, match=r"memory\.higher.*did you mean memory\.high\.memory-qos.*"):
        settings(plugin, wrong="1")
    # The configuration does not allow the file.
    plugin.config.unified.remove("memory.high")
    with pytest.raises(Reject, match="not understood"):
        settings(plugin, high="1")


@pytest.mark.parametrize("ratio", [-0.1, 1, 1.5])
def test_mistakes_in_the_configuration(ratio: float) -> None:
    with pytest.raises(ConfigError, match="swaplimitratio"):
        kit.load(Config, f"classes: [{{name: bronze, swaplimitratio: {ratio}}}]")
