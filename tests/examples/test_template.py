"""The template has every handler, and changes nothing."""

from __future__ import annotations

import logging

import pytest

import nri_sync
from examples.template.plugin import Config, Template
from nri_sync import kit
from nri_sync.testing import FakeRuntime, StartPlugin, make_container, make_pod

__all__: list[str] = []


def test_a_life(
    nri_runtime: FakeRuntime, nri_plugin: StartPlugin, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "template")
    stub = nri_plugin(Template())
    assert stub.events == nri_sync.EventMask.ALL
    pod = make_pod()
    container = make_container(pod)
    nri_runtime.run_pod(pod)
    assert nri_runtime.create_container(pod, container).env == {}
    nri_runtime.start_container(container)
    nri_runtime.remove_pod(pod)
    assert [record.message for record in caplog.records if record.name == "template"] == [
        "0 pods and 0 containers run already",
        "started",
        "about to be created",
        "about to be created with the changes of the plugins",
        "created",
        "about to be started",
        "started",
        "stopped",
        "stopped",
        "removed",
        "removed",
    ]


def test_the_configuration() -> None:
    assert kit.load(Config, "cfgParam1: hello") == Config("hello")
