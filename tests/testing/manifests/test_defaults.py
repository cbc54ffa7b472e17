"""Defaults of Kubernetes and of LimitRanges."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nri_sync import kit
from nri_sync.testing.manifests import Assumptions, ManifestError, load
from nri_sync.testing.manifests.defaults import RANGED, defaulted, limit_range_defaults
from tests.testing.manifests import container, fields, only

__all__: list[str] = []

CONTAINER = {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}


def of(**spec: Any) -> dict[str, Any]:
    return defaulted(fields(spec))[0].data


def only_container(**data: Any) -> dict[str, Any]:
    [found] = of(containers=[data])["containers"]
    return {key: value for key, value in found.items() if key not in CONTAINER}


def test_of_a_pod() -> None:
    assert of() == {"terminationGracePeriodSeconds": 30, "enableServiceLinks": True}
    assert of(terminationGracePeriodSeconds=None)["terminationGracePeriodSeconds"] == 30
    own = {"terminationGracePeriodSeconds": 0, "enableServiceLinks": False}
    assert of(**own) == own


@pytest.mark.parametrize("key", ["containers", "initContainers", "ephemeralContainers"])
@pytest.mark.parametrize("empty", [{}, dict.fromkeys(CONTAINER), dict.fromkeys(CONTAINER, "")])
def test_of_a_container(key: str, empty: Any) -> None:
    assert of(**{key: [empty]})[key] == [CONTAINER]


@pytest.mark.parametrize(
    ("given", "filled"),
    [
        ({"limits": {"cpu": 1}}, {"limits": {"cpu": 1}, "requests": {"cpu": 1}}),
        ({"limits": {"cpu": 1}, "requests": None}, {"limits": {"cpu": 1}, "requests": {"cpu": 1}}),
        ({"limits": {"cpu": 1, "x.com/y": 2}, "requests": {"cpu": "0"}},
         {"limits": {"cpu": 1, "x.com/y": 2}, "requests": {"cpu": "0", "x.com/y": 2}}),
        ({"requests": {"cpu": 1}}, {"requests": {"cpu": 1}}),
    ],
)  # fmt: skip
def test_of_resources(given: Any, filled: Any) -> None:
    assert only_container(resources=given) == {"resources": filled}


def test_of_ports() -> None:
    ports = [{"containerPort": 80}, {"containerPort": 81, "protocol": "", "hostPort": 9}]
    assert only_container(ports=ports)["ports"] == [
        {"containerPort": 80, "protocol": "TCP"},
        {"containerPort": 81, "protocol": "TCP", "hostPort": 9},
    ]
    [found] = of(hostNetwork=True, containers=[{"ports": ports}])["containers"]
    assert [port["hostPort"] for port in found["ports"]] == [80, 9]


def test_of_handlers() -> None:
    lifecycle = {"preStop": {"httpGet": {"port": 80, "path": ""}}, "postStart": {"exec": {}}}
    assert only_container(lifecycle=lifecycle)["lifecycle"] == {
        "preStop": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}},
        "postStart": {"exec": {}},
    }


@pytest.mark.parametrize("source", [{}, {"emptyDir": None}, {"csi": None, "nfs": None}])
def test_of_volumes(source: Any) -> None:
    [volume] = of(volumes=[{"name": "v", **source}])["volumes"]
    assert volume["emptyDir"] == {}


@pytest.mark.parametrize(
    "spec",
    [
        {"containers": 3, "volumes": "x", "initContainers": [3, None, "x"]},
        {"containers": [{"resources": 3, "ports": {}, "lifecycle": []}]},
        {"containers": [{"resources": {"limits": 3}, "ports": [3], "lifecycle": {"preStop": 3}}]},
        {"containers": [{"lifecycle": {"preStop": {"httpGet": 3}}, "resources": {"limits": {}, "requests": 3}}]},
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_left_to_its_reader(spec: Any) -> None:
    found = of(**spec)
    for key, value in spec.items():
        if not isinstance(value, list):
            assert found[key] == value


def test_the_given_object_is_not_changed() -> None:
    spec = {"containers": [{"ports": [{"containerPort": 1}], "resources": {"limits": {"cpu": 1}}}]}
    before = json.dumps(spec)
    of(**spec)
    assert json.dumps(spec) == before


def limit_range(**item: Any) -> Any:
    return fields({"kind": "LimitRange", "spec": {"limits": [{"type": "Container", **item}]}})


@pytest.mark.parametrize(
    ("item", "limits", "requests"),
    [
        ({"default": {"cpu": "1"}}, {"cpu": "1"}, {"cpu": "1"}),
        (
            {"default": {"cpu": "1"}, "defaultRequest": {"cpu": "100m"}},
            {"cpu": "1"},
            {"cpu": "100m"},
        ),
        ({"max": {"cpu": "2"}}, {"cpu": "2"}, {"cpu": "2"}),
        ({"min": {"memory": "1Mi"}}, {}, {"memory": "1Mi"}),
        ({"defaultRequest": {"cpu": "100m"}}, {}, {"cpu": "100m"}),
        ({"type": "Pod", "max": {"cpu": "2"}}, {}, {}),
    ],
)
def test_limit_ranges(item: Any, limits: Any, requests: Any) -> None:
    assert limit_range_defaults([limit_range(**item)]) == (limits, requests)


DOCUMENTS = [
    {
        "kind": "LimitRange", "metadata": {"name": "l"},
        "spec": {"limits": [{"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}}]},
    },
    {
        "kind": "Pod", "metadata": {"name": "p"},
        "spec": {
            "initContainers": [{"name": "init", "image": "x"}],
            "containers": [{"name": "app", "image": "x", "resources": {"limits": {"memory": "2Gi"}}}],
        },
    },
]  # fmt: skip


def test_a_limit_range_among_the_documents() -> None:
    workload = only(load(json.dumps(DOCUMENTS)))
    assert kit.pod_qos(workload.pod) is kit.QoS.GUARANTEED
    resources = container(workload, "app").container.linux.resources
    assert (resources.cpu.quota.value, resources.memory.limit.value) == (100_000, 2 << 30)
    assert workload.pod.annotations[RANGED] == (
        "LimitRanger plugin set: cpu request for container app; cpu limit for container app; "
        "cpu, memory request for init container init; cpu, memory limit for init container init"
    )
    static = only(load(json.dumps(DOCUMENTS), assumptions=Assumptions(static_pods=True)))
    assert RANGED not in static.pod.annotations


def test_a_limit_range_that_is_wrong() -> None:
    with pytest.raises(ManifestError, match="a lot"):
        limit_range_defaults([limit_range(default={"cpu": "a lot"})])
