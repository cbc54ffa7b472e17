"""The lifecycles of pods."""

from __future__ import annotations

import json
from typing import Any

from nri_sync import api
from nri_sync.api.handlers import HANDLERS
from nri_sync.testing.manifests import load
from nri_sync.testing.simulation import FailureKind
from tests.testing.manifests import PODS
from tests.testing.simulation import event, life, pod

__all__: list[str] = []

INIT = {"name": "first", "image": "busybox", "command": ["sh"]}
SIDECAR = {**INIT, "name": "side", "restartPolicy": "Always"}


def logger() -> Any:
    """A plugin with all handlers. It records its calls."""

    class Logger:
        def __init__(self) -> None:
            self.said: list[str] = []

    def handle(name: str) -> Any:
        def handler(self: Logger, pod: api.PodSandbox, container: Any = None, *rest: Any) -> None:
            about = f" {container.name}" if isinstance(container, api.Container) else ""
            self.said.append(f"{name}{about}")

        return handler

    for item in HANDLERS:
        if item.event and item.name != "validate_container_adjustment":
            setattr(Logger, item.name, handle(item.name))
    return Logger()


def creation(name: str) -> list[str]:
    steps = ("create", "post_create", "start", "post_start")
    return [f"{step}_container {name}" for step in steps]


def test_a_life_with_everything_in_it() -> None:
    plugin = logger()
    life(plugin, of=pod("app", "log", init=[INIT, SIDECAR]))
    update = ["update_container {}", "post_update_container {}"]
    assert plugin.said == [
        "run_pod_sandbox",
        *creation("first"), "stop_container first",
        *creation("side"), *creation("app"), *creation("log"),
        "update_pod_sandbox", "post_update_pod_sandbox",
        *(text.format(name) for name in ("side", "app", "log") for text in update),
        "stop_container app", "stop_container log", "stop_container side",
        "stop_pod_sandbox",
        *(f"remove_container {name}" for name in ("first", "side", "app", "log")),
        "remove_pod_sandbox",
    ]  # fmt: skip


def test_the_report_of_a_container() -> None:
    class Adjusting:
        def create_container(self, pod: Any, container: Any) -> Any:
            return api.Adjustment().add_env("A", "1").set_cpu(shares=9).add_cdi_device("v.com/d=0")

    simulation = life(Adjusting())
    found = event(simulation, "CreateContainer")
    assert (found.pod, found.container, found.kind) == ("pod", "app", "ordinary")
    assert found.failure is None
    assert found.created is not None
    changes = {
        str(item.place): (item.before, item.after, item.owner) for item in found.created.changes
    }
    assert changes == {
        "process.env[A]": (None, "1", "10-a"),
        "linux.resources.cpu.shares": (2, 9, "10-a"),
    }
    assert found.created.cdi_devices == {"v.com/d=0": "10-a"}
    assert found.created.after is not None
    assert found.created.after["linux"]["resources"]["cpu"]["shares"] == 9
    [call] = found.calls
    assert (call.plugin, call.event) == ("10-a", "CreateContainer")
    assert call.handler_seconds is not None
    assert 0 <= call.handler_seconds <= call.seconds


def test_a_conflict_fails_one_container() -> None:
    class Wanting:
        def create_container(self, pod: Any, container: Any) -> Any:
            return api.Adjustment().set_cpu(shares=9) if container.name == "app" else None

    simulation = life(Wanting(), Wanting(), of=pod("app", "log"))
    failed = event(simulation, "CreateContainer", "app")
    assert failed.failure is not None
    assert failed.failure.kind is FailureKind.CONFLICT
    assert failed.failure.plugin == "20-b"
    assert "CPUShares" in failed.failure.message
    assert failed.created is not None
    assert failed.created.after is None
    assert not failed.created.changes
    assert failed.created.before["process"]
    # The calls have the adjustments of both plugins.
    assert [call.adjustment is not None for call in failed.calls] == [True, True]
    names = [(item.name, item.container) for item in simulation.pods[0].events]
    assert ("StartContainer", "app") not in names
    assert ("StartContainer", "log") in names
    assert simulation.failed == 1
    assert len(simulation.failures) == 1


