"""The input of plugins of NRI 0.1.0, and the effects of their answers."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from examples.v010_adapter.plugin import V010Adapter
from nri_sync import api
from nri_sync.testing import FakeRuntime, StartPlugin, make_container, make_pod
from tests.plugin.harness import eventually

__all__: list[str] = []

# Appends its input to a file, and answers as the configuration says.
PROGRAM = """#!{python} -S
import json, sys
request = json.load(sys.stdin)
with open({log!r}, "a") as log:
    log.write(json.dumps([sys.argv[1:], request]) + "\\n")
print(request.get("conf", {{}}).get("answer", '{{"plugin": "p", "version": "0.1", "error": ""}}'))
"""


class Plugins:
    """A configuration, and programs that write down their input."""

    def __init__(self, where: Path) -> None:
        self.config = where / "conf.json"
        self.log = where / "log"
        self.binaries = where / "bin"
        self.binaries.mkdir()
        # More than the runtime's time limit: on a busy machine, a program starts slowly.
        self.adapter = V010Adapter(self.config, str(self.binaries), timeout=20.0)

    def configure(self, *answers: str | None) -> None:
        plugins = []
        for number, answer in enumerate(answers):
            program = self.binaries / f"p{number}"
            program.write_text(PROGRAM.format(python=sys.executable, log=str(self.log)))
            program.chmod(0o755)
            plugins.append(
                {"type": program.name, **({"conf": {"answer": answer}} if answer else {})}
            )
        self.config.write_text(json.dumps({"version": "0.1", "plugins": plugins}))

    def told(self) -> list[Any]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def plugins(tmp_path: Path) -> Plugins:
    return Plugins(tmp_path)


def test_a_life(plugins: Plugins, nri_runtime: FakeRuntime, nri_plugin: StartPlugin) -> None:
    plugins.configure(None)
    nri_plugin(plugins.adapter)
    namespaces = [
        api.LinuxNamespace(type="network", path="/var/run/netns/a"),
        api.LinuxNamespace(type="pid"),
    ]
    pod = make_pod(labels={"app": "web"}, annotations={"a": "b"}, namespaces=namespaces)
    container = make_container(pod, annotations={"c": "d"})
    nri_runtime.run_pod(pod)
    nri_runtime.create_container(pod, container)
    nri_runtime.start_container(container)
    nri_runtime.remove_pod(pod)
    told = plugins.told()
    assert {tuple(arguments) for arguments, _ in told} == {("invoke",)}
    assert [(request["state"], request["id"]) for _, request in told] == [
        ("create", pod.id), ("create", container.id), ("delete", container.id), ("delete", pod.id),
    ]  # fmt: skip
    of_pod, of_container = told[0][1], told[1][1]
    assert of_pod.keys() == {"version", "state", "id", "sandboxID", "pid", "spec", "labels"}
    assert (of_pod["version"], of_pod["sandboxID"], of_pod["pid"]) == ("0.1", pod.id, pod.pid)
    assert of_pod["labels"]["app"] == of_container["labels"]["app"] == "web"
    assert of_pod["spec"]["namespaces"] == {"network": "/var/run/netns/a", "pid": ""}
    assert of_pod["spec"]["annotations"]["a"] == "b"
    assert of_container["sandboxID"] == pod.id
    assert of_container["spec"]["annotations"]["c"] == "d"
    assert of_container["spec"]["cgroupsPath"] == container.linux.cgroups_path
    assert of_container["spec"]["resources"]["cpu"]["shares"] == 2


def test_each_plugin_gets_the_results_of_the_earlier_ones(plugins: Plugins) -> None:
    answer = json.dumps({"plugin": "p0", "version": "0.1", "error": "", "metadata": {"a": "b"}})
    plugins.configure(answer, None)
    plugins.adapter.run_pod_sandbox(make_pod())
    (_, first), (_, second) = plugins.told()
    assert "results" not in first
    assert second["results"] == [json.loads(answer)]
    assert "conf" not in second


def test_no_configuration_is_no_plugins(plugins: Plugins) -> None:
    plugins.adapter.run_pod_sandbox(make_pod())
    assert not plugins.log.exists()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ('{"plugin": "p", "error": "no room"}', "plugin: p0: no room"),
        ("hello", "plugin: p0: .*'hello"),
        ("[]", "plugin: p0: "),
    ],
)
def test_a_plugin_that_fails(
    answer: str, says: str, plugins: Plugins, caplog: pytest.LogCaptureFixture
) -> None:
    plugins.configure(answer, None)
    pod = make_pod()
    container = make_container(pod)
    adapter = plugins.adapter
    with pytest.raises(ValueError, match=says):
        adapter.run_pod_sandbox(pod)
    with pytest.raises(ValueError, match=says):
        adapter.start_container(pod, container)
    with pytest.raises(ValueError, match=says):
        adapter.stop_pod_sandbox(pod)
    adapter.stop_container(pod, container)
    assert "plugin: p0: " in caplog.text
    assert len(plugins.told()) == 4, "the second one was not called"


@pytest.mark.parametrize("text", ["{", '{"plugins": [{"type": "no-such-plugin"}]}'])
def test_a_configuration_that_cannot_be_used(text: str, plugins: Plugins) -> None:
    plugins.config.write_text(text)
    with pytest.raises(ValueError, match=r"conf\.json|no-such-plugin: there is no such program"):
        plugins.adapter.run_pod_sandbox(make_pod())


@pytest.mark.parametrize("script", ["sleep 3600", "sleep 3600 & wait", "sleep 3600 & exit 0"])
def test_a_plugin_that_does_not_answer_is_killed(script: str, plugins: Plugins) -> None:
    plugins.configure(None)
    program = plugins.binaries / "p0"
    program.write_text(f"#!/bin/sh\necho $$ >{plugins.log}\n{script}\n")
    plugins.adapter.timeout = 2.0
    with pytest.raises(ValueError, match=r"plugin: p0: has not answered; .* have 2 s"):
        plugins.adapter.run_pod_sandbox(make_pod())
    group = int(plugins.log.read_text())
    if "exit" not in script:
        eventually(lambda: _is_gone(group))


def _is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_output_that_is_too_long_is_an_error_of_few_characters(plugins: Plugins) -> None:
    plugins.configure("x" * 1_000_000)
    with pytest.raises(ValueError, match="has more than the 262,144 bytes") as caught:
        plugins.adapter.run_pod_sandbox(make_pod())
    assert len(str(caught.value)) < 1000
