"""The values that the API server fills in: defaults of Kubernetes, and of LimitRanges.

After Kubernetes v1.36: ``pkg/apis/core/v1/defaults.go`` and ``plugin/pkg/admission/limitranger``. The module
:mod:`.resources` fills in pod-level resources. A value of a wrong type stays: the module that reads it rejects it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Callable

from nri_sync.testing.manifests.fields import Fields

__all__ = ["RANGED", "defaulted", "limit_range_defaults"]

#: The annotation that lists the values from LimitRanges.
RANGED = "kubernetes.io/limit-ranger"

_TERMINATION_LOG = "/dev/termination-log"
_GRACE_PERIOD = 30

Data = dict[str, Any]


def defaulted(spec: Fields, ranges: Iterable[Fields] = ()) -> tuple[Fields, str]:
    """``spec`` of a pod with its defaults, and the text of the annotation :data:`RANGED`, or "".

    ``ranges`` are the LimitRanges of its namespace. Raises ManifestError for an invalid LimitRange.
    """
    limits, requests = limit_range_defaults(ranges)
    said: list[str] = []
    host_network = spec.data.get("hostNetwork") is True

    def container(data: Data, what: str = "container") -> Data:
        data = _container(data)
        if host_network:
            data = _with_each(data, "ports", _host_port)
        resources = data.get("resources")
        if resources is not None and not isinstance(resources, dict):
            return data
        resources = _with_requests(resources or {})
        resources, text = _ranged(resources, limits, requests, f"{what} {data.get('name')}")
        said.extend(text)
        return {**data, "resources": resources} if resources else data

    def init_container(data: Data) -> Data:
        return container(data, "init container")

    data = {"terminationGracePeriodSeconds": _GRACE_PERIOD, "enableServiceLinks": True}
    data.update({key: value for key, value in spec.data.items() if value is not None})
    data = _with_each(data, "containers", container)
    data = _with_each(data, "initContainers", init_container)
    data = _with_each(data, "ephemeralContainers", _container)
    data = _with_each(data, "volumes", _volume)
    text = f"LimitRanger plugin set: {'; '.join(said)}" if said else ""
    return Fields(data, spec.source, spec.path), text


def _with_each(data: Data, key: str, change: Callable[[Data], Data]) -> Data:
    items = data.get(key)
    if not isinstance(items, list):
        return data
    changed = [change(dict(item)) if isinstance(item, dict) else item for item in items]
    return {**data, key: changed}


def _container(data: Data) -> Data:
    """``SetDefaults_Container``, with ports and handlers."""
    defaults = {"terminationMessagePath": _TERMINATION_LOG, "terminationMessagePolicy": "File"}
    data = {**data, **{key: value for key, value in defaults.items() if not data.get(key)}}
    lifecycle = data.get("lifecycle")
    if isinstance(lifecycle, dict):
        handlers = {
            key: _handler(handler) if isinstance(handler, dict) else handler
            for key, handler in lifecycle.items()
        }
        data["lifecycle"] = handlers
    return _with_each(data, "ports", _port)


def _handler(handler: Data) -> Data:
    """``SetDefaults_HTTPGetAction``."""
    action = handler.get("httpGet")
    if not isinstance(action, dict):
        return handler
    defaults = {"path": "/", "scheme": "HTTP"}
    filled = {key: value for key, value in defaults.items() if not action.get(key)}
    return {**handler, "httpGet": {**action, **filled}}


def _port(port: Data) -> Data:
    return port if port.get("protocol") else {**port, "protocol": "TCP"}


def _host_port(port: Data) -> Data:
    """``defaultHostNetworkPorts``."""
    return port if port.get("hostPort") else {**port, "hostPort": port.get("containerPort")}


def _volume(volume: Data) -> Data:
    """``SetDefaults_Volume``: null counts as no source."""
    if all(value is None for key, value in volume.items() if key != "name"):
        return {**volume, "emptyDir": {}}
    return volume


def _with_requests(resources: Data) -> Data:
    """``SetDefaults_Pod``: a missing request equals the limit; a request of 0 stays."""
    limits, requests = resources.get("limits"), resources.get("requests")
    if not isinstance(limits, dict) or not isinstance(requests, (dict, type(None))):
        return resources
    return {**resources, "requests": {**limits, **(requests or {})}}


def _ranged(resources: Data, limits: Data, requests: Data, what: str) -> tuple[Data, list[str]]:
    """``mergeContainerResources``: the resources, and the parts of the annotation."""
    said = []
    for key, word, defaults in (("requests", "request", requests), ("limits", "limit", limits)):
        known = resources.get(key) or {}
        if not isinstance(known, dict):
            return resources, []
        missing = {name: amount for name, amount in defaults.items() if name not in known}
        if missing:
            resources = {**resources, key: {**known, **missing}}
            said.append(f"{', '.join(sorted(missing))} {word} for {what}")
    return resources, said


def limit_range_defaults(ranges: Iterable[Fields]) -> tuple[Data, Data]:
    """The limits and requests of containers without any (``SetDefaults_LimitRangeItem``). Raises ManifestError."""
    limits: Data = {}
    requests: Data = {}
    for document in ranges:
        for item in document.object("spec").objects("limits"):
            if item.text("type") != "Container":
                continue
            most, least = item.object("max").data, item.object("min").data
            default = {**most, **item.object("default").data}
            asked = {**least, **default, **item.object("defaultRequest").data}
            for name in {**default, **asked}:
                for key in ("default", "defaultRequest", "max", "min"):
                    item.object(key).quantity(name)
            limits = {**default, **limits}
            requests = {**asked, **requests}
    return limits, requests
