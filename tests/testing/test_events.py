"""The events of pods and containers: their order, their content, and their effect."""

from __future__ import annotations

import queue
import re
from typing import Any

import pytest

from nri_sync import api
from nri_sync.errors import (
    RuntimeStopped,
    SpecError,
)
from nri_sync.testing import FakeRuntime, NoEffectWarning, make_container, make_pod
from tests.runtime.rig import LONG, PluginWith
from tests.testing.plugins import RecordingPlugin

__all__: list[str] = []

RUNNING = api.ContainerState.CONTAINER_RUNNING
STOPPED = api.ContainerState.CONTAINER_STOPPED


def test_the_life_of_a_pod(runtime: FakeRuntime) -> None:
    plugin = RecordingPlugin()
    pod = make_pod("web")
    container = make_container(pod, "app")
    with runtime.run_plugin(plugin):
        runtime.run_pod(pod)
        assert runtime.pods == [pod]
        runtime.create_container(pod, container)
        assert runtime.container(container).state == api.ContainerState.CONTAINER_CREATED
        assert runtime.container(container).created_at > 0
        runtime.start_container(container)
        started = runtime.container(container)
        assert (started.state, started.pid > 0, started.started_at > 0) == (RUNNING, True, True)
        runtime.update_container(container, api.Update("any").set_cpu(shares=9).resources)
        assert runtime.container(container).linux.resources.cpu.shares.value == 9
        runtime.update_pod(pod, resources=api.Update("any").set_cpu(shares=8).resources)
        # Neither containerd nor CRI-O changes the message of the pod's creation.
        assert runtime.pod(pod).linux.pod_resources == pod.linux.pod_resources
        runtime.stop_container(container, 3)
        stopped = runtime.container(container)
        assert (stopped.state, stopped.pid, stopped.exit_code) == (STOPPED, 0, 3)
        assert stopped.finished_at > 0
        runtime.remove_container(container)
        assert runtime.containers == []
        runtime.stop_pod(pod)
        runtime.remove_pod(pod)
        assert runtime.pods == []
    assert plugin.names == [
        "run_pod_sandbox", "create_container", "post_create_container", "start_container", "post_start_container",
        "update_container", "post_update_container", "update_pod_sandbox", "post_update_pod_sandbox",
        "stop_container", "remove_container", "stop_pod_sandbox", "remove_pod_sandbox",
    ]  # fmt: skip


def test_the_messages_of_the_end(runtime: FakeRuntime) -> None:
    """As sent by containerd v2.4: ``internal/cri/nri/nri_api_linux.go``."""
    received: dict[str, tuple[api.PodSandbox, api.Container]] = {}

    class Watching:
        def stop_container(self, pod: api.PodSandbox, container: api.Container) -> None:
            received["stop"] = (pod, container)

        def remove_container(self, pod: api.PodSandbox, container: api.Container) -> None:
            received["remove"] = (pod, container)

        def stop_pod_sandbox(self, pod: api.PodSandbox) -> None:
            received["stop pod"] = (pod, api.Container())

        def remove_pod_sandbox(self, pod: api.PodSandbox) -> None:
            received["remove pod"] = (pod, api.Container())

    pod = make_pod("web", pid=4711)
    del pod.linux.namespaces[:]
    pod.linux.namespaces.add(type="network", path="/var/run/netns/a")
    pod.linux.namespaces.add(type="ipc")
    container = make_container(pod, "app")
    with runtime.run_plugin(Watching()):
        runtime.run_pod(pod)
        runtime.create_container(pod, container)
        runtime.start_container(container)
        pid = runtime.container(container).pid
        runtime.stop_container(container, 143)
        runtime.stop_pod(pod)
        runtime.remove_pod(pod)
    stopped, removed = received["stop"][1], received["remove"][1]
    assert (stopped.state, stopped.pid, stopped.exit_code) == (STOPPED, pid, 143)
    assert stopped.finished_at >= stopped.started_at > 0
    assert (removed.state, removed.pid, removed.exit_code) == (0, 0, 143)
    assert removed.finished_at == stopped.finished_at
    assert [received[name][0].pid for name in ("stop", "stop pod", "remove", "remove pod")] == [
        4711,
        0,
        0,
        0,
    ]
    namespaces = {
        name: [item.type for item in pod.linux.namespaces] for name, (pod, _) in received.items()
    }
    assert namespaces == {
        "stop": ["network", "ipc"], "stop pod": ["network", "ipc"], "remove": ["ipc"], "remove pod": ["ipc"],
    }  # fmt: skip


