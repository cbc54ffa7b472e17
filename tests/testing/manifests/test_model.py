"""Errors and names of workloads."""

from __future__ import annotations

import pytest

from nri_sync.api import PodSandbox
from nri_sync.testing.manifests.model import ManifestError, Workload

__all__: list[str] = []


@pytest.mark.parametrize(
    ("source", "path", "text"),
    [
        ("pod.yaml", "spec.containers", "pod.yaml: spec.containers: is missing"),
        ("pod.yaml, document 2", "", "pod.yaml, document 2: is missing"),
    ],
)
def test_an_error_names_the_place(source: str, path: str, text: str) -> None:
    error = ManifestError(source, path, "is missing")
    assert str(error) == text
    assert (error.source, error.path, error.problem) == (source, path, "is missing")


def test_the_name_of_a_workload() -> None:
    pod = PodSandbox(name="web", namespace="shop")
    assert Workload("pod.yaml", pod, ()).name == "shop/web"
