"""Manifests that the API server rejects."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nri_sync.testing.manifests import ManifestError, load

__all__: list[str] = []

APP = {"name": "app", "image": "busybox"}
METADATA = {"name": "web"}


def pod(metadata: Any = None, container: Any = None, **spec: Any) -> str:
    data = {
        "kind": "Pod",
        "metadata": {**METADATA, **(metadata or {})},
        "spec": {"containers": [{**APP, **(container or {})}], **spec},
    }
    return json.dumps(data)


@pytest.mark.parametrize(
    "text",
    [
        pod({"name": "a.b-c.0"}),
        pod({"name": "x" * 253}),
        pod({"labels": {"a": "", "example.com/b_c.d": "X" * 63, "A": "1"}}),
        pod({"annotations": {"any.example.com/Key": "any\ntext"}}),
        pod({"annotations": {"a": "x" * (255 << 10)}}),
        pod(
            container={
                "name": "x" * 63,
                "env": [{"name": "a.b-c d"}],
                "ports": [{"containerPort": 65535}],
            }
        ),
        pod(hostname="h" * 63),
    ],
)
def test_a_valid_pod_is_accepted(text: str) -> None:
    assert load(text)


MOUNTS = [{"name": "v", "mountPath": "/a"}]
VOLUME = {"name": "v"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (pod({"name": "Web"}), 'metadata.name: "Web" must be at most 253 small letters'),
        (pod({"name": "a_b"}), 'metadata.name: "a_b" must be'),
        (pod({"name": "-a"}), 'metadata.name: "-a" must be'),
        (pod({"name": "x" * 254}), 'metadata.name: "xxx'),
        (pod({"namespace": "a.b"}), 'metadata.namespace: "a.b" must be at most 63'),
        (pod({"uid": "../x"}), 'metadata.uid: "../x" must be'),
        (pod({"labels": {"a": "x y"}}), 'metadata.labels.a: "x y" must be at most 63'),
        (pod({"labels": {"a": "x" * 64}}), "metadata.labels.a: "),
        (pod({"labels": {"a b": "x"}}), 'metadata.labels: "a b" must be a key such as'),
        (pod({"labels": {"/a": "x"}}), 'metadata.labels: "/a" must be'),
        (pod({"annotations": {"x" * 64: "x"}}), "metadata.annotations: "),
        (pod({"annotations": {"a": "x" * (256 << 10)}}), "metadata.annotations: have 262,"),
        (pod(container={"name": "App"}), 'spec.containers[0].name: "App" must be'),
        (pod(container={"name": "x" * 64}), "spec.containers[0].name: "),
        (pod(initContainers=[{**APP, "name": "a.b"}]), 'spec.initContainers[0].name: "a.b" must be'),
        (pod(container={"env": [{"name": "A=B"}]}), "spec.containers[0].env[0].name: must not have an equals"),
        (pod(container={"ports": [{"containerPort": 0}]}), "ports[0].containerPort: must be from 1"),
        (pod(container={"ports": [{"containerPort": 1, "hostPort": 65536}]}), "ports[0].hostPort: must be"),
        (pod(container={"volumeMounts": [*MOUNTS, *MOUNTS]}, volumes=[VOLUME]), 'mountPath: "/a" occurs twice'),
        (pod(container={"volumeMounts": [{"name": "v", "mountPath": "/a:b"}]}, volumes=[VOLUME]), "a colon"),
        (pod(volumes=[VOLUME, VOLUME]), 'spec.volumes[1].name: "v" occurs twice'),
        (pod(volumes=[{"name": "a/b"}]), 'spec.volumes[0].name: "a/b" must be'),
        (pod(hostname="A"), 'spec.hostname: "A" must be'),
        (pod(securityContext={"fsGroup": -1}), "spec.securityContext: -1 is no id of a group"),
    ],
)  # fmt: skip
def test_an_invalid_pod_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ManifestError) as raised:
        load(text)
    assert problem in str(raised.value)
    assert len(str(raised.value)) < 700
