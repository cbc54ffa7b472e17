"""Plugins on a runtime, with their recorders."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from nri_sync.errors import ConfigError, PluginError, StartError
from nri_sync.testing import FakeRuntime, make_container, make_pod
from nri_sync.testing.simulation.plugins import NotSynchronized, SimulatedPlugin, started

__all__: list[str] = []


class Plain:
    def __init__(self) -> None:
        self.said: list[Any] = []
        self.stub: Any = None

    def configure(self, config: str, runtime: str, version: str) -> None:
        self.said.append(config)

    def run_pod_sandbox(self, pod: Any) -> None:
        self.said.append(pod.name)

    def on_connected(self, stub: Any) -> None:
        self.said.append(stub is self.stub)

    def on_stop(self) -> None:
        self.said.append(self.stub.started)


@dataclasses.dataclass
class Settings:
    level: int = 1


class Configured:
    Config = Settings
    config: Settings

    def run_pod_sandbox(self, pod: Any) -> None:
        pass


def test_a_plugin_runs_as_by_the_command() -> None:
    plugin = Plain()
    simulated = SimulatedPlugin(plugin, "a", config="text")
    with FakeRuntime() as runtime, started([simulated], runtime) as [(_, recorder)]:
        assert runtime.plugins == ("10-a",)
        runtime.run_pod(make_pod("web"))
        handled = recorder.take_handled()
    assert plugin.said == ["text", True, "web", False]
    assert [item.event for item in handled] == ["Configure", "Synchronize", "RunPodSandbox"]
    assert all(item.seconds >= 0 and not item.traceback for item in handled)


def test_a_plugin_gets_its_declared_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"level": 5}')
    told, read = Configured(), Configured()
    plugins = [
        SimulatedPlugin(told, "a", config='{"level": 3}'),
        SimulatedPlugin(read, "b", config_path=str(path)),
    ]
    with FakeRuntime() as runtime, started(plugins, runtime):
        assert (told.config.level, read.config.level) == (3, 5)


def test_plugins_are_called_in_the_order_of_their_indices() -> None:
    plugins = [SimulatedPlugin(Plain(), name, idx) for name, idx in (("x", "90"), ("y", "05"))]
    with FakeRuntime() as runtime, started(plugins, runtime) as running:
        assert [stub.name for stub, _ in running] == ["05-y", "90-x"]


def test_exceptions_of_handlers_are_recorded() -> None:
    class Failing:
        def run_pod_sandbox(self, pod: Any) -> None:
            raise ValueError("not today")

    with (
        FakeRuntime() as runtime,
        started([SimulatedPlugin(Failing(), "a")], runtime) as [(_, recorder)],
    ):
        recorder.take_handled()
        runtime.run_pod(make_pod(), check=False)
        handled = {item.event: item for item in recorder.take_handled()}
    assert "ValueError: not today" in handled["RunPodSandbox"].traceback
    assert handled["RunPodSandbox"].response is None


def test_unsolicited_requests_are_recorded() -> None:
    from nri_sync import api

    pod = make_pod()
    container = make_container(pod)
    with FakeRuntime() as runtime:
        runtime.add(pod, container)
        with started([SimulatedPlugin(Plain(), "a")], runtime) as [(stub, recorder)]:
            eviction = api.ContainerEviction(container_id=container.id, reason="full")
            stub.update_containers([api.Update(container.id).set_cpu(shares=3)], evict=[eviction])
            [request] = recorder.take_requests()
            assert recorder.take_requests() == []
    assert request.update[0].linux.resources.cpu.shares.value == 3
    assert request.evict[0].reason == "full"


def test_a_plugin_that_cannot_be_started() -> None:
    class Refusing:
        def configure(self, config: str, runtime: str, version: str) -> None:
            raise RuntimeError("no")

    first = Plain()
    good = SimulatedPlugin(first, "good", "01")
    for plugin, error in [
        (SimulatedPlugin(object(), "none"), PluginError),
        (SimulatedPlugin(Refusing(), "refusing"), StartError),
        (SimulatedPlugin(Configured(), "wrong", config='{"level": "x"}'), StartError),
        (SimulatedPlugin(Configured(), "no-file", config_path="/none.json"), ConfigError),
    ]:
        with FakeRuntime() as runtime, pytest.raises(error), started([good, plugin], runtime):
            pass
        assert first.said[-1] is False  # the plugins that had started before are stopped


def test_a_plugin_that_fails_to_be_synchronized() -> None:
    class Lost:
        def synchronize(self, pods: Any, containers: Any) -> None:
            raise KeyError("inventory")

    expected = pytest.raises(
        NotSynchronized, match=r"plugin 10-a was not synchronized: KeyError: 'inventory'"
    )
    with FakeRuntime() as runtime, expected, started([SimulatedPlugin(Lost(), "a")], runtime):
        pass


def test_a_plugin_without_room_for_a_stub() -> None:
    class Slotted:
        __slots__ = ()

        def run_pod_sandbox(self, pod: Any) -> None:
            pass

    with FakeRuntime() as runtime, started([SimulatedPlugin(Slotted(), "a")], runtime) as running:
        assert len(running) == 1
