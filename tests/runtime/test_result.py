"""The results of requests: the container for later plugins, the reply, the owners."""

from __future__ import annotations

from typing import Any

import pytest

from nri_sync import api
from nri_sync.api import (
    Adjustment,
    Container,
    ContainerUpdate,
    CreateContainerRequest,
    CreateContainerResponse,
    Field,
    LinuxResources,
    StopContainerRequest,
    StopContainerResponse,
    Update,
    UpdateContainerRequest,
    UpdateContainerResponse,
)
from nri_sync.errors import ConflictError
from nri_sync.runtime.result import CreateResult, StopResult, UpdateResult

__all__: list[str] = []


def create(**fields: Any) -> CreateResult:
    return CreateResult(CreateContainerRequest(container=Container(id="c1", **fields)))


def update(limit: int | None = None, swap: int | None = None) -> UpdateResult:
    resources = Update("c0").set_memory(limit=limit, swap=swap).resources
    request = UpdateContainerRequest(container=Container(id="c0"), linux_resources=resources)
    return UpdateResult(request)


def adjusting(adjustment: Adjustment) -> CreateContainerResponse:
    return CreateContainerResponse(adjust=adjustment.message)


def updating(*updates: Update) -> UpdateContainerResponse:
    return UpdateContainerResponse(update=[item.message for item in updates])


class TestCreate:
    def test_the_callers_request_stays_as_it_is(self) -> None:
        request = CreateContainerRequest(container=Container(id="c1", env=["A=1"]))
        before = request.SerializeToString()
        result = CreateResult(request)
        result.apply("10-a", adjusting(Adjustment().add_env("A", "2").set_memory(limit=1)))
        assert request.SerializeToString() == before
        assert result.request.container.env == ["A=2"]
        assert result.original.env == ["A=1"]

    def test_plugins_see_the_messages_that_are_always_there(self) -> None:
        container = create().request.container
        assert container.HasField("hooks")
        assert container.linux.resources.HasField("memory")
        assert container.linux.resources.HasField("cpu")

    def test_the_reply_has_the_messages_that_are_always_there(self) -> None:
        reply = create().reply
        assert reply.adjust.HasField("hooks")
        assert reply.adjust.linux.resources.HasField("memory")
        assert reply.adjust.linux.resources.HasField("cpu")
        assert api.strip(reply.adjust) is None
        assert not reply.update

    def test_a_reply_is_a_new_message(self) -> None:
        result = create()
        before = result.reply
        result.apply("10-a", adjusting(Adjustment().set_args(["a"])))
        assert not before.adjust.args
        assert result.reply.adjust.args == ["a"]

    @pytest.mark.parametrize("response", [None, CreateContainerResponse()])
    def test_no_answer_changes_nothing(self, response: CreateContainerResponse | None) -> None:
        result = create(env=["A=1"])
        before = result.request.SerializeToString()
        result.apply("10-a", response)
        assert result.request.SerializeToString() == before
        assert result.reply == create().reply

    def test_owners(self) -> None:
        result = create()
        result.apply("10-a", adjusting(Adjustment().add_env("A", "1").set_args(["a"])))
        assert result.owners.owner("c1", Field.Env, "A") == "10-a"
        assert result.owners.owner("c1", Field.Args) == "10-a"

    def test_updates_of_others_are_merged(self) -> None:
        result = create()
        for plugin, item in (
            ("10-a", Update("c2").set_memory(limit=1)),
            ("20-b", Update("c0").set_cpu(cpus="0")),
            ("30-c", Update("c2").set_memory(swap=2)),
        ):
            result.apply(plugin, CreateContainerResponse(update=[item.message]))
        second, first = result.reply.update
        assert api.strip(second) == Update("c2").set_memory(limit=1, swap=2).message
        assert api.strip(first) == Update("c0").set_cpu(cpus="0").message

    @pytest.mark.parametrize("ignore_failure", [False, True])
    def test_the_created_container_cannot_be_updated(self, ignore_failure: bool) -> None:
        mine = Update("c1", ignore_failure=ignore_failure).message
        with pytest.raises(ConflictError) as error:
            create().apply("10-a", CreateContainerResponse(update=[mine]))
        assert str(error.value) == 'plugin "10-a" asked update of "c1" during creation'
        assert error.value.plugin == "10-a"

    def test_evictions_are_lost(self, caplog: pytest.LogCaptureFixture) -> None:
        response = CreateContainerResponse(evict=[api.eviction("c0", "why not")])
        create().apply("10-a", response)
        assert caplog.messages == [
            "plugin 10-a, container c0: the eviction is lost: the merged reply has none"
        ]

    def test_a_request_without_a_container_is_refused(self) -> None:
        with pytest.raises(ValueError, match="CreateContainerRequest has no container"):
            CreateResult(CreateContainerRequest())