def test_a_container_that_was_never_started_has_no_end(runtime: FakeRuntime) -> None:
    plugin = RecordingPlugin()
    pod = make_pod("web")
    container = make_container(pod, "app")
    with runtime.run_plugin(plugin):
        runtime.run_pod(pod)
        runtime.create_container(pod, container)
        runtime.stop_container(container)
        stopped = dict(plugin.calls.get() for _ in range(plugin.calls.qsize()))["stop_container"]
    assert stopped.state == api.ContainerState.CONTAINER_CREATED
    assert (stopped.exit_code, stopped.finished_at) == (0, 0)


def test_the_end_of_a_pod_is_that_of_its_containers(runtime: FakeRuntime) -> None:
    plugin = RecordingPlugin()
    pod, other = make_pod(), make_pod()
    running, stopped = make_container(pod), make_container(pod, state=STOPPED)
    runtime.add(pod, other, running, stopped, make_container(other))
    with runtime.run_plugin(plugin):
        runtime.stop_pod(pod)
        assert plugin.names == ["stop_container", "stop_pod_sandbox"]
        runtime.remove_pod(pod)
        assert plugin.names == ["remove_container", "remove_container", "remove_pod_sandbox"]
        runtime.remove_pod(other)
    assert plugin.names == [
        "stop_container", "stop_pod_sandbox", "remove_container", "remove_pod_sandbox"
    ]  # fmt: skip
    assert runtime.pods == []
    assert runtime.containers == []


def test_adjustments_of_a_container(runtime: FakeRuntime) -> None:
    pod = make_pod("web")
    other, container = make_container(pod, "other"), make_container(pod, "app")
    container.annotations["gone"] = "1"
    runtime.add(pod, other)

    def create(pod: api.PodSandbox, container: api.Container) -> object:
        update = api.Update(other.id).set_cpu(shares=5)
        adjustment = api.Adjustment().add_env("POD", pod.name).remove_annotation("gone")
        return adjustment.set_memory(swap=1), [update]

    plugin = RecordingPlugin(create_container=create)
    lost = pytest.warns(NoEffectWarning, match=r"10-test: linux\.resources\.memory\.swap has no")
    other_plugin = runtime.run_plugin(RecordingPlugin(), name="other", idx="20")
    with runtime.run_plugin(plugin), other_plugin, lost:
        result = runtime.create_container(pod, container)
    assert result.env["POD"] == "web"
    assert result.owner(api.Field.Env, "POD") == "10-test"
    assert [update.container_id for update in result.updates] == [other.id]
    assert [(answer.plugin, answer.event) for answer in result.answers] == [
        ("10-test", "CreateContainer"), ("20-other", "CreateContainer"),
        ("10-test", "PostCreateContainer"), ("20-other", "PostCreateContainer"),
    ]  # fmt: skip
    assert result.error is None
    assert runtime.container(other).linux.resources.cpu.shares.value == 5
    created = runtime.container(container)
    assert "POD=web" in created.env
    assert "gone" not in created.annotations
    assert not created.linux.resources.memory.HasField("swap"), "it gets lost on a node"
    assert result.container == created
    assert "POD=web" not in container.env
    plugin.calls.get()
    name, created = plugin.calls.get()
    assert name == "post_create_container"
    assert "POD=web" in created.env


