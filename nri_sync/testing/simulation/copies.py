"""Copies of a workload, to put more load on plugins."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from google.protobuf.message import Message

from nri_sync.testing.manifests import Kind, Workload, WorkloadContainer
from nri_sync.testing.manifests.ids import container_id

__all__ = ["another", "with_containers"]

_M = TypeVar("_M", bound=Message)

_NAMES = ("io.kubernetes.container.name", "io.kubernetes.cri.container-name")


def another(workload: Workload, number: int) -> Workload:
    """A copy of the pod with other ids and the same name, as if the pod had been created again."""
    pod = workload.pod
    texts = {pod.id: _like(pod.id, "round", number)}
    if pod.uid:
        texts[pod.uid] = _like(pod.uid, "round", number)
        # The form of the uid in the names of systemd slices.
        texts[pod.uid.replace("-", "_")] = texts[pod.uid].replace("-", "_")
    for item in workload.containers:
        texts[item.container.id] = _like(item.container.id, "round", number)
    return replace(
        workload,
        pod=_renamed(pod, texts),
        containers=tuple(_with(item, texts) for item in workload.containers),
    )


def with_containers(workload: Workload, count: int) -> Workload:
    """A copy of the pod with ``count`` copies of each ordinary container: "app", "app-2", "app-3" ..."""
    containers: list[WorkloadContainer] = []
    for item in workload.containers:
        containers.append(item)
        if item.kind is Kind.ORDINARY:
            containers += [_copy(item, number) for number in range(2, count + 1)]
    return replace(workload, containers=tuple(containers))


def _copy(item: WorkloadContainer, number: int) -> WorkloadContainer:
    id = item.container.id
    copy = _with(item, {id: _like(id, "copy", number)})
    name = f"{item.name}-{number}"
    copy.container.name = name
    annotations: dict[str, str] = copy.spec.get("annotations") or {}
    for key in _NAMES:
        for held in (copy.container.labels, copy.container.annotations, annotations):
            if key in held:
                held[key] = name
    return copy


def _like(text: str, *purpose: object) -> str:
    """An identifier of the same form, with other hexadecimal digits in the same places."""
    digits = itertools.cycle(container_id(text, *map(str, purpose)))
    return "".join(next(digits) if char in "0123456789abcdef" else char for char in text)


def _with(item: WorkloadContainer, texts: Mapping[str, str]) -> WorkloadContainer:
    text = json.dumps(item.spec)
    for old, new in texts.items():
        text = text.replace(old, new)
    spec: Mapping[str, Any] = json.loads(text)
    return replace(item, container=_renamed(item.container, texts), spec=spec)


def _renamed(message: _M, texts: Mapping[str, str]) -> _M:
    """A copy with all identifiers replaced: in paths, labels, annotations and variables."""
    data = message.SerializeToString()
    for old, new in texts.items():
        # The new text has the length of the old one, so the encoded lengths around it stay correct.
        data = data.replace(old.encode(), new.encode())
    renamed = type(message)()
    renamed.ParseFromString(data)
    return renamed
