"""A plugin in the runtime's process: handlers get copies of messages, without a socket."""

from __future__ import annotations

from typing import Any

import pytest

import nri_sync
from nri_sync import api
from nri_sync.api import EventMask, nri_pb2
from nri_sync.api.handlers import HANDLERS
from nri_sync.deadline import Deadline
from nri_sync.runtime.inprocess import InProcess
from nri_sync.runtime.request import Request
from tests.runtime.rig import CONTAINER, POD, PluginWith, update_of

__all__: list[str] = []

BY_RPC = {handler.rpc: handler for handler in HANDLERS}
NEVER = Deadline(None)


def _create() -> Request:
    message = nri_pb2.CreateContainerRequest(pod=POD, container=CONTAINER)
    return Request(BY_RPC["CreateContainer"], message)


def test_the_name_and_events_of_a_plugin() -> None:
    plugin = InProcess("07-a-b", PluginWith(run_pod_sandbox=lambda pod: None))
    assert (plugin.name, plugin.idx, plugin.identity) == ("07-a-b", "07", api.PluginId("07", "a-b"))
    assert plugin.events == EventMask.RUN_POD_SANDBOX
    plugin.configure(nri_pb2.ConfigureRequest(), 1.0)
    assert plugin.events == EventMask.RUN_POD_SANDBOX


def test_configure_chooses_among_its_events() -> None:
    told = []

    class Plugin(nri_sync.Plugin):
        def configure(self, config: str, runtime: str, version: str) -> EventMask:
            told.append((config, runtime, version))
            return EventMask.STOP_POD_SANDBOX

        def run_pod_sandbox(self, pod: Any) -> None:
            raise AssertionError

        def stop_pod_sandbox(self, pod: Any) -> None:
            raise AssertionError

    plugin = InProcess("10-a", Plugin())
    request = nri_pb2.ConfigureRequest(config="c", runtime_name="n", runtime_version="v")
    plugin.configure(request, 1.0)
    assert plugin.events == EventMask.STOP_POD_SANDBOX
    assert told == [("c", "n", "v")]


def test_handlers_get_copies_and_answer_as_over_the_wire() -> None:
    def create(pod: Any, container: Any) -> Any:
        container.args.append("changed")
        return api.Adjustment().add_env("A", "B"), [update_of("ctr0")]

    request = _create()
    response = InProcess("10-a", PluginWith(create_container=create)).request(request, NEVER)
    assert response == nri_pb2.CreateContainerResponse(
        adjust=api.Adjustment().add_env("A", "B").message, update=[update_of("ctr0")]
    )
    assert request.message.container == CONTAINER


def test_an_exception_of_a_handler_comes_out() -> None:
    def create(pod: Any, container: Any) -> Any:
        raise ZeroDivisionError("of the test")

    plugin = InProcess("10-a", PluginWith(create_container=create))
    with pytest.raises(ZeroDivisionError):
        plugin.request(_create(), NEVER)


def test_synchronize() -> None:
    plugin = InProcess("10-a", PluginWith(synchronize=lambda pods, ctrs: [update_of(ctrs[0].id)]))
    assert plugin.synchronize([POD], [CONTAINER], 1.0) == [update_of("ctr1")]
    without = InProcess("10-a", PluginWith(run_pod_sandbox=lambda pod: None))
    assert without.synchronize([POD], [CONTAINER], 1.0) == []


@pytest.mark.parametrize(
    ("raised", "reason"), [(None, ""), (ValueError("no"), "no"), (ValueError(), "ValueError")]
)
def test_a_validator_rejects_by_raising(raised: Exception | None, reason: str) -> None:
    def validate(request: Any) -> None:
        assert request.container == CONTAINER
        if raised is not None:
            raise raised

    plugin = InProcess("10-a", PluginWith(validate_container_adjustment=validate))
    message = nri_pb2.ValidateContainerAdjustmentRequest(container=CONTAINER)
    response = plugin.request_async(
        Request(BY_RPC["ValidateContainerAdjustment"], message), NEVER
    )()
    assert (response.reject, response.reason) == (raised is not None, reason)


def test_closing_calls_shutdown_once(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def shutdown() -> None:
        calls.append("shutdown")
        raise ValueError("of the test")

    plugin = InProcess("10-a", PluginWith(shutdown=shutdown))
    closed = [plugin.closed]
    plugin.close()
    plugin.close()
    assert [*closed, plugin.closed] == [False, True]
    assert calls == ["shutdown"]
    assert caplog.messages == ["plugin 10-a: its shutdown handler failed"]