class TestUpdate:
    def test_later_plugins_see_the_merged_resources(self) -> None:
        request = UpdateContainerRequest(container=Container(id="c0"))
        result = UpdateResult(request)
        assert result.request.linux_resources.HasField("memory")
        result.apply("10-a", updating(Update("c0").set_memory(limit=5)))
        assert result.request.linux_resources.memory.limit.value == 5
        assert not request.HasField("linux_resources")

    def test_the_reply_overlays_the_request(self) -> None:
        result = update(limit=1, swap=6)
        result.apply("10-a", updating(Update("c0").set_memory(limit=5)))
        result.apply("20-b", updating(Update("c0").set_cpu(shares=7)))
        (entry,) = result.reply.update
        wanted = Update("c0").set_memory(limit=5, swap=6).set_cpu(shares=7)
        assert api.strip(entry) == wanted.message

    def test_the_requested_container_is_the_last(self) -> None:
        result = update()
        result.apply("10-a", updating(Update("c0"), Update("c2")))
        result.apply("20-b", updating(Update("c1")))
        assert [entry.container_id for entry in result.reply.update] == ["c2", "c1", "c0"]
        assert result.requested is not None
        assert result.requested.container_id == "c0"

    def test_without_updates_of_the_container_the_request_stands(self) -> None:
        result = update(limit=1)
        result.apply("10-a", updating(Update("c2").set_memory(limit=1)))
        assert result.requested is None
        assert [entry.container_id for entry in result.reply.update] == ["c2"]

    def test_an_update_that_sets_nothing_loses_the_request(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        result = update(limit=1)
        result.apply("10-a", updating(Update("c0")))
        assert result.requested is not None
        assert api.strip(result.requested.linux) is None
        assert len(caplog.messages) == 1
        assert "the content of the request itself is lost" in caplog.messages[0]
        result.apply("20-b", updating(Update("c0").set_memory(swap=2)))
        assert result.requested.linux.resources.memory.limit.value == 1
        assert len(caplog.messages) == 1

    def test_limits_of_processes_are_lost(self, caplog: pytest.LogCaptureFixture) -> None:
        result = update()
        result.apply("10-a", updating(Update("c2").set_pids_limit(3)))
        assert not result.reply.update[0].linux.resources.HasField("pids")
        assert "a limit of 3 processes is lost" in caplog.text

    def test_a_request_with_a_limit_of_processes_can_be_updated_once(self) -> None:
        resources = LinuxResources()
        resources.pids.limit = 9
        request = UpdateContainerRequest(container=Container(id="c0"), linux_resources=resources)
        result = UpdateResult(request)
        result.apply("10-a", updating(Update("c0").set_memory(limit=1)))
        with pytest.raises(ConflictError, match=r"both tried to set PidsLimit $"):
            result.apply("20-b", updating(Update("c0").set_cpu(shares=1)))

    def test_rules_for_devices_are_lost(self, caplog: pytest.LogCaptureFixture) -> None:
        message = ContainerUpdate(container_id="c2")
        message.linux.resources.devices.add(allow=True)
        result = update()
        result.apply("10-a", UpdateContainerResponse(update=[message]))
        assert not result.reply.update[0].linux.resources.devices
        assert "a rule for devices is lost" in caplog.text

    def test_failures_are_ignored_if_all_ignore_them(self) -> None:
        result = update()
        result.apply("10-a", updating(Update("c2", ignore_failure=True)))
        assert result.reply.update[0].ignore_failure
        result.apply("20-b", updating(Update("c2")))
        assert not result.reply.update[0].ignore_failure

    def test_a_conflicting_update_that_may_fail_is_dropped(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        result = update()
        result.apply("10-a", updating(Update("c2").set_cpu(shares=1)))
        both = Update("c2", ignore_failure=True).set_memory(limit=2).set_cpu(shares=2)
        result.apply("20-b", updating(both))
        assert api.strip(result.reply.update[0]) == Update("c2").set_cpu(shares=1).message
        (message,) = caplog.messages
        assert message.startswith("plugin 20-b, container c2: the update is lost: ")
        assert "both tried to set CPUShares" in message
        # The claims before the conflict stay.
        with pytest.raises(ConflictError, match=r'plugins "30-c" and "20-b" .* MemLimit'):
            result.apply("30-c", updating(Update("c2").set_memory(limit=3)))

    def test_a_conflict(self) -> None:
        result = update()
        result.apply("10-a", updating(Update("c0").set_unified("k.k", "1")))
        with pytest.raises(ConflictError, match=r"both tried to set CgroupsUnified k.k$"):
            result.apply("20-b", updating(Update("c0").set_unified("k.k", "2")))

    def test_a_request_without_a_container_is_refused(self) -> None:
        with pytest.raises(ValueError, match="UpdateContainerRequest has no container"):
            UpdateResult(UpdateContainerRequest())


class TestStop:
    def test_any_container_can_be_updated(self) -> None:
        request = StopContainerRequest(container=Container(id="c0"))
        result = StopResult(request)
        result.apply("10-a", None)
        result.apply(
            "20-b",
            StopContainerResponse(update=[Update("c0").message, Update("c1").message]),
        )
        assert result.request == request
        assert [entry.container_id for entry in result.reply.update] == ["c0", "c1"]

    def test_without_updates_the_reply_is_empty(self) -> None:
        result = StopResult(StopContainerRequest())
        result.apply("10-a", StopContainerResponse())
        assert result.reply == StopContainerResponse()

    def test_updates_conflict(self) -> None:
        result = StopResult(StopContainerRequest())
        mine = StopContainerResponse(update=[Update("c2").set_memory(limit=1).message])
        result.apply("10-a", mine)
        with pytest.raises(ConflictError, match="MemLimit"):
            result.apply("20-b", mine)
