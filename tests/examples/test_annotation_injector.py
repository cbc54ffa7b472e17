"""Environment variables and devices for the namespaces that may have them."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from examples.annotation_injector.plugin import AnnotationInjector, Config
from nri_sync import kit
from nri_sync.errors import Reject
from nri_sync.testing import Changes, FakeRuntime, StartPlugin, make_container, make_pod

__all__: list[str] = []

ENV = "env.inject.example.com"
DEVICES = "cdi-devices.inject.example.com"


@pytest.fixture
def plugin() -> AnnotationInjector:
    plugin = AnnotationInjector()
    plugin.config = Config(namespaces=["ml", "team-*"], cdi_devices=["vendor.com/gpu=*"])
    return plugin


def changes(plugin: AnnotationInjector, namespace: str = "ml", **annotations: str) -> Changes:
    written = {
        f"{key.replace('_', '-')}.inject.example.com": text for key, text in annotations.items()
    }
    pod = make_pod(namespace=namespace, annotations=written)
    return Changes(plugin.create_container(pod, make_container(pod)))


def test_on_a_runtime(
    nri_runtime: FakeRuntime, nri_plugin: StartPlugin, plugin: AnnotationInjector
) -> None:
    nri_plugin(plugin)
    pod = make_pod(
        namespace="team-a",
        annotations={
            ENV: '{"A": "1", "B": "2"}',
            f"{ENV}/container.side": "A: side",
            DEVICES: "vendor.com/gpu=0, vendor.com/gpu=1",
        },
    )
    nri_runtime.run_pod(pod)
    main = nri_runtime.create_container(pod, make_container(pod, "main"))
    side = nri_runtime.create_container(pod, make_container(pod, "side"))
    assert (main.env, side.env) == ({"A": "1", "B": "2"}, {"A": "side"})
    assert main.cdi_devices == ["vendor.com/gpu=0", "vendor.com/gpu=1"]


def test_a_pod_that_asks_for_nothing(plugin: AnnotationInjector) -> None:
    assert changes(plugin).empty
    assert changes(plugin, namespace="elsewhere").empty


def test_other_namespaces(plugin: AnnotationInjector, caplog: pytest.LogCaptureFixture) -> None:
    assert changes(plugin, "web", env="A: b").empty
    assert "pods of namespace web may not request" in caplog.text
    plugin.config.elsewhere = "refuse"
    with pytest.raises(Reject, match="namespace web may not"):
        changes(plugin, "web", cdi_devices="vendor.com/gpu=0")


def test_devices_that_are_not_allowed(plugin: AnnotationInjector) -> None:
    with pytest.raises(PermissionError, match=r"'vendor\.com/nic=0' is not"):
        changes(plugin, cdi_devices="vendor.com/gpu=0, vendor.com/nic=0")


@pytest.mark.parametrize("text", ["[a]", "A: 1", "A: {B: c}", "{"])
def test_an_invalid_environment_is_refused(plugin: AnnotationInjector, text: str) -> None:
    with pytest.raises(ValueError, match=ENV):
        changes(plugin, env=text)


def test_misspelt_annotations(plugin: AnnotationInjector, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    plugin.run_pod_sandbox(make_pod(annotations={"cdi-device.inject.example.com": "x"}))
    assert f"did you mean {DEVICES}?" in caplog.text


def test_namespaces_have_to_be_given() -> None:
    from_a_file: Any = "cdi_devices: []"
    with pytest.raises(ValueError, match="namespaces"):
        kit.load(Config, from_a_file)


def test_no_namespace_is_served_by_an_empty_list(plugin: AnnotationInjector) -> None:
    plugin.config.namespaces = []
    plugin.config.elsewhere = "refuse"
    pod = make_pod(namespace="ml", annotations={"env.inject.example.com": "A: b"})
    with pytest.raises(Reject, match="namespace ml may not request"):
        plugin.create_container(pod, make_container(pod))


@pytest.mark.parametrize(
    ("key", "text", "problem"),
    [
        ("env", '{"A=B": "1"}', "environment key 'A=B' contains a '='"),
        ("env", '{"": "1"}', "environment key '' is empty"),
        ("cdi_devices", "all", "CDI device 'all' is not of the form 'vendor.com/class=name'"),
        ("cdi_devices", "vendor.com/gpu=*", "CDI device 'vendor.com/gpu=*' is not of the form"),
    ],
)
def test_values_that_no_runtime_takes_are_the_pods_mistake(
    plugin: AnnotationInjector, key: str, text: str, problem: str
) -> None:
    with pytest.raises(Reject) as error:
        changes(plugin, **{key: text})
    assert problem in str(error.value)
    assert "annotation" in str(error.value)
