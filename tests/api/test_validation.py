from __future__ import annotations

import pytest

from nri_sync.api import (
    Adjustment,
    Container,
    CreateContainerResponse,
    Field,
    Owners,
    PluginId,
    PodSandbox,
    Update,
    ValidateContainerAdjustmentRequest,
    ValidateContainerAdjustmentResponse,
    check_validation,
    plugins_by_name,
    validation_request,
)
from nri_sync.errors import ValidationRejected

__all__: list[str] = []


def test_a_request() -> None:
    pod, container = PodSandbox(id="p"), Container(id="c")
    response = CreateContainerResponse(
        adjust=Adjustment().add_env("A", "1").message, update=[Update("d").message]
    )
    owners = Owners()
    owners.claim("c", Field.Env, "10-a", "A")
    request = validation_request(pod, container, response, owners, [PluginId("10", "a")])
    response.adjust.Clear()
    assert (request.pod.id, request.container.id) == ("p", "c")
    assert request.adjust == Adjustment().add_env("A", "1").message
    assert list(request.update) == [Update("d").message]
    assert Owners(request.owners).owner("c", Field.Env, "A") == "10-a"
    assert [(plugin.index, plugin.name) for plugin in request.plugins] == [("10", "a")]


def test_a_request_without_an_adjustment() -> None:
    request = validation_request(PodSandbox(), Container(), CreateContainerResponse())
    assert not request.HasField("adjust")
    assert not request.HasField("owners")


def test_plugins_by_name() -> None:
    request = ValidateContainerAdjustmentRequest()
    assert plugins_by_name(request) == {}
    for index, name in (("10", "a"), ("20", "a"), ("20", "b")):
        request.plugins.add(index=index, name=name)
    assert plugins_by_name(request) == {
        "a": [("10", "a"), ("20", "a")],
        "b": [("20", "b")],
        "10-a": [("10", "a")],
        "20-a": [("20", "a")],
        "20-b": [("20", "b")],
    }


@pytest.mark.parametrize(("reason", "told"), [("no", "no"), ("", "unknown rejection reason")])
def test_a_rejection(reason: str, told: str) -> None:
    response = ValidateContainerAdjustmentResponse(reject=True, reason=reason)
    with pytest.raises(ValidationRejected) as error:
        check_validation(response, "90-v")
    assert str(error.value) == f'validator "90-v" rejected container adjustment, reason: {told}'
    assert (error.value.validator, error.value.reason) == ("90-v", reason)


def test_a_reason_is_no_rejection() -> None:
    response = ValidateContainerAdjustmentResponse(reason="no")
    check_validation(response, "90-v")
    assert response.reason == "no"
