"""Recognizing what people have at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from nri_sync.testing.manifests import ManifestError, load
from tests.testing.manifests import PODS

__all__: list[str] = []

CRICTL = Path(__file__).parent / "crictl"
SPEC = '{"ociVersion": "1.2.1", "process": {"args": ["sh"]}}'


def test_all_kinds_of_input_at_once() -> None:
    found = load(CRICTL / "inspectp.json", SPEC, PODS / "best-effort.yaml", CRICTL / "inspect.json")
    assert [workload.name for workload in found] == ["default/nginx", "default/pod", "shop/web"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "a: 1\nb: 2\n",
            (
                "<text>: is neither a Kubernetes object (apiVersion, kind), nor the output of crictl inspectp or "
                "inspect (status, info), nor an OCI config.json (ociVersion); it has: a, b"
            ),
        ),
        (
            "kind: Service\n---\nkind: ConfigMap\n",
            "<text>, document 1: no pod and no template of one; there is: ConfigMap, Service",
        ),
    ],
)
def test_what_is_none(text: str, problem: str) -> None:
    with pytest.raises(ManifestError) as raised:
        load(text)
    assert str(raised.value) == problem


def test_nothing() -> None:
    with pytest.raises(ManifestError, match="no pod and no template of one; there is: nothing"):
        load()