def test_a_rejection() -> None:
    class Validator:
        def validate_container_adjustment(self, request: Any) -> None:
            raise ValueError("no hooks here")

    class Hooks:
        def create_container(self, pod: Any, container: Any) -> Any:
            return api.Adjustment().add_hook("poststop", "/bin/true")

    failure = event(life(Hooks(), Validator()), "CreateContainer").failure
    assert failure is not None
    assert failure.kind is FailureKind.REJECTED
    assert "no hooks here" in failure.message
    assert failure.plugin == "20-b"


def test_an_error_of_a_handler() -> None:
    class Broken:
        def create_container(self, pod: Any, container: Any) -> Any:
            return container.no_such_field

    found = event(life(Broken()), "CreateContainer")
    assert found.failure is not None
    assert found.failure.kind is FailureKind.ERROR
    assert "no_such_field" in found.failure.message
    assert found.failure.plugin == "10-a"
    assert "return container.no_such_field" in found.failure.traceback
    assert found.calls[0].error


def test_an_init_container_that_fails_is_the_end() -> None:
    class Picky:
        def start_container(self, pod: Any, container: Any) -> None:
            if container.name == "first":
                raise RuntimeError("no")

    simulation = life(Picky(), of=pod("app", init=[INIT]))
    assert [(item.name, item.container) for item in simulation.pods[0].events] == [
        ("RunPodSandbox", ""), ("CreateContainer", "first"), ("StartContainer", "first"),
        ("UpdatePodSandbox", ""), ("StopPodSandbox", ""), ("RemoveContainer", "first"),
        ("RemovePodSandbox", ""),
    ]  # fmt: skip


def test_a_pod_that_fails() -> None:
    class No:
        def run_pod_sandbox(self, pod: Any) -> None:
            raise RuntimeError("no pods")

    simulation = life(No())
    assert [item.name for item in simulation.pods[0].events] == ["RunPodSandbox"]
    assert simulation.failures[0].kind is FailureKind.ERROR


def test_later_events_may_fail() -> None:
    class Late:
        def post_create_container(self, pod: Any, container: Any) -> None:
            raise RuntimeError("too late")

        def post_start_container(self, pod: Any, container: Any) -> None:
            raise RuntimeError("too late")

    simulation = life(Late())
    assert event(simulation, "CreateContainer").failure
    assert event(simulation, "StartContainer").failure
    assert event(simulation, "UpdateContainer").failure is None


def test_an_adjustment_that_fits_no_specification() -> None:
    class Bad:
        def create_container(self, pod: Any, container: Any) -> Any:
            adjustment = api.ContainerAdjustment()
            adjustment.linux.namespaces.add(type="nowhere", path="/x")
            return adjustment

    simulation = life(Bad())
    failure = event(simulation, "CreateContainer").failure
    assert failure is not None
    assert failure.kind is FailureKind.SPEC
    assert "nowhere" in failure.message
    # The runtime undoes the creation, as after a plugin's failure.
    names = [item.name for item in simulation.pods[0].events]
    assert names[:3] == ["RunPodSandbox", "CreateContainer", "UpdatePodSandbox"]


def test_updates() -> None:
    class Doubling:
        def update_container(self, pod: Any, container: Any, resources: Any) -> Any:
            return [api.Update(container.id).set_cpu(shares=resources.cpu.shares.value * 2)]

    resources = api.LinuxResources()
    resources.cpu.shares.value = 100
    resources.memory.limit.value = 1 << 20
    simulation = life(Doubling(), resources=resources)
    [updated] = event(simulation, "UpdateContainer").updates
    assert updated.container == "app"
    changes = {str(item.place): (item.before, item.after, item.owner) for item in updated.changes}
    assert changes == {
        "linux.resources.cpu.shares": (2, 200, "10-a"),
        "linux.resources.memory.limit": (None, 1 << 20, ""),
        "linux.resources.memory.swap": (None, 1 << 20, ""),
    }


