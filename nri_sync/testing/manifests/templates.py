"""Documents of a cluster: the pods that they create, with their names.

Controllers and admission give pods their names and some labels. Here one pod stands for all replicas of a
template. After Kubernetes v1.36, ``pkg/controller``.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from typing import Any

from nri_sync.testing.manifests import ids
from nri_sync.testing.manifests.environment import Objects
from nri_sync.testing.manifests.fields import Fields
from nri_sync.testing.manifests.kubernetes import PodMetadata, pod_workload
from nri_sync.testing.manifests.model import Assumptions, Workload

__all__ = ["is_kubernetes", "kubernetes_workloads"]

# Kinds with a pod template in ``spec.template``.
_TEMPLATES = (
    "DaemonSet", "Deployment", "Job", "PodTemplate", "ReplicaSet", "ReplicationController",
    "StatefulSet",
)  # fmt: skip
# The time at which a CronJob is assumed to run, in minutes since 1970.
_MINUTE = 28928160
# The maximum length of a generated name without its random end (``MaxGeneratedNameLength``).
_LONGEST_PREFIX = 58
# The names of a CronJob's Jobs are longer by the minute.
_LONGEST_CRON_JOB = 52
# For an indexed Job: the suffix in the name of its first pod, and the pod's label and annotation.
_FIRST = "-0-"
_INDEX = "batch.kubernetes.io/job-completion-index"


def is_kubernetes(document: Fields) -> bool:
    """Whether a document is a Kubernetes object, of any kind."""
    return "kind" in document or "apiVersion" in document


def kubernetes_workloads(documents: Iterable[Fields], assumptions: Assumptions) -> list[Workload]:
    """The workloads of all pods and pod templates among the documents. Other kinds are skipped.

    Raises ManifestError.
    """
    flat = list(_flatten(documents))
    objects = Objects()
    for document in flat:
        _remember(document, objects)
    return [
        workload for document in flat for workload in _workloads(document, objects, assumptions)
    ]


def _flatten(documents: Iterable[Fields]) -> Iterator[Fields]:
    """The documents, with lists replaced by their items."""
    for document in documents:
        kind = document.required("kind", "say what it is, such as Pod")
        if kind.endswith("List") and "items" in document:
            for item in document.objects("items"):
                # The server omits the kind of a list's items.
                yield Fields({"kind": kind[: -len("List")], **item.data}, item.source, item.path)
        else:
            yield document


def _remember(document: Fields, objects: Objects) -> None:
    kind = document.text("kind")
    metadata = document.object("metadata")
    key = (metadata.text("namespace") or "default", metadata.text("name"))
    if kind == "ConfigMap":
        objects.config_maps[key] = document.strings("data")
    elif kind == "Secret":
        objects.secrets[key] = _secret(document)
    elif kind == "ServiceAccount":
        objects.service_accounts[key] = document
    elif kind == "PersistentVolumeClaim":
        objects.claims[key] = document
    elif kind == "PersistentVolume":
        objects.volumes[metadata.text("name")] = document
    elif kind == "LimitRange":
        objects.limit_ranges.setdefault(key[0], []).append(document)
    elif kind == "Service":
        objects.services[key] = document
    elif kind == "RuntimeClass":
        objects.runtime_classes[metadata.text("name")] = document


def _secret(document: Fields) -> dict[str, str]:
    data = {}
    for name, value in document.strings("data").items():
        try:
            # Go's decoder skips line ends, and no other character.
            text = value.replace("\n", "").replace("\r", "")
            data[name] = base64.b64decode(text, validate=True).decode(errors="replace")
        except ValueError:
            document.fail("is no base64; put plain text into stringData", f"data.{name}")
    return {**data, **document.strings("stringData")}


def _workloads(document: Fields, objects: Objects, assumptions: Assumptions) -> Iterator[Workload]:
    kind = document.text("kind")
    if kind == "Pod":
        template, status = document, document.object("status")
    elif kind == "CronJob":
        template, status = (
            document.object("spec", "jobTemplate", "spec", "template"),
            Fields({}, document.source),
        )
    elif kind == "PodTemplate":
        template, status = document.object("template"), Fields({}, document.source)
    elif kind in _TEMPLATES:
        template, status = document.object("spec", "template"), Fields({}, document.source)
    else:
        return
    if "spec" not in template:
        template.fail("is missing: it has the containers of the pod", "spec")
    metadata, spec = _metadata(document, template, assumptions), template.object("spec")
    if _is_indexed(document):
        spec = _of_first_index(metadata, spec)
    if kind == "StatefulSet":
        names = {
            "hostname": metadata.name, "subdomain": document.object("spec").text("serviceName"),
        }  # fmt: skip
        spec = Fields({**spec.data, **names}, spec.source, spec.path)
    yield pod_workload(
        metadata,
        spec,
        status=status,
        objects=objects,
        assumptions=assumptions,
    )


def _metadata(document: Fields, template: Fields, assumptions: Assumptions) -> PodMetadata:
    kind, own = document.text("kind"), document.object("metadata")
    namespace = own.text("namespace") or template.object("metadata").text("namespace") or "default"
    name = own.text("name")
    if not name and own.text("generateName"):
        prefix = own.text("generateName")
        name = _generated(prefix, ids.short_name(5, namespace, prefix))
    if not name:
        own.fail("is missing: name it", "name")
    pod_name, labels = _named_by(kind, name, namespace, document, assumptions)
    metadata = template.object("metadata")
    uid = own.text("uid") if kind == "Pod" else ""
    if not uid:
        uid = ids.uid("pod", namespace, pod_name)
        # The uids of static pods are hashes.
        uid = uid.replace("-", "") if assumptions.static_pods else uid
    return PodMetadata(
        name=pod_name,
        namespace=namespace,
        uid=uid,
        labels={**metadata.strings("labels"), **labels},
        annotations=metadata.strings("annotations"),
        claims=_claims(document) if kind == "StatefulSet" else (),
    )


def _named_by(
    kind: str, name: str, namespace: str, document: Fields, assumptions: Assumptions
) -> tuple[str, dict[str, str]]:
    """The name of the pod, and the labels from its controller."""
    if kind == "Pod":
        if assumptions.static_pods:
            return f"{name}-{assumptions.node_name.lower()}", {}
        return name, {}
    tail = ids.short_name(5, "pod", namespace, name)
    revision = ids.short_name(10, "revision", namespace, name)
    if kind == "Deployment":
        return _generated(f"{name}-{revision}-", tail), {"pod-template-hash": revision}
    if kind == "DaemonSet":
        labels = {"controller-revision-hash": revision, "pod-template-generation": "1"}
        return _generated(f"{name}-", tail), labels
    if kind == "StatefulSet":
        pod = f"{name}-{document.object('spec', 'ordinals').integer('start')}"
        return pod, {
            "apps.kubernetes.io/pod-index": pod.rpartition("-")[2],
            "controller-revision-hash": f"{name}-{revision}",
            "statefulset.kubernetes.io/pod-name": pod,
        }
    if kind == "CronJob" and len(name) > _LONGEST_CRON_JOB:
        document.fail(f"must have at most {_LONGEST_CRON_JOB} characters", "metadata.name")
    if kind in ("Job", "CronJob"):
        job = f"{name}-{_MINUTE}" if kind == "CronJob" else name
        uid = ids.uid("job", namespace, job)
        labels = {}
        for prefix in ("batch.kubernetes.io/", ""):
            labels[f"{prefix}controller-uid"] = uid
            labels[f"{prefix}job-name"] = job
        if not _is_indexed(document):
            return _generated(f"{job}-", tail), labels
        # ``podGenerateNameWithIndex``: the index is never shortened.
        return _generated(f"{job[: _LONGEST_PREFIX - len(_FIRST)]}{_FIRST}", tail), labels
    return _generated(f"{name}-", tail), {}


def _generated(prefix: str, tail: str) -> str:
    """``GenerateName`` in k8s.io/apiserver, ``pkg/storage/names``."""
    return prefix[:_LONGEST_PREFIX] + tail


def _job(document: Fields) -> Fields:
    """``spec`` of a Job; empty for other kinds."""
    keys = {"Job": ("spec",), "CronJob": ("spec", "jobTemplate", "spec")}
    return document.object(*keys.get(document.text("kind"), ("no",)))


def _is_indexed(document: Fields) -> bool:
    return _job(document).text("completionMode") == "Indexed"


def _of_first_index(metadata: PodMetadata, spec: Fields) -> Fields:
    """The specification of the first pod of an indexed Job (``pkg/controller/job``)."""
    metadata.labels[_INDEX] = metadata.annotations[_INDEX] = "0"
    variable = {
        "name": "JOB_COMPLETION_INDEX",
        "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{_INDEX}']"}},
    }
    data = {**spec.data, "hostname": f"{metadata.labels['job-name']}-0"}
    for key in ("initContainers", "containers"):
        data[key] = [_with_variable(item.data, variable) for item in spec.objects(key)]
    return Fields(data, spec.source, spec.path)


def _with_variable(container: dict[str, Any], variable: dict[str, Any]) -> dict[str, Any]:
    env = container.get("env") or []
    if not isinstance(env, list):
        return container
    names = [item.get("name") for item in env if isinstance(item, dict)]
    return container if variable["name"] in names else {**container, "env": [*env, variable]}


def _claims(document: Fields) -> list[str]:
    templates = document.object("spec").objects("volumeClaimTemplates")
    return [
        template.object("metadata").required("name", "name the claim") for template in templates
    ]
