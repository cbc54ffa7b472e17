"""The differ shows the changes of the plugins between its indices."""

from __future__ import annotations

import logging

import pytest

from examples.differ.plugin import Differ, Requests, differences, indices
from nri_sync import api
from nri_sync.testing import FakeRuntime, StartPlugin, make_container, make_pod

__all__: list[str] = []


class Greeter:
    def __init__(self, name: str) -> None:
        self.name = name

    def create_container(self, pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        return api.Adjustment().add_annotation("greeting", self.name).add_env(self.name, "hello")


def create(
    runtime: FakeRuntime,
    start: StartPlugin,
    caplog: pytest.LogCaptureFixture,
    **options: bool | int,
) -> list[str]:
    caplog.set_level(logging.INFO, "differ")
    requests = Requests()
    for idx, after in (("05", "50"), ("50", "95"), ("95", None)):
        start(Differ(idx, after, requests, first=idx == "05", **options), name="differ", idx=idx)  # type: ignore[arg-type]
    start(Greeter("A"), name="greeter", idx="10")
    pod = make_pod()
    runtime.run_pod(pod)
    runtime.create_container(pod, make_container(pod, env=["PATH=/bin"]))
    return [record.message for record in caplog.records if record.name == "differ"]


def test_the_changes_of_a_plugin_are_logged(
    nri_runtime: FakeRuntime, nri_plugin: StartPlugin, caplog: pytest.LogCaptureFixture
) -> None:
    lines = create(nri_runtime, nri_plugin, caplog)
    assert lines[:2] == [
        "[50] RunPodSandbox: pod: <no changes>",
        "[95] RunPodSandbox: pod: <no changes>",
    ]
    assert sorted(line for line in lines if " CreateContainer: " in line) == [
        "[50] CreateContainer: container: create: [annotations greeting]: From: None -> To: A",
        "[50] CreateContainer: container: create: [env 4]: From: None -> To: A=hello",
        "[50] CreateContainer: pod: <no changes>",
        "[95] CreateContainer: container: <no changes>",
        "[95] CreateContainer: pod: <no changes>",
    ]


def test_as_yaml(
    nri_runtime: FakeRuntime, nri_plugin: StartPlugin, caplog: pytest.LogCaptureFixture
) -> None:
    lines = create(nri_runtime, nri_plugin, caplog, yaml=True)
    assert "[50] CreateContainer: container: +  greeting: A" in lines


def test_verbose(
    nri_runtime: FakeRuntime, nri_plugin: StartPlugin, caplog: pytest.LogCaptureFixture
) -> None:
    nri_runtime.add(make_pod("before"))
    lines = create(nri_runtime, nri_plugin, caplog, verbose=3)
    assert "[05] CreateContainer: container:" in lines
    assert "[50] CreateContainer: container before:" in lines
    assert "[50] CreateContainer:      greeting: A" in lines
    assert "[95] Synchronize:    name: before" in lines


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["update: [a]: From: 1 -> To: 2"]),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1]}}, ["delete: [a b 1]: From: 2 -> To: None"]),
        ({}, {"a": {"b": 1}}, ["create: [a]: From: None -> To: {'b': 1}"]),
    ],
)
def test_differences(before: object, after: object, lines: list[str]) -> None:
    assert list(differences(before, after)) == lines


def test_indices() -> None:
    assert indices("0,50,99") == ["00", "50", "99"]
    for text in ("5", "5,5", "9,1"):
        with pytest.raises(ValueError, match="in ascending order"):
            indices(text)


def test_the_oldest_stored_requests_are_dropped() -> None:
    requests = Requests()
    for number in range(1001):
        requests.put("10", "CreateContainer", api.Container(id=str(number)))
    assert requests.take("10", "CreateContainer", api.Container(id="0")) is None
    assert requests.take("10", "CreateContainer", api.Container(id="1")) is not None
