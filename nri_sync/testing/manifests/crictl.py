"""The output of ``crictl inspectp`` and ``crictl inspect``: existing pods and containers of a node."""

from __future__ import annotations

from collections.abc import Iterable

from nri_sync.api.nri_pb2 import Image, PodSandbox, SecurityProfile
from nri_sync.testing.manifests.fields import Fields
from nri_sync.testing.manifests.messages import container_message, pod_message
from nri_sync.testing.manifests.model import Kind, Workload, WorkloadContainer
from nri_sync.testing.manifests.specs import (
    RUNTIME_HANDLER,
    cgroup_parent,
    crio_resources,
    is_crio,
    linux_resources,
    made_up_pod,
    naming,
)

__all__ = ["crictl_workloads", "is_crictl"]

_PROFILES = {
    "RuntimeDefault": SecurityProfile.RUNTIME_DEFAULT,
    "Unconfined": SecurityProfile.UNCONFINED,
    "Localhost": SecurityProfile.LOCALHOST,
}
_CRI = "io.kubernetes.cri"


def is_crictl(document: Fields) -> bool:
    """Whether a document is the output of one of the two commands, for one pod or container, or for several."""
    if "kind" in document or "apiVersion" in document:
        return False
    return "items" in document or {"status", "info"} <= document.data.keys()


def crictl_workloads(documents: Iterable[Fields]) -> list[Workload]:
    """The workloads of all pods and containers. Each container is assigned to its pod.

    A missing pod is derived from its containers. Raises ManifestError.
    """
    pods: dict[str, Fields] = {}
    containers: dict[str, list[Fields]] = {}
    for document in _flatten(documents):
        status = document.object("status")
        if "image" in status or "imageRef" in status:
            containers.setdefault(_pod_id(document), []).append(document)
        else:
            pods[status.required("id", "this is no output of crictl inspectp")] = document
    found = []
    for id in [*pods, *(id for id in containers if id not in pods)]:
        found.append(_workload(id, pods.get(id), containers.get(id, [])))
    return found


def _flatten(documents: Iterable[Fields]) -> Iterable[Fields]:
    for document in documents:
        if "items" in document:
            yield from document.objects("items")
        else:
            yield document


def _spec(document: Fields, command: str) -> Fields:
    spec = document.object("info", "runtimeSpec")
    if not spec:
        document.fail(
            f"is missing: containerd and CRI-O print it with `crictl {command} -o json`",
            "info.runtimeSpec",
        )
    return spec


def _pod_id(container: Fields) -> str:
    spec = _spec(container, "inspect")
    annotations = spec.strings("annotations")
    id = container.object("info").text("sandboxID") or annotations.get(f"{_CRI}.sandbox-id", "")
    return id or annotations.get("io.kubernetes.cri-o.SandboxID", "") or spec.source


def _workload(id: str, pod: Fields | None, containers: list[Fields]) -> Workload:
    containers = sorted(
        containers, key=lambda document: document.object("status").text("createdAt")
    )
    notes = []
    if pod is None:
        message = _pod_of(id, containers[0])
        notes.append("the pod is made up from its containers: add the output of crictl inspectp")
    else:
        message = _pod(id, pod)
    if not containers:
        notes.append("no containers: add the output of crictl inspect")
    notes += _notes(containers)
    source = (pod or containers[0]).source
    members = tuple(_container(id, document) for document in containers)
    return Workload(source=source, pod=message, containers=members, notes=tuple(notes))


def _notes(containers: list[Fields]) -> Iterable[str]:
    for document in containers:
        name = document.object("status", "metadata").text("name")
        if _kind(document) is Kind.INIT:
            yield f"container {name}: it has exited: assumed to be an init container"
        if not _image(document.object("status")).digest:
            yield f"container {name}: the digest of its image is unknown: it is in no registry"
    if containers:
        yield "the specifications contain the adjustments of the node's plugins, if it has any"


def _kind(container: Fields) -> Kind:
    exited = container.object("status").text("state") == "CONTAINER_EXITED"
    return Kind.INIT if exited else Kind.ORDINARY


def _pod(id: str, document: Fields) -> PodSandbox:
    status, info = document.object("status"), document.object("info")
    metadata, network = status.object("metadata"), status.object("network")
    config = info.object("config", "linux")
    ips = [network.text("ip"), *(item.text("ip") for item in network.objects("additionalIps"))]
    spec = info.object("runtimeSpec")
    labels = status.strings("labels")
    if _is_containerd(spec):
        labels["io.cri-containerd.kind"] = "sandbox"
        labels["oci_runtime_type"] = info.text("runtimeType") or "io.containerd.runc.v2"
    resources, overhead = (linux_resources(config.object(key)) for key in ("resources", "overhead"))
    handler = info.text("runtimeHandler") or status.text("runtimeHandler")
    if is_crio(spec):
        # crictl does not show the request.
        resources, overhead = crio_resources(spec)
        handler = handler or spec.strings("annotations").get(RUNTIME_HANDLER, "")
    with naming(spec):
        return pod_message(
            spec.data,
            id=id,
            name=metadata.required("name", "the output of crictl inspectp has it"),
            namespace=metadata.text("namespace"),
            uid=metadata.text("uid"),
            labels=labels,
            annotations=status.strings("annotations"),
            cgroup_parent=config.text("cgroup_parent") or cgroup_parent(spec),
            runtime_handler=handler,
            pid=info.integer("pid"),
            ips=[ip for ip in ips if ip],
            own_annotations=not is_crio(spec),
            pod_resources=resources,
            pod_overhead=overhead,
        )


def _pod_of(id: str, container: Fields) -> PodSandbox:
    spec = _spec(container, "inspect")
    return made_up_pod(spec, container.object("status").strings("labels"), id)


def _container(pod_id: str, document: Fields) -> WorkloadContainer:
    status, config = document.object("status"), document.object("info", "config")
    spec = _spec(document, "inspect")
    labels = status.strings("labels")
    if _is_containerd(spec):
        labels["io.cri-containerd.kind"] = "container"
    with naming(spec):
        message = container_message(
            spec.data,
            id=status.required("id", "the output of crictl inspect has it"),
            pod_id=pod_id,
            name=status.object("metadata").text("name"),
            labels=labels,
            annotations=status.strings("annotations"),
            image=_image(status),
            seccomp_profile=_seccomp(config.object("linux", "security_context")),
            cdi_devices=[device.text("name") for device in config.objects("CDI_devices")],
        )
    return WorkloadContainer(message, _kind(document), spec.data)


def _image(status: Fields) -> Image:
    reference = status.text("imageRef")
    _, at, digest = reference.rpartition("@")
    return Image(
        name=status.object("image").text("image"),
        digest=digest if at else "",
        config_digest=status.text("imageId") or ("" if at else reference),
    )


def _seccomp(security: Fields) -> SecurityProfile | None:
    if "seccomp" not in security:
        return None
    # RuntimeDefault is 0, which JSON leaves out.
    profile = security.object("seccomp")
    kind = profile.data.get("profile_type", SecurityProfile.RUNTIME_DEFAULT)
    return SecurityProfile(
        profile_type=_PROFILES.get(kind, kind), localhost_ref=profile.text("localhost_ref")
    )


def _is_containerd(spec: Fields) -> bool:
    return f"{_CRI}.container-type" in spec.object("annotations")
