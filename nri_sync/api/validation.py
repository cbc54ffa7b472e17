"""The request to a validator, and its answer."""

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
    """The request of a runtime to validators, after all plugins have answered.

    ``pod`` and ``container`` are those before all changes, ``response`` is the merged answer of all plugins, and
    ``plugins`` are the consulted plugins. All arguments are copied.
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
    """The consulted plugins, by full name ``NN-name`` and by name.

    Several plugins with different indices can have the same name.
    """
    plugins: dict[str, list[PluginId]] = {}
    for plugin in request.plugins:
        found = PluginId(plugin.index, plugin.name)
        plugins.setdefault(plugin.name, []).append(found)
        plugins.setdefault(f"{plugin.index}-{plugin.name}", []).append(found)
    return plugins


def check_validation(response: ValidateContainerAdjustmentResponse, validator: str) -> None:
    """Raise ValidationRejected if a validator has rejected the adjustment.

    A response with a reason is not a rejection by itself, and a rejection may have no reason.
    """
    if response.reject:
        raise ValidationRejected(validator, response.reason)