def test_the_container_after_its_creation(runtime: FakeRuntime) -> None:
    """Plugins of one request see the adjustments of earlier plugins. Later events have the resulting container."""
    pod = make_pod()
    runtime.run_pod(pod)
    container = make_container(pod, env={"TOKEN": "x"})
    container.linux.resources.pids.limit = 10

    def create(pod: api.PodSandbox, container: api.Container) -> object:
        return api.Adjustment().remove_env("TOKEN").set_pids_limit(-1).set_memory(reservation=5)

    first, second = PluginWith(create_container=create), RecordingPlugin()
    with runtime.run_plugin(first), runtime.run_plugin(second, name="second", idx="20"):
        with pytest.warns(NoEffectWarning) as warned:
            result = runtime.create_container(pod, container)
        assert [warning.filename for warning in warned] == 2 * [__file__]
        texts = " ".join(str(warning.message) for warning in warned)
        assert "10-test: linux.resources.memory.reservation has no effect: of memory only" in texts
        assert re.search("10-test: .* variable 'TOKEN' has no effect", texts)
        runtime.start_container(container)
        runtime.stop_container(container)
    existing: queue.SimpleQueue[Any] = queue.SimpleQueue()
    late = PluginWith(synchronize=lambda pods, containers: existing.put(containers))
    with runtime.run_plugin(late):
        pass
    name, seen = second.calls.get()
    assert name == "create_container"
    assert "TOKEN=x" not in seen.env
    received = dict(second.calls.get() for _ in range(4))
    assert received.keys() == {
        "post_create_container", "start_container", "post_start_container", "stop_container",
    }  # fmt: skip
    for seen in (
        *received.values(),
        *existing.get(),
        result.container,
        runtime.container(container),
    ):
        assert "TOKEN=x" in seen.env
        assert seen.linux.resources.pids.limit == 10
        assert not seen.linux.resources.memory.HasField("reservation")


def test_validators_see_the_container_as_it_was(runtime: FakeRuntime) -> None:
    """As in the Go implementation: the message before all plugins, and the merged adjustment."""
    pod = make_pod()
    runtime.add(pod)
    container = make_container(pod, env={"TOKEN": "x"})
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    adjuster = PluginWith(create_container=lambda *_: api.Adjustment().add_env("A", "1"))
    validator = PluginWith(validate_container_adjustment=requests.put)
    with runtime.run_plugin(adjuster), runtime.run_plugin(validator, name="validator"):
        runtime.create_container(pod, container)
    request = requests.get(timeout=LONG)
    assert "A=1" not in request.container.env
    assert [entry.key for entry in request.adjust.env] == ["A"]


def test_an_adjustment_that_fits_no_specification(runtime: FakeRuntime) -> None:
    pod = make_pod()
    runtime.add(pod)
    container = make_container(pod)
    adjustment = api.ContainerAdjustment()
    adjustment.linux.namespaces.add(type="nowhere", path="/x")
    plugin = RecordingPlugin(create_container=lambda *_: adjustment)
    with runtime.run_plugin(plugin):
        with pytest.raises(SpecError, match="nowhere"):
            runtime.create_container(pod, container)
        result = runtime.create_container(pod, container, check=False)
    assert isinstance(result.error, SpecError)
    assert runtime.containers == []
    names = [plugin.calls.get()[0] for _ in range(6)]
    assert names == ["create_container", "stop_container", "remove_container"] * 2


