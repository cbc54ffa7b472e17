"""Exclusive and shared CPUs: given, released, set again after updates, and found again after restarts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import nri_sync
from examples.cpu_pinning.plugin import Config, CPUPinning, Topology
from nri_sync import api, kit
from nri_sync.errors import Reject
from nri_sync.testing import FakeRuntime, make_container, make_pod
from tests.examples.attached import run_attached, wait_until_asked

__all__: list[str] = []

KEY = "exclusive-cpus.pinning.example.com"


@pytest.fixture
def sys(tmp_path: Path) -> Path:
    """Two nodes with four CPUs each, two to a core; CPU 7 is off, and node 2 has only memory."""
    (tmp_path / "devices/system/cpu").mkdir(parents=True)
    (tmp_path / "devices/system/cpu/online").write_text("0-6\n")
    for cpu in range(8):
        directory = tmp_path / f"devices/system/cpu/cpu{cpu}/topology"
        directory.mkdir(parents=True)
        first = cpu // 4 * 4 + cpu % 2
        (directory / "thread_siblings_list").write_text(f"{first},{first + 2}\n")
    for node, cpus in enumerate(["0-3", "4-7", ""]):
        directory = tmp_path / f"devices/system/node/node{node}"
        directory.mkdir(parents=True)
        (directory / "cpulist").write_text(f"{cpus}\n")
    return tmp_path


def new_plugin(sys: Path, queue: kit.UpdateQueue) -> CPUPinning:
    plugin = CPUPinning(queue)
    plugin.on_config(Config(reserved="0", sys=sys))
    return plugin


@pytest.fixture
def queue() -> Iterator[kit.UpdateQueue]:
    queue = kit.UpdateQueue()
    yield queue
    queue.close(timeout=0)


@pytest.fixture
def plugin(sys: Path, queue: kit.UpdateQueue) -> CPUPinning:
    return new_plugin(sys, queue)


@pytest.fixture
def stub(
    nri_runtime: FakeRuntime, plugin: CPUPinning, queue: kit.UpdateQueue
) -> Iterator[nri_sync.Stub]:
    with run_attached(nri_runtime, plugin, queue) as stub:
        yield stub


def new_pod(runtime: FakeRuntime, count: int | None = None) -> api.PodSandbox:
    pod = make_pod(annotations={} if count is None else {KEY: str(count)})
    runtime.run_pod(pod)
    return pod


def created(runtime: FakeRuntime, count: int | None = None) -> api.Container:
    pod = new_pod(runtime, count)
    container = make_container(pod)
    runtime.create_container(pod, container)
    return container


def cpus(runtime: FakeRuntime, container: api.Container) -> tuple[str, str]:
    cpu = runtime.container(container).linux.resources.cpu
    return cpu.cpus, cpu.mems


def test_this_machine() -> None:
    assert Topology.read(Path("/sys")).cpus


class TestChoosing:
    def test_a_node_that_fits_best(self, sys: Path) -> None:
        topology = Topology.read(sys)
        assert topology.nodes == {0: (0, 2, 1, 3), 1: (4, 6, 5)}
        free = topology.cpus - {0}
        assert topology.choose(3, free) in ({1, 2, 3}, {4, 5, 6})
        assert topology.choose(2, topology.cpus - {0, 2}) == {1, 3}
        # Whole cores first.
        assert topology.choose(2, topology.cpus - {0, 1, 2, 3}) == {4, 6}

    def test_several_nodes_where_no_one_fits(self, sys: Path) -> None:
        topology = Topology.read(sys)
        assert len(topology.choose(6, topology.cpus)) == 6
        assert topology.choose(5, topology.cpus) > {0, 1, 2, 3}
        with pytest.raises(Reject, match="8 exclusive CPUs are requested, but only 7 are free"):
            topology.choose(8, topology.cpus)

    def test_a_machine_without_nodes(self, sys: Path) -> None:
        for file in (sys / "devices/system/node").glob("*/cpulist"):
            file.unlink()
            file.parent.rmdir()
        assert set(Topology.read(sys).nodes[0]) == set(range(7))


@pytest.mark.usefixtures("stub")
class TestOnARuntime:
    def test_a_pinned_container_takes_cpus_from_the_shared_ones(
        self, nri_runtime: FakeRuntime
    ) -> None:
        shared = created(nri_runtime)
        assert cpus(nri_runtime, shared) == ("0-6", "0-1")
        pinned = created(nri_runtime, 3)
        has, mems = cpus(nri_runtime, pinned)
        assert len(kit.parse_cpus(has)) == 3
        assert mems in ("0", "1")
        rest = set(range(7)) - set(kit.parse_cpus(has))
        assert cpus(nri_runtime, shared)[0] == kit.format_cpus(rest)
        nri_runtime.stop_container(pinned)
        assert cpus(nri_runtime, shared) == ("0-6", "0-1")

    def test_not_enough(self, nri_runtime: FakeRuntime) -> None:
        shared, pinned = created(nri_runtime), created(nri_runtime, 4)
        before = cpus(nri_runtime, shared), cpus(nri_runtime, pinned)
        pod = new_pod(nri_runtime, 3)
        result = nri_runtime.create_container(pod, make_container(pod), check=False)
        assert "only 2 are free" in str(result.error)
        assert (cpus(nri_runtime, shared), cpus(nri_runtime, pinned)) == before

    @pytest.mark.parametrize("text", ["0", "-1", "two"])
    def test_an_invalid_number_of_cpus_fails_the_container(
        self, nri_runtime: FakeRuntime, text: str
    ) -> None:
        pod = make_pod(annotations={KEY: text})
        nri_runtime.run_pod(pod)
        result = nri_runtime.create_container(pod, make_container(pod), check=False)
        assert KEY in str(result.error)

    def test_an_update_from_above_changes_nothing(self, nri_runtime: FakeRuntime) -> None:
        shared, pinned = created(nri_runtime), created(nri_runtime, 2)
        before = [cpus(nri_runtime, item) for item in (shared, pinned)]
        all_cpus = api.LinuxResources(cpu=api.LinuxCPU(cpus="0-6", mems="0-1"))
        for container in (shared, pinned):
            nri_runtime.update_container(container, all_cpus)
        assert [cpus(nri_runtime, item) for item in (shared, pinned)] == before

    def test_a_crash_without_a_stop(self, nri_runtime: FakeRuntime, plugin: CPUPinning) -> None:
        shared, pinned = created(nri_runtime), created(nri_runtime, 2)
        pod = nri_runtime.pod(pinned.pod_sandbox_id)
        plugin.remove_pod_sandbox(pod)  # called by the runtime without the events before it
        nri_runtime.wait_for(lambda: cpus(nri_runtime, shared) == ("0-6", "0-1"))


class TestRestarts:
    def test_the_runtime_is_restarted(self, nri_runtime: FakeRuntime, stub: nri_sync.Stub) -> None:
        shared, pinned, leaving = (created(nri_runtime, n) for n in (None, 2, 3))
        had = cpus(nri_runtime, pinned)
        nri_runtime.stop()
        nri_runtime.wait_for(lambda: not stub.started)
        nri_runtime.start()
        # While the plugin is not connected, one container ends, and another one starts.
        nri_runtime.remove_container(leaving)
        late = created(nri_runtime, 1)
        stub.start()
        wait_until_asked(nri_runtime)  # all updates of Synchronize are applied
        assert cpus(nri_runtime, pinned) == had
        taken = kit.parse_cpus(had[0]) | kit.parse_cpus(cpus(nri_runtime, late)[0])
        assert len(taken) == 3
        assert kit.parse_cpus(cpus(nri_runtime, shared)[0]) == set(range(7)) - taken
        assert len(kit.parse_cpus(cpus(nri_runtime, created(nri_runtime, 3))[0])) == 3

    def test_the_plugin_is_another_process(
        self, nri_runtime: FakeRuntime, sys: Path, queue: kit.UpdateQueue
    ) -> None:
        with nri_runtime.run_plugin(new_plugin(sys, queue)):
            shared, first, second = (created(nri_runtime, n) for n in (None, 2, 1))
            before = [cpus(nri_runtime, item) for item in (shared, first, second)]
        again = new_plugin(sys, queue)
        with nri_runtime.run_plugin(again):
            assert [cpus(nri_runtime, item) for item in (shared, first, second)] == before
        # A container with the right CPUs is not updated.
        assert again.synchronize(nri_runtime.pods, nri_runtime.containers) == []

    def test_containers_that_cannot_keep_their_cpus_get_others(
        self, nri_runtime: FakeRuntime, sys: Path, queue: kit.UpdateQueue
    ) -> None:
        pods = [make_pod(annotations={KEY: text}) for text in ("2", "2", "4", "many")]
        containers = [make_container(pod) for pod in pods]
        for container in containers[:2]:  # both have the same CPUs
            container.linux.resources.cpu.cpus = "1-2"
        nri_runtime.add(*pods, *containers)
        with nri_runtime.run_plugin(new_plugin(sys, queue)):
            found = [kit.parse_cpus(cpus(nri_runtime, item)[0]) for item in containers]
        assert found[0] == {1, 2}
        assert len(found[1]) == 2
        assert not found[0] & found[1]
        # The third finds too few CPUs, and the last has no valid number.
        assert found[2] == found[3] == set(range(7)) - found[0] - found[1]


def test_a_configuration_that_leaves_no_cpu(plugin: CPUPinning, sys: Path) -> None:
    with pytest.raises(ValueError, match="there is no CPU '12'"):
        plugin.on_config(Config(reserved="12", sys=sys))
