"""Recognizing the format of an input."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nri_sync.testing.manifests import ManifestError, load
from nri_sync.testing.manifests.documents import read
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
def test_a_text_without_a_pod_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ManifestError) as raised:
        load(text)
    assert str(raised.value) == problem


def test_nothing() -> None:
    with pytest.raises(ManifestError, match="no pod and no template of one; there is: nothing"):
        load()


# Values that replace each value of a document.
OTHERS: list[Any] = [
    None, True, 3, -1, 2.5, 1 << 70, "", "x", "/", "1Gi", "\0", [], [None], [3], ["a"], [{}], {}, {"a": 1},
    {"name": "x"}, [{"name": "x"}], False, 1e300, "\ud800", "\u00e9" * 70, {"a": None}, [[]], -(1 << 70),
    "9" * 500, "1e999", "$(A)", "../..", "::", "@",
]  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each object or list in a document, with each of its keys or indices."""
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


@pytest.mark.parametrize(
    "path", sorted([*PODS.iterdir(), *CRICTL.iterdir()]), ids=lambda path: path.name
)
def test_every_error_is_one_line(path: Path) -> None:
    originals = [document.data for document in read(path)]
    chance = random.Random(path.name)
    refused = []
    for _ in range(150):
        documents = copy.deepcopy(originals)
        holder, key = chance.choice(list(places(documents))[1:])
        holder[key] = chance.choice(OTHERS)
        try:
            load("\n".join(map(json.dumps, documents)) + "\n")
        except ManifestError as error:
            refused.append(str(error))
    assert refused
    assert not [text for text in refused if "\n" in text or len(text) > 1000]


def test_a_pod_that_occurs_twice_is_refused() -> None:
    pod = '{"kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "x"}]}}'
    with pytest.raises(ManifestError, match="pod default/a is in <text>, document 1, too"):
        load(f"[{pod}, {pod}]")


@pytest.mark.parametrize(
    ("name", "image"), [("{{ .Release.Name }}-web", "x"), ("web", "{{ .Values.image }}:1")]
)
def test_templates_that_are_documents(name: str, image: str) -> None:
    pod = {
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": image}]},
    }
    with pytest.raises(ManifestError, match="this is a template: render it first"):
        load(json.dumps(pod))
