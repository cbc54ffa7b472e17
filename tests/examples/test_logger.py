"""The subscriptions of the logger, its log file, and the conflicts of its marks with other plugins."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import nri_sync
from examples.logger.plugin import Config, Logger
from nri_sync import kit
from nri_sync.testing import FakeRuntime, StartPlugin, make_container, make_pod

__all__: list[str] = []

CONFIG = (
    "logFile: /dev/null\nevents: [pod]\naddAnnotation: a\nsetAnnotation: b\naddEnv: C\nsetEnv: D"
)


@pytest.fixture
def plugin(caplog: pytest.LogCaptureFixture) -> Iterator[Logger]:
    caplog.set_level(logging.INFO, "logger")
    plugin = Logger(Config(events=["createcontainer,stopcontainer"], add_env="OF_OPTIONS"))
    yield plugin
    plugin.on_stop()


def test_every_message_in_full(
    plugin: Logger,
    nri_runtime: FakeRuntime,
    nri_plugin: StartPlugin,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pod = make_pod("web")
    nri_runtime.add(pod)
    nri_plugin(plugin)
    nri_runtime.create_container(pod, make_container(pod, "app", args=["serve"]))
    lines = [record.message for record in caplog.records if record.name == "logger"]
    assert "Synchronize:    name: web" in lines
    assert "CreateContainer: container:" in lines
    assert "CreateContainer:    name: app" in lines
    assert not [line for line in lines if line.startswith("PostCreateContainer")]


def test_the_configuration_counts_before_options(plugin: Logger) -> None:
    plugin.on_config(kit.load(Config, CONFIG))
    assert plugin.settings == Config("/dev/null", ["pod"], "a", "b", "C", "D")
    assert plugin.configure("", "", "") == nri_sync.EventMask.POD
    plugin.on_config(kit.load(Config, "setEnv: D"))
    assert plugin.settings == Config(
        "", ["createcontainer,stopcontainer"], "", "", "OF_OPTIONS", "D"
    )


def test_without_a_list_of_events_the_plugin_gets_all() -> None:
    assert Logger(Config()).configure("", "", "") is None


@pytest.mark.parametrize("events", [[], ["all"], ["pod,container"], ["pod"]])
@pytest.mark.parametrize("release", ["v0.6.1", "v0.8.0", "v0.11.0"])
def test_groups_on_older_runtimes(events: list[str], release: str) -> None:
    version = {"v0.6.1": "1.7.20", "v0.8.0": "2.1.5-k3s1", "v0.11.0": "2.2.1"}[release]
    with (
        FakeRuntime("containerd", version, nri_version=release) as runtime,
        runtime.run_plugin(Logger(Config(events=events))) as stub,
    ):
        runtime.run_pod(make_pod("web"))
        mask = nri_sync.EventMask.parse(*(events or ["all"]))
        assert stub.events == mask & nri_sync.api.valid_events(release)


def test_a_log_file(plugin: Logger, tmp_path: Path) -> None:
    pod, path = make_pod("web"), tmp_path / "log"
    plugin.on_config(Config(log_file=str(path)))
    plugin.run_pod_sandbox(pod)
    plugin.on_config(Config(log_file=str(tmp_path / "other")))
    plugin.stop_pod_sandbox(pod)
    plugin.on_config(Config(log_file=str(path)))
    plugin.remove_pod_sandbox(pod)
    text = path.read_text()
    assert "RunPodSandbox:    name: web" in text
    assert "RemovePodSandbox:    name: web" in text
    assert "StopPodSandbox" not in text
    assert "StopPodSandbox" in (tmp_path / "other").read_text()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (Config(events=["pods"]), "unknown event 'pods'"),
        (Config(log_file="/no/such/log"), 'failed to open log file "/no/such/log"'),
    ],
)
def test_an_invalid_configuration_is_refused(config: Config, says: str, plugin: Logger) -> None:
    with pytest.raises(ValueError, match=says):
        plugin.on_config(config)
    assert plugin.settings is plugin.options


def test_to_add_conflicts_and_to_set_does_not(
    nri_runtime: FakeRuntime, nri_plugin: StartPlugin
) -> None:
    for idx in ("10", "20"):
        nri_plugin(Logger(Config(set_annotation="mark", set_env="MARK")), idx=idx)
    pod = make_pod()
    nri_runtime.run_pod(pod)
    assert nri_runtime.create_container(pod, make_container(pod)).env.keys() == {"MARK"}
    nri_plugin(Logger(Config(add_env="MARK")), idx="30")
    result = nri_runtime.create_container(pod, make_container(pod), check=False)
    assert "both tried to set" in str(result.error)
