"""Tests of the mapping of manifests, and their shared functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nri_sync.testing.manifests import Assumptions, Workload, WorkloadContainer, load
from nri_sync.testing.manifests.fields import Fields

__all__ = ["PODS", "container", "fields", "mounts", "only", "pod_file", "spec_of"]

PODS = Path(__file__).parent / "pods"


def fields(data: object = None, path: str = "") -> Fields:
    return Fields(data, "pod.yaml", path)


def pod_file(name: str, **assumptions: Any) -> Workload:
    """The only workload of a manifest in the directory ``pods``."""
    return only(load(PODS / name, assumptions=Assumptions(**assumptions)))


def only(workloads: list[Workload]) -> Workload:
    [workload] = workloads
    return workload


def container(workload: Workload, name: str = "") -> WorkloadContainer:
    """The container of that name, or the only container."""
    [found] = [item for item in workload.containers if name in ("", item.name)]
    return found


def spec_of(workload: Workload, name: str = "") -> dict[str, Any]:
    return dict(container(workload, name).spec)


def mounts(workload: Workload, name: str = "") -> dict[str, tuple[str, list[str]]]:
    """The source and options of each mount, by destination."""
    return {
        mount["destination"]: (mount["source"], mount["options"])
        for mount in spec_of(workload, name)["mounts"]
    }
