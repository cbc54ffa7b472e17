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
# For each kind, the name of the pod of an object called "web", and labels of the pod.
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
        (document("Pod", None), "spec: is missing: it has the containers"),
        (document("Deployment", {}), "spec.template.spec: is missing"),
        (
            document("Deployment", {"template": {"spec": 3}}),
            "spec.template.spec: must be an object",
        ),
        ({"kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "?"}}, "data.k: is no base64"),
        ({"kind": "List", "items": [{"metadata": {}}, 3]}, "items[1]: must be an object"),
    ],
)
def test_an_invalid_template_is_refused(found: Any, text: str) -> None:
    with pytest.raises(ManifestError, match=re.escape(text)):
        workloads(json.loads(json.dumps(found)))


LONG = "a-deployment-with-a-name-of-fifty-three-characters-x1"


@pytest.mark.parametrize("kind", ["DaemonSet", "Deployment", "Job", "ReplicaSet"])
def test_long_names_are_cut_before_the_random_end(kind: str) -> None:
    """``GenerateName`` in k8s.io/apiserver: 58 characters, and 5 random ones."""
    name = f"{LONG}-and-th"
    data = {"kind": kind, "metadata": {"name": name}, "spec": {"template": TEMPLATE}}
    [workload] = workloads(data)
    assert len(workload.pod.name) == 63
    assert workload.pod.name[:58] == f"{name}-"[:58]
    env = workload.containers[0].container.env
    assert f"HOSTNAME={workload.pod.name}" in env


def test_a_generated_name_is_cut() -> None:
    [workload] = workloads({"kind": "Pod", "metadata": {"generateName": "x" * 100}, "spec": SPEC})
    assert re.fullmatch("x{58}[a-z0-9]{5}", workload.pod.name)


def test_the_hostname_of_a_pod_with_a_long_name_is_cut() -> None:
    [workload] = workloads({"kind": "Pod", "metadata": {"name": "y" * 62 + "-z"}, "spec": SPEC})
    assert len(workload.pod.name) == 64
    assert f"HOSTNAME={'y' * 62}" in workload.containers[0].container.env


INDEXED = {
    "completions": 4,
    "completionMode": "Indexed",
    "template": {
        "spec": {
            "initContainers": [{"name": "init", "image": "busybox"}],
            "containers": [
                {"name": "app", "image": "busybox", "command": ["sh", "-c", "$(JOB_COMPLETION_INDEX)"]},
                {"name": "own", "image": "x", "env": [{"name": "JOB_COMPLETION_INDEX", "value": "7"}]},
            ],
        }
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("data", "job"),
    [
        ({"kind": "Job", "metadata": {"name": "train"}, "spec": INDEXED}, "train"),
        (
            {"kind": "CronJob", "metadata": {"name": "train"}, "spec": {"jobTemplate": {"spec": INDEXED}}},
            "train-28928160",
        ),
    ],
)  # fmt: skip
def test_indexed_jobs(data: Any, job: str) -> None:
    """``pkg/controller/job``: the pod of index 0 stands for all pods."""
    [workload] = workloads(data)
    key = "batch.kubernetes.io/job-completion-index"
    assert re.fullmatch(f"{job}-0-[a-z0-9]{{5}}", workload.pod.name)
    assert workload.pod.labels[key] == workload.pod.annotations[key] == "0"
    envs = {item.name: list(item.container.env) for item in workload.containers}
    assert all(f"HOSTNAME={job}-0" in env for env in envs.values())
    assert "JOB_COMPLETION_INDEX=0" in envs["init"]
    assert "JOB_COMPLETION_INDEX=0" in envs["app"]
    assert "JOB_COMPLETION_INDEX=7" in envs["own"]
    assert list(workload.containers[1].container.args) == ["sh", "-c", "0"]
    assert "hostname" not in INDEXED["template"]["spec"]  # type: ignore[index]


def test_the_index_is_not_cut_from_a_long_name() -> None:
    name = "x" * 60
    [workload] = workloads({"kind": "Job", "metadata": {"name": name}, "spec": INDEXED})
    assert re.fullmatch("x{55}-0-[a-z0-9]{5}", workload.pod.name)


def test_a_job_that_is_not_indexed() -> None:
    spec = {**INDEXED, "completionMode": "NonIndexed"}
    [workload] = workloads({"kind": "Job", "metadata": {"name": "train"}, "spec": spec})
    assert re.fullmatch("train-[a-z0-9]{5}", workload.pod.name)
    assert list(workload.containers[1].container.args) == ["sh", "-c", "$(JOB_COMPLETION_INDEX)"]


@pytest.mark.parametrize(
    ("account", "pod", "mounted"),
    [
        (False, None, False), (True, None, True), (None, None, True),
        (False, True, True), (True, False, False), (False, False, False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["serviceAccountName", "serviceAccount", ""])
def test_tokens_of_service_accounts(
    key: str, account: bool | None, pod: bool | None, mounted: bool
) -> None:
    """``shouldAutomount`` in ``plugin/pkg/admission/serviceaccount``."""
    name = "quiet" if key else "default"
    spec = {**SPEC, "automountServiceAccountToken": pod, **({key: name} if key else {})}
    [workload] = workloads(
        {"kind": "Pod", "metadata": {"name": "p"}, "spec": spec},
        {"kind": "ServiceAccount", "metadata": {"name": name}, "automountServiceAccountToken": account},
        {"kind": "ServiceAccount", "metadata": {"name": name, "namespace": "other"},
         "automountServiceAccountToken": not account},
    )  # fmt: skip
    destinations = [mount.destination for mount in workload.containers[0].container.mounts]
    assert ("/var/run/secrets/kubernetes.io/serviceaccount" in destinations) is mounted


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("dmFs\ndWU=\n", "value"),
        ("dmFs\r\ndWU=", "value"),
        ("dmFsdWU=", "value"),
        ("", ""),
        (None, ""),
    ],
)
def test_secrets_may_be_wrapped(data: str | None, value: str) -> None:
    env = [{"name": "N", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
    spec = {"containers": [{"name": "app", "image": "busybox", "env": env}]}
    [workload] = workloads(
        {"kind": "Secret", "metadata": {"name": "s"}, "data": {"k": data}},
        {"kind": "Pod", "metadata": {"name": "p"}, "spec": spec},
    )
    assert f"N={value}" in workload.containers[0].container.env


@pytest.mark.parametrize("data", ["dm Fs", "dmFs\tdWU=", "dmFsdWU", "d", "\u00e9"])
def test_secrets_that_are_no_base64(data: str) -> None:
    with pytest.raises(ManifestError, match=r"data\.k: is no base64"):
        workloads({"kind": "Secret", "metadata": {"name": "s"}, "data": {"k": data}})


def test_the_name_of_a_cron_job_that_is_too_long() -> None:
    spec = {"jobTemplate": {"spec": {"template": TEMPLATE}}}
    assert workloads({"kind": "CronJob", "metadata": {"name": "x" * 52}, "spec": spec})
    with pytest.raises(ManifestError, match=r"metadata\.name: must have at most 52 characters"):
        workloads({"kind": "CronJob", "metadata": {"name": "x" * 53}, "spec": spec})
