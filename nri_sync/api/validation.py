"""The request that a validator gets, and its answer."""

from __future__ import annotations

from nri_sync.api.identity import PluginId
from nri_sync.api.nri_pb2 import (
    Container,
    CreateContainerResponse,
    PluginInstance,
    PodSandbox,
    ValidateContainerAdjustmentRequest,
    ValidateContainerAdjustmentResponse,
)
from nri_sync.api.owners import Owners
from nri_sync.errors import ValidationRejected

__all__ = ["check_validation", "plugins_by_name", "validation_request"]


def validation_request(
    pod: PodSandbox,
    container: Container,
    response: CreateContainerResponse,
    owners: Owners | None = None,
    plugins: tuple[PluginId, ...] | list[PluginId] = (),
) -> ValidateContainerAdjustmentRequest:
    """What a runtime asks validators once all plugins have had their say.

    Pod and container are to be as they were before; ``response`` has what all plugins together
    have asked for; ``plugins`` are those that were consulted. Everything is copied.
    """
    return ValidateContainerAdjustmentRequest(
        pod=pod,
        container=container,
        adjust=response.adjust if response.HasField("adjust") else None,
        update=response.update,
        owners=None if owners is None else owners.message,
        plugins=[PluginInstance(name=plugin.name, index=plugin.idx) for plugin in plugins],
    )


def plugins_by_name(request: ValidateContainerAdjustmentRequest) -> dict[str, list[PluginId]]:
    """The consulted plugins, by full name ``NN-name`` and by name alone.

    Several can have the same name, if their indices differ.
    """
    plugins: dict[str, list[PluginId]] = {}
    for plugin in request.plugins:
        found = PluginId(plugin.index, plugin.name)
        plugins.setdefault(plugin.name, []).append(found)
        plugins.setdefault(f"{plugin.index}-{plugin.name}", []).append(found)
    return plugins


def check_validation(response: ValidateContainerAdjustmentResponse, validator: str) -> None:
    """Raise ValidationRejected if a validator has rejected the adjustment.

    A reason alone is no rejection, and a rejection needs no reason.
    """
    if response.reject:
        raise ValidationRejected(validator, response.reason)
