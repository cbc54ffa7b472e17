"""Updates of running containers change their cgroups, both from handlers and at any other time."""

from __future__ import annotations

import grpc
import pytest

from nri_sync import api, errors
from tests.e2e.conftest import Connect
from tests.e2e.cri import Container, Cri, Pod
from tests.e2e.inside import Inside
from tests.interop.plugins import PROMPTLY, Recorder

__all__: list[str] = []

MIB = 1 << 20
feature = pytest.mark.feature


def limit(container: Container, mib: int) -> api.Update:
    return api.Update(container.id).set_memory(limit=mib * MIB)


class TestInHandlers:
    @feature("UpdateContainer: the plugin's values win")
    def test_of_the_container_that_is_updated(self, connect: Connect, container: Container) -> None:
        plugin = Recorder(update_container=[limit(container, 48).set_cpu(shares=77)])
        connect(plugin)
        container.update(memory_limit_in_bytes=96 * MIB, cpu_quota=40_000, cpu_period=100_000)
        _, seen, resources = plugin.expect("update_container")
        assert (seen.id, resources.memory.limit.value) == (container.id, 96 * MIB)
        inside = Inside(container)
        assert inside.memory_limit == 48 * MIB
        assert inside.cpu_shares in (77, None)
        # A setting that the plugin does not mention has the kubelet's value.
        assert inside.cpu_quota == (40_000, 100_000)
        plugin.expect("post_update_container")

    @feature("CreateContainer: updates of other containers")
    def test_of_another_one_at_creation(
        self, connect: Connect, pod: Pod, container: Container
    ) -> None:
        adjustment = api.Adjustment().add_env("A", "1")
        connect(Recorder(create_container=(adjustment, [limit(container, 40)])))
        assert Inside(pod.run()).env["A"] == "1"
        assert Inside(container).memory_limit == 40 * MIB

    @feature("StopContainer: updates of other containers")
    def test_of_another_one_at_the_end(
        self, connect: Connect, pod: Pod, container: Container
    ) -> None:
        ending = pod.run()
        connect(Recorder(stop_container=[limit(container, 44)]))
        ending.stop()
        assert Inside(container).memory_limit == 44 * MIB

    @feature("Synchronize: updates of what runs")
    def test_when_synchronized(self, connect: Connect, container: Container) -> None:
        plugin = Recorder(
            synchronize=lambda pods, containers: [
                limit(container, 52) for there in containers if there.id == container.id
            ]
        )
        connect(plugin)
        # This update waits for the end of the synchronization, with the updates that it has requested.
        container.update(cpu_shares=55)
        plugin.expect("update_container")
        assert Inside(container).memory_limit == 52 * MIB

    @feature("Evictions", proves="ignored by the runtime")
    def test_evictions(self, connect: Connect, pod: Pod, container: Container) -> None:
        answer = api.CreateContainerResponse(
            adjust=api.Adjustment().add_env("A", "1").message,
            evict=[api.eviction(container.id, "its time has come")],
        )
        connect(Recorder(create_container=answer))
        assert Inside(pod.run()).env["A"] == "1"
        assert container.running

    @feature("An error in UpdateContainer fails the update")
    def test_error(self, connect: Connect, container: Container) -> None:
        connect(Recorder(update_container=ValueError("not now")))
        before = Inside(container).memory_limit
        with pytest.raises(grpc.RpcError, match="not now"):
            container.update(memory_limit_in_bytes=96 * MIB)
        assert Inside(container).memory_limit == before


class TestUnsolicited:
    @feature("Unsolicited updates")
    def test_live_cgroup(self, connect: Connect, container: Container) -> None:
        stub = connect(Recorder())
        inside = Inside(container)
        for mib in (64, 32):
            update = limit(container, mib).set_cpu(shares=mib * 10, cpus="0").set_pids_limit(mib)
            assert stub.update_containers([update]) == []
            assert inside.memory_limit == mib * MIB
            assert inside.cpu_shares in (mib * 10, None)
        assert inside.cpus == "0"

    @feature("Unsolicited updates: the pids limit", proves="ignored by the runtime")
    def test_pids(self, connect: Connect, container: Container) -> None:
        inside = Inside(container)
        before = inside.cgroup_directory("pids").joinpath("pids.max").read_text()
        stub = connect(Recorder())
        assert stub.update_containers([api.Update(container.id).set_pids_limit(33)]) == []
        assert inside.cgroup_directory("pids").joinpath("pids.max").read_text() == before

    @feature("Unsolicited updates: some fail", proves="the call fails, others are made")
    def test_failures(self, connect: Connect, container: Container) -> None:
        stub = connect(Recorder())
        # There is no CPU with that number. A response with an error has no list of failed updates.
        impossible = api.Update(container.id).set_cpu(cpus="4000")
        with pytest.raises(errors.CallFailed, match=r"NRI update of (some )?containers failed"):
            stub.update_containers([impossible, limit(container, 38)], timeout=PROMPTLY)
        assert Inside(container).memory_limit == 38 * MIB
        impossible.message.ignore_failure = True
        assert stub.update_containers([impossible], timeout=PROMPTLY) == []

    @feature(
        "Unsolicited updates: of a container that does not exist", proves="accepted, no effect"
    )
    def test_an_update_of_an_unknown_container_is_accepted(
        self, connect: Connect, container: Container
    ) -> None:
        stub = connect(Recorder())
        nobody = api.Update("no-such-container").set_cpu(shares=5)
        assert stub.update_containers([nobody, limit(container, 36)]) == []
        assert Inside(container).memory_limit == 36 * MIB

    @feature("Evictions", proves="ignored by the runtime")
    def test_evictions(self, connect: Connect, cri: Cri, container: Container) -> None:
        plugin = Recorder()
        stub = connect(plugin)
        eviction = api.eviction(container.id, "its time has come")
        assert stub.update_containers([limit(container, 36)], evict=[eviction]) == []
        # The update in the same call was made. The container still runs, and no event of an end was sent.
        assert Inside(container).memory_limit == 36 * MIB
        assert container.running
        assert plugin.calls.empty()
