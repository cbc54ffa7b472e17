"""Kinds of documents."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from nri_sync.testing.manifests.model import Assumptions, ManifestError, Workload
from nri_sync.testing.manifests.templates import is_kubernetes, kubernetes_workloads
from tests.testing.manifests import fields

__all__: list[str] = []

SPEC = {"containers": [{"name": "app", "image": "busybox"}]}
TEMPLATE = {"metadata": {"labels": {"app": "web"}, "annotations": {"a": "1"}}, "spec": SPEC}
# By kind, the name of the pod of one that is called "web", and labels that it has.
KINDS = {
    "DaemonSet": ("web-[a-z0-9]{5}", "controller-revision-hash"),
    "Deployment": ("web-[a-z0-9]{10}-[a-z0-9]{5}", "pod-template-hash"),
    "Job": ("web-[a-z0-9]{5}", "batch.kubernetes.io/job-name"),
    "ReplicaSet": ("web-[a-z0-9]{5}", "app"),
    "ReplicationController": ("web-[a-z0-9]{5}", "app"),
    "StatefulSet": ("web-0", "apps.kubernetes.io/pod-index"),
}


def workloads(*documents: Any) -> list[Workload]:
    return kubernetes_workloads(map(fields, documents), Assumptions())


def document(kind: str, spec: Any, **metadata: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "metadata": {"name": "web", "namespace": "shop", **metadata},
        "spec": spec,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_templates(kind: str) -> None:
    [workload] = workloads(document(kind, {"template": TEMPLATE}, labels={"not": "the pod's"}))
    name, label = KINDS[kind]
    assert re.fullmatch(name, workload.pod.name)
    assert workload.pod.namespace == "shop"
    assert workload.pod.labels["app"] == "web"
    assert workload.pod.labels[label]
    assert workload.pod.annotations["a"] == "1"
    assert "not" not in workload.pod.labels


def test_a_pod_template() -> None:
    [workload] = workloads(
        {"kind": "PodTemplate", "metadata": {"name": "web"}, "template": TEMPLATE}
    )
    assert re.fullmatch("web-[a-z0-9]{5}", workload.pod.name)


def test_a_cron_job() -> None:
    spec = {"jobTemplate": {"spec": {"template": TEMPLATE}}}
    [workload] = workloads(document("CronJob", spec))
    assert re.fullmatch("web-[0-9]+-[a-z0-9]{5}", workload.pod.name)
    assert workload.pod.name.startswith(f"{workload.pod.labels['job-name']}-")


def test_a_stateful_set_that_begins_elsewhere() -> None:
    [workload] = workloads(
        document("StatefulSet", {"ordinals": {"start": 5}, "template": TEMPLATE})
    )
    assert workload.pod.name == "web-5"


def test_generated_names() -> None:
    [workload] = workloads({"kind": "Pod", "metadata": {"generateName": "web-"}, "spec": SPEC})
    assert re.fullmatch("web-[a-z0-9]{5}", workload.pod.name)


@pytest.mark.parametrize("kind", ["List", "PodList"])
def test_lists(kind: str) -> None:
    items = [{"kind": "Pod", "metadata": {"name": name}, "spec": SPEC} for name in ("a", "b")]
    if kind == "PodList":
        for item in items:
            del item["kind"]
    found = workloads({"kind": kind, "items": items})
    assert [workload.pod.name for workload in found] == ["a", "b"]


def test_other_kinds_are_passed_over() -> None:
    assert workloads(document("Service", {}), document("Deployment", {"template": TEMPLATE}))
    assert not workloads(document("Service", {}))


def test_objects_may_come_after_and_elsewhere() -> None:
    reference = {"configMapKeyRef": {"name": "settings", "key": "color"}}
    container = {**SPEC["containers"][0], "env": [{"name": "C", "valueFrom": reference}]}
    pod = document("Pod", {"containers": [container]})

    def color(namespace: str) -> list[str]:
        settings = {
            "kind": "ConfigMap",
            "metadata": {"name": "settings", "namespace": namespace},
            "data": {"color": "red"},
        }
        [workload] = workloads(pod, settings)
        return [entry for entry in workload.containers[0].container.env if entry.startswith("C=")]

    assert color("shop") == ["C=red"]
    assert color("other") == ["C=<color of ConfigMap settings>"]


def test_which_documents_are_of_kubernetes() -> None:
    assert is_kubernetes(fields({"kind": "Pod"}))
    assert is_kubernetes(fields({"apiVersion": "v1"}))
    assert not is_kubernetes(fields({"ociVersion": "1.2.0"}))


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({"apiVersion": "v1"}, "kind: is missing: say what it is, such as Pod"),
        ({"kind": "Pod", "spec": SPEC}, "metadata.name: is missing: name it"),
        (document("Pod", None), "spec: is missing: this is where the containers"),
        (document("Deployment", {}), "spec.template.spec: is missing"),
        (
            document("Deployment", {"template": {"spec": 3}}),
            "spec.template.spec: must be an object",
        ),
        ({"kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "?"}}, "data.k: is no base64"),
        ({"kind": "List", "items": [{"metadata": {}}, 3]}, "items[1]: must be an object"),
    ],
)
def test_what_is_wrong(found: Any, text: str) -> None:
    with pytest.raises(ManifestError, match=re.escape(text)):
        workloads(json.loads(json.dumps(found)))