def test_cdi_devices_and_classes() -> None:
    def inject(spec: dict[str, Any], names: list[str]) -> None:
        spec["process"]["env"].append(f"DEVICES={','.join(names)}")

    def create(pod: api.PodSandbox, container: api.Container) -> object:
        return api.Adjustment().add_cdi_device("vendor.com/class=a").set_rdt_class("gold")

    with FakeRuntime(inject_cdi=inject) as runtime:
        pod = make_pod()
        runtime.add(pod)
        with runtime.run_plugin(PluginWith(create_container=create)):
            made = runtime.create_container(pod, make_container(pod)).container
    assert made is not None
    assert "DEVICES=vendor.com/class=a" in made.env
    assert api.optional.get(made.linux.rdt, "clos_id") == "gold"


def test_updates_of_an_updated_container(runtime: FakeRuntime) -> None:
    pod = make_pod()
    container, other = make_container(pod), make_container(pod)
    runtime.add(pod, container, other)

    def update(pod: Any, container: api.Container, resources: Any) -> object:
        return [api.Update(container.id).set_cpu(cpus="1"), api.Update(other.id).set_cpu(cpus="2")]

    with runtime.run_plugin(PluginWith(update_container=update)):
        wanted = api.Update("any").set_cpu(cpus="0-7", shares=4).resources
        result = runtime.update_container(container, wanted)
    assert {update.container_id for update in result.updates} == {container.id, other.id}
    cpu = runtime.container(container).linux.resources.cpu
    assert (cpu.cpus, cpu.shares.value) == ("1", 4)
    assert result.container == runtime.container(container)
    assert runtime.container(other).linux.resources.cpu.cpus == "2"


def test_updates_at_the_stop_of_a_container(runtime: FakeRuntime) -> None:
    pod = make_pod()
    container, other = make_container(pod), make_container(pod)
    runtime.add(pod, container, other)
    update = api.Update(other.id).set_cpu(cpus="2")
    with runtime.run_plugin(PluginWith(stop_container=lambda pod, container: [update])):
        result = runtime.stop_container(container)
    assert [update.container_id for update in result.updates] == [other.id]
    assert runtime.container(other).linux.resources.cpu.cpus == "2"


class TestMistakes:
    def test_a_container_of_another_pod(self, runtime: FakeRuntime) -> None:
        pod, other = make_pod("web", id="w"), make_pod(id="o")
        runtime.add(pod, other)
        with pytest.raises(
            ValueError, match="'app' belongs to pod 'o', not to 'web', whose id is 'w'"
        ):
            runtime.create_container(pod, make_container(other, "app"))

    def test_a_missing_pod_or_container(self, runtime: FakeRuntime) -> None:
        pod = make_pod()
        with pytest.raises(ValueError, match="there is no pod"):
            runtime.create_container(pod, make_container(pod))
        with pytest.raises(ValueError, match="there is no container"):
            runtime.start_container(make_container(pod))

    def test_twice(self, runtime: FakeRuntime) -> None:
        pod = make_pod()
        container = make_container(pod)
        runtime.run_pod(pod)
        runtime.create_container(pod, container)
        with pytest.raises(ValueError, match="exists already"):
            runtime.run_pod(pod)
        with pytest.raises(ValueError, match="exists already"):
            runtime.create_container(pod, container)

    def test_on_a_runtime_that_is_not_started(self) -> None:
        with pytest.raises(RuntimeStopped, match="use the runtime in a with statement"):
            FakeRuntime().run_pod(make_pod())


def test_fields_without_an_effect() -> None:
    """The emulated release accepts such a field, and creates the container without it."""

    def create(pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        return api.Adjustment().add_cdi_device("example.com/a=b")

    injected: list[str] = []
    with (
        FakeRuntime(
            "cri-o", "1.34.0", inject_cdi=lambda spec, names: injected.extend(names)
        ) as runtime,
        runtime.run_plugin(PluginWith(create_container=create)),
    ):
        pod = make_pod()
        runtime.run_pod(pod)
        with pytest.warns(NoEffectWarning, match="CDI_devices has no effect: CDI devices are"):
            result = runtime.create_container(pod, make_container(pod))
        assert result.cdi_devices == ["example.com/a=b"]
    assert injected == []
