"""simulate(): several plugins, load, existing pods, and unsolicited requests of plugins."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from nri_sync import api
from nri_sync.runtime.validation import DefaultValidator, DefaultValidatorConfig
from nri_sync.testing.manifests import Workload, load
from nri_sync.testing.simulation import (
    FailureKind,
    NotSynchronized,
    SimulatedPlugin,
    Simulation,
)
from tests.patience import say_request_timeout
from tests.testing.manifests import PODS
from tests.testing.simulation import event, life, pod, simulate

__all__: list[str] = []

LONG = 20.0


class Env:
    """Adds a variable that is named after the plugin."""

    def __init__(self, name: str = "A") -> None:
        self.name = name
        self.seen: list[list[str]] = []

    def create_container(self, pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        self.seen.append([entry.partition("=")[0] for entry in container.env])
        return api.Adjustment().add_env(self.name, pod.name)


def test_several_plugins_add_up() -> None:
    first, second = Env("A"), Env("B")
    simulation = life(first, second)
    assert [(plugin.name, plugin.events) for plugin in simulation.plugins] == [
        ("10-a", ["CreateContainer"]),
        ("20-b", ["CreateContainer"]),
    ]
    created = event(simulation, "CreateContainer").created
    assert created is not None
    assert {str(item.place): item.owner for item in created.changes} == {
        "process.env[A]": "10-a",
        "process.env[B]": "20-b",
    }
    # The second plugin sees the change of the first.
    assert "A" in second.seen[0]
    assert "B" not in first.seen[0]


@pytest.mark.parametrize("path", sorted(PODS.iterdir()), ids=lambda path: path.name)
def test_all_kinds_of_pods(path: Any) -> None:
    simulation = life(Env(), of=load(path)[0])
    assert simulation.failed == 0
    assert simulation.events > 5
    json.dumps(simulation.plain())
    [report] = simulation.pods
    assert (report.qos and report.source == str(path)) or "document" in report.source
    created = [item.created for item in report.events if item.created is not None]
    assert created
    for item in created:
        assert [str(change.place) for change in item.changes] == ["process.env[A]"]


def test_on_an_older_runtime() -> None:
    class Newer:
        def create_container(self, pod: object, container: object) -> api.Adjustment:
            return api.Adjustment().add_env("A", "b").set_sysctl("net.core.somaxconn", "1")

    simulation = simulate(
        [SimulatedPlugin(Newer(), "a")], [pod()], runtime=("containerd", "1.7.28"), repeat=2
    )
    created = event(simulation, "CreateContainer")
    [warning] = created.warnings
    assert warning == (
        "plugin 10-a sets a field of CreateContainer that NRI v0.8.0 does not know; it is ignored: "
        "adjust.linux.sysctl"
    )
    assert created.created is not None
    assert [str(change.place) for change in created.created.changes] == ["process.env[A]"]


@pytest.mark.parametrize("runtime", [("containerd", "1.5.0"), ("docker", "27.0")])
def test_on_a_runtime_without_nri(runtime: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=f"the NRI release of runtime {runtime[0]}"):
        simulate([], [pod()], runtime=runtime)


def test_without_plugins() -> None:
    simulation = simulate([], [pod()])
    assert not simulation.plugins
    assert not simulation.statistics
    assert simulation.events == 9


def test_load() -> None:
    seen: list[tuple[int, int]] = []
    simulation = life(
        Env(), repeat=3, containers=4, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(number, 15) for number in range(1, 16)]
    assert simulation.rounds == 3
    assert len(simulation.pods) == 1
    assert [item.container for item in simulation.pods[0].events if item.created] == [
        "app", "app-2", "app-3", "app-4",
    ]  # fmt: skip
    [figures] = simulation.statistics
    assert (figures.plugin, figures.event, figures.calls) == ("10-a", "CreateContainer", 12)
    assert 0 <= figures.p50 <= figures.p99 <= figures.most
    # The pod's own four events, and those of its containers.
    assert simulation.events == 3 * (4 + 4 * 5)


def test_pods_come_one_after_the_other() -> None:
    plugin = Env()
    simulation = simulate([SimulatedPlugin(plugin, "a")], [pod(name="x"), pod(name="y")])
    assert [report.name for report in simulation.pods] == ["default/x", "default/y"]


def test_pods_that_were_there_before() -> None:
    class Synchronizing:
        def synchronize(self, pods: Any, containers: Any) -> Any:
            assert all(item.state == api.ContainerState.CONTAINER_RUNNING for item in containers)
            return [api.Update(item.id).set_cpu(shares=77) for item in containers]

    before = pod("old", init=[{"name": "done", "image": "busybox"}], name="before")
    simulation = simulate([SimulatedPlugin(Synchronizing(), "a")], [], existing=[before])
    [call] = simulation.synchronized.calls
    assert (call.plugin, call.event, call.updates) == ("10-a", "Synchronize", 1)
    [updated] = simulation.synchronized.updates
    assert (updated.pod, updated.container) == ("before", "old")
    [change] = updated.changes
    assert (str(change.place), change.after, change.owner) == (
        "linux.resources.cpu.shares", 77, "10-a",
    )  # fmt: skip


class Restless:
    """Sends a request on a separate thread, after the start of a container."""

    def __init__(self, id: str = "") -> None:
        self.stub: Any = None
        self.id = id
        self._asked = threading.Event()

    def post_start_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        thread = threading.Thread(target=self._ask, args=(self.id or container.id,))
        thread.start()

    def _ask(self, id: str) -> None:
        eviction = api.ContainerEviction(container_id=id, reason="too old")
        self.stub.update_containers([api.Update(id).set_cpu(shares=33)], evict=[eviction])
        self._asked.set()

    def update_container(self, pod: Any, container: Any, resources: Any) -> None:
        assert self._asked.wait(LONG)


def unsolicited(simulation: Simulation) -> Any:
    during = [asked for item in simulation.pods[0].events for asked in item.unsolicited]
    [found] = [*during, *simulation.unsolicited]
    return found


def test_unsolicited_requests() -> None:
    found = unsolicited(life(Env(), Restless()))
    assert found.plugin == "20-b"
    [updated] = found.updates
    assert updated.container == "app"
    [change] = updated.changes
    assert (str(change.place), change.before, change.after) == ("linux.resources.cpu.shares", 2, 33)
    assert found.evictions == {updated.id: "too old"}


def test_requests_for_unknown_containers() -> None:
    found = unsolicited(life(Restless("nobody")))
    assert [(item.id, item.unknown) for item in found.updates] == [("nobody", True)]


def test_the_injector_of_cdi_devices() -> None:
    class GPU:
        def create_container(self, pod: Any, container: Any) -> Any:
            return api.Adjustment().add_cdi_device("vendor.com/gpu=0")

    def inject(spec: dict[str, Any], names: list[str]) -> None:
        spec["process"]["env"] += [f"GPU={name}" for name in names]

    created = event(life(GPU(), inject_cdi=inject), "CreateContainer").created
    assert created is not None
    [change] = created.changes
    assert (str(change.place), change.after, change.owner) == (
        "process.env[GPU]", "vendor.com/gpu=0", "10-a",
    )  # fmt: skip


def test_the_default_validator() -> None:
    class Hooks:
        def create_container(self, pod: Any, container: Any) -> Any:
            return api.Adjustment().add_hook("poststop", "/bin/true")

    config = DefaultValidatorConfig(enable=True, reject_oci_hook_adjustment=True)
    failure = event(
        life(Hooks(), default_validator=DefaultValidator(config)), "CreateContainer"
    ).failure
    assert failure is not None
    assert failure.kind is FailureKind.REJECTED


def test_a_handler_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    say_request_timeout(monkeypatch, 1.0)
    release = threading.Event()

    class Slow:
        def create_container(self, pod: Any, container: Any) -> None:
            release.wait(LONG)

    try:
        found = event(life(Slow()), "CreateContainer")
    finally:
        release.set()
    # The stub answers in place of the handler, just in time, without changes.
    assert found.calls
    assert found.created is not None
    assert not found.created.changes


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"repeat": 0}, "repeat must be at least 1, not 0"),
        ({"containers": -1}, "containers must be at least 1, not -1"),
    ],
)
def test_counts(options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        life(Env(), **options)


def test_two_plugins_of_one_name() -> None:
    plugins = [SimulatedPlugin(Env(), "a"), SimulatedPlugin(Env(), "a")]
    with pytest.raises(ValueError, match="two plugins have the full name 10-a"):
        simulate(plugins, [pod()])


def test_a_plugin_that_cannot_be_synchronized() -> None:
    class Lost:
        def synchronize(self, pods: Any, containers: Any) -> None:
            raise RuntimeError("no")

    with pytest.raises(NotSynchronized, match="RuntimeError: no"):
        life(Lost())


def test_workloads_are_not_changed() -> None:
    workload: Workload = pod()
    before = json.dumps(workload.containers[0].spec), workload.pod.SerializeToString()
    life(Env(), of=workload, repeat=2, containers=2)
    assert (json.dumps(workload.containers[0].spec), workload.pod.SerializeToString()) == before