def test_a_resize_has_a_round_for_memory_and_one_for_cpu() -> None:
    """``doPodResizeAction``: the pod comes first; its CPU quota and its CPU shares are separate updates."""

    class Asked:
        said: list[tuple[str, int, int]] = []  # noqa: RUF012

        def update_pod_sandbox(self, pod: Any, overhead: Any, resources: Any) -> None:
            self.said.append(("pod", resources.cpu.quota.value, resources.memory.limit.value))

        def update_container(self, pod: Any, container: Any, resources: Any) -> None:
            sizes = [item.page_size for item in resources.hugepage_limits]
            assert sizes == ["2MB", "1GB"]
            self.said.append(
                (container.name, resources.cpu.quota.value, resources.memory.limit.value)
            )

    def container(name: str, **limits: str) -> dict[str, Any]:
        return {"name": name, "image": "busybox", "resources": {"limits": limits}}

    def told(*containers: Any) -> list[tuple[str, int, int]]:
        Asked.said = []
        document = {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}}
        life(Asked(), of=load(json.dumps(document))[0])
        return Asked.said

    mib = 1 << 20
    assert told(container("a", cpu="1", memory="1Mi"), container("b", cpu="1", memory="2Mi")) == [
        ("pod", 200_000, 3 * mib), ("a", 100_000, mib), ("b", 100_000, 2 * mib),
        ("pod", 200_000, 3 * mib), ("pod", 200_000, 3 * mib), ("a", 100_000, mib), ("b", 100_000, 2 * mib),
    ]  # fmt: skip
    # The pod has no limit if one of its containers has none.
    assert told(container("a", cpu="1", memory="1Mi"), container("b", memory="2Mi")) == [
        ("pod", -1, 3 * mib), ("a", 100_000, mib), ("b", 0, 2 * mib),
        ("pod", -1, 3 * mib), ("a", 100_000, mib), ("b", 0, 2 * mib),
    ]  # fmt: skip
    assert told(container("a")) == [("pod", -1, (1 << 63) - 1), ("a", 0, 0)]


def test_limits_of_huge_pages_in_updates_do_not_stay() -> None:
    class Stopped:
        limits: list[Any] = []  # noqa: RUF012

        def stop_container(self, pod: Any, container: Any) -> None:
            self.limits += container.linux.resources.hugepage_limits

    life(Stopped(), of=load(PODS / "huge-pages.yaml")[0])
    assert not Stopped.limits


def test_updates_to_the_present_values_change_nothing() -> None:
    workload = load(PODS / "huge-pages.yaml")[0]
    [updated] = event(life(logger(), of=workload), "UpdateContainer").updates
    assert not updated.changes
    assert not updated.unknown


def test_updates_of_other_containers() -> None:
    class Neighbour:
        def __init__(self) -> None:
            self.known: list[str] = []

        def create_container(self, pod: Any, container: Any) -> Any:
            updates = [api.Update(id).set_cpu(shares=50) for id in self.known]
            self.known.append(container.id)
            return None, updates

        def stop_container(self, pod: Any, container: Any) -> Any:
            return [api.Update(id).set_cpu(shares=60) for id in self.known if id != container.id]

    simulation = life(Neighbour(), of=pod("app", "log"))
    [updated] = event(simulation, "CreateContainer", "log").updates
    assert (updated.container, updated.changes[0].after) == ("app", 50)
    [updated] = event(simulation, "StopContainer", "app").updates
    assert (updated.container, updated.changes[0].owner) == ("log", "10-a")


def test_a_removal_without_an_effect() -> None:
    """The event has one warning. Later messages have the remaining entries."""

    class Hiding:
        def __init__(self) -> None:
            self.seen: list[str] = []

        def create_container(self, pod: Any, container: Any) -> Any:
            return api.Adjustment().remove_env("PATH").set_memory(swap=5)

        def post_start_container(self, pod: Any, container: Any) -> None:
            self.seen += container.env
            assert not container.linux.resources.memory.HasField("swap")

    plugin = Hiding()
    simulation = life(plugin)
    warned = {item.name: item.warnings for item in simulation.pods[0].events if item.warnings}
    assert warned.keys() == {"CreateContainer"}
    removal, swap = warned["CreateContainer"]
    assert "the removal of environment variable 'PATH' is lost" in removal
    assert "memory.swap is lost" in swap
    assert [entry for entry in plugin.seen if entry.startswith("PATH=")]
    created = event(simulation, "CreateContainer").created
    assert created is not None
    assert not created.changes


def test_lost_settings_are_warnings() -> None:
    class Evicting:
        def create_container(self, pod: Any, container: Any) -> Any:
            response = api.CreateContainerResponse()
            response.evict.add(container_id="x", reason="r")
            return response

    found = event(life(Evicting()), "CreateContainer")
    assert any("eviction" in text for text in found.warnings)
    assert found.calls[0].evictions == 1
