"""OCI runtime specifications: a ``config.json`` as a workload, and the pod that it implies."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from nri_sync.api.nri_pb2 import Container, Image, LinuxResources, PodSandbox
from nri_sync.kit.config.foreign import ANNOTATION, parse_json
from nri_sync.kit.fields.images import ImageReference
from nri_sync.testing.manifests import ids
from nri_sync.testing.manifests.cri import Resources
from nri_sync.testing.manifests.fields import Fields
from nri_sync.testing.manifests.messages import container_message, pod_message
from nri_sync.testing.manifests.model import Kind, ManifestError, Workload, WorkloadContainer

__all__ = [
    "RUNTIME_HANDLER",
    "cgroup_parent",
    "crio_resources",
    "is_crio",
    "is_sandbox",
    "is_spec",
    "linux_resources",
    "made_up_pod",
    "naming",
    "spec_workloads",
]

_OF_POD = "io.kubernetes.pod"
_CRIO = "io.kubernetes.cri-o"
#: The annotation of CRI-O for the handler of a RuntimeClass.
RUNTIME_HANDLER = f"{_CRIO}.RuntimeHandler"
# Annotations with the value "sandbox" or "container".
_TYPES = ("io.kubernetes.cri.container-type", f"{_CRIO}.ContainerType")
# The annotations of containerd and CRI-O with: the id of the sandbox; name, namespace and uid of the pod; the name
# of the container. The labels of the kubelet are preferred.
_ANNOTATIONS = (
    (
        "io.kubernetes.cri.sandbox-id", "io.kubernetes.cri.sandbox-name",
        "io.kubernetes.cri.sandbox-namespace", "io.kubernetes.cri.sandbox-uid",
        "io.kubernetes.cri.container-name",
    ),
    (
        f"{_CRIO}.SandboxID", f"{_OF_POD}.name", f"{_OF_POD}.namespace", f"{_OF_POD}.uid",
        "io.kubernetes.container.name",
    ),
)  # fmt: skip


def is_spec(document: Fields) -> bool:
    return "ociVersion" in document


@contextmanager
def naming(spec: Fields) -> Iterator[None]:
    """Raise errors of a specification as ManifestError."""
    try:
        yield
    except ManifestError:
        raise
    except (AttributeError, TypeError, ValueError) as error:
        raise ManifestError(spec.source, spec.path, f"is no OCI specification: {error}") from None


def _identity(spec: Fields) -> list[str]:
    """Sandbox id; name, namespace and uid of the pod; name of the container; "" for each that is missing."""
    annotations = spec.strings("annotations")
    found = [[annotations.get(key, "") for key in keys] for keys in _ANNOTATIONS]
    return [next(filter(None, values), "") for values in zip(*found)]


def cgroup_parent(spec: Fields) -> str:
    """The cgroup parent of the pod, from the path of a container in it."""
    path = spec.object("linux").text("cgroupsPath")
    return path.split(":")[0] if path.count(":") == 2 else posixpath.dirname(path)


def made_up_pod(spec: Fields, labels: Mapping[str, str], id: str) -> PodSandbox:
    """A pod from the specification of a container."""
    _, name, namespace, uid, _ = _identity(spec)
    name = labels.get(f"{_OF_POD}.name") or name or "pod"
    namespace = labels.get(f"{_OF_POD}.namespace") or namespace or "default"
    shared = [
        item.data
        for item in spec.object("linux").objects("namespaces")
        if item.text("type") in ("ipc", "network", "uts")
    ]
    with naming(spec):
        return pod_message(
            {"linux": {"namespaces": shared}},
            id=id,
            name=name,
            namespace=namespace,
            uid=labels.get(f"{_OF_POD}.uid") or uid or ids.uid("pod", namespace, name),
            labels={key: value for key, value in labels.items() if key.startswith(f"{_OF_POD}.")},
            annotations={},
            cgroup_parent=cgroup_parent(spec),
        )


def spec_workloads(documents: Iterable[Fields]) -> list[Workload]:
    """The containers of ``config.json`` files, grouped by the sandboxes that they name, or each in a separate pod.

    The specification of a sandbox is the pod itself. Raises ManifestError.
    """
    sandboxes: dict[str, Fields] = {}
    containers: dict[str, list[Fields]] = {}
    for spec in documents:
        _check(spec)
        id = _identity(spec)[0]
        if is_sandbox(spec):
            id = id or _id(spec) or ids.container_id("pod of", spec.source)
            if id in sandboxes:
                spec.fail(f"is of the same sandbox as {sandboxes[id].source}")
            sandboxes[id] = spec
        else:
            id = id or ids.container_id("pod of", spec.source)
            containers.setdefault(id, []).append(spec)
    return [
        _workload(id, sandboxes.get(id), containers.get(id, []))
        for id in dict.fromkeys([*sandboxes, *containers])
    ]


def _check(spec: Fields) -> None:
    if not spec.object("process"):
        spec.fail("is missing: without it there is no container to run", "process")
    if "windows" in spec or "vm" in spec:
        spec.fail("is not for Linux containers, but NRI is")


def is_sandbox(spec: Fields) -> bool:
    """Whether a specification belongs to a pod's sandbox, and not to a container."""
    annotations = spec.strings("annotations")
    return "sandbox" in (annotations.get(key) for key in _TYPES)


def _workload(id: str, sandbox: Fields | None, containers: Sequence[Fields]) -> Workload:
    notes: dict[str, None] = {}
    if sandbox is None:
        pod = made_up_pod(containers[0], _labels(containers[0]), id)
        notes["an OCI specification says little of the pod: made up, or left out"] = None
    else:
        pod = _pod(id, sandbox)
        if not is_crio(sandbox):
            notes["an OCI specification says nothing of the pod's resources: left out"] = None
        if not containers:
            notes["this is the sandbox of a pod: add the config.json of its containers"] = None
    members = []
    for spec in containers:
        container = _container(id, spec)
        missing = [
            what
            for what, there in (("labels", container.labels), ("the image", container.image.name))
            if not there
        ]
        if missing:
            text = f"an OCI specification says nothing of {' and '.join(missing)}: left out"
            notes[f"container {container.name}: {text}"] = None
        members.append(WorkloadContainer(container, Kind.ORDINARY, spec.data))
    source = (sandbox or containers[0]).source
    return Workload(source=source, pod=pod, containers=tuple(members), notes=tuple(notes))


def _pod(id: str, spec: Fields) -> PodSandbox:
    _, name, namespace, uid, _ = _identity(spec)
    annotations = spec.strings("annotations")
    labels = _labels(spec)
    name = labels.get(f"{_OF_POD}.name") or name or "pod"
    namespace = labels.get(f"{_OF_POD}.namespace") or namespace or "default"
    resources, overhead = crio_resources(spec) if is_crio(spec) else (None, None)
    with naming(spec):
        return pod_message(
            spec.data,
            id=id,
            name=name,
            namespace=namespace,
            uid=labels.get(f"{_OF_POD}.uid") or uid or ids.uid("pod", namespace, name),
            labels=labels,
            annotations=_mapping(spec, f"{_CRIO}.Annotations"),
            cgroup_parent=annotations.get(f"{_CRIO}.CgroupParent") or cgroup_parent(spec),
            runtime_handler=annotations.get(RUNTIME_HANDLER, ""),
            pid=ids.process_id(ids.container_id(id)),
            # CRI-O keeps its own annotations apart from the pod's.
            own_annotations=not is_crio(spec),
            pod_resources=resources,
            pod_overhead=overhead,
        )


def _container(pod_id: str, spec: Fields) -> Container:
    name = _identity(spec)[4] or Path(spec.source).parent.name or "container"
    with naming(spec):
        return container_message(
            spec.data,
            id=_id(spec) or ids.container_id("container", spec.source),
            pod_id=pod_id,
            name=name,
            labels=_labels(spec),
            annotations=_mapping(spec, f"{_CRIO}.Annotations"),
            image=_image(spec),
        )


def is_crio(spec: Fields) -> bool:
    return f"{_CRIO}.ContainerType" in spec.object("annotations")


def linux_resources(resources: Fields) -> LinuxResources:
    """``LinuxContainerResources`` of the CRI, from JSON."""
    return Resources(
        shares=resources.integer("cpu_shares"),
        quota=resources.integer("cpu_quota"),
        period=resources.integer("cpu_period"),
        memory_limit=resources.integer("memory_limit_in_bytes"),
        unified=resources.strings("unified"),
    ).message()


def crio_resources(spec: Fields) -> tuple[LinuxResources, LinuxResources]:
    """The resources and the overhead of a pod. CRI-O writes them into the specification of the sandbox."""
    keys = (f"{_CRIO}.PodLinuxResources", f"{_CRIO}.PodLinuxOverhead")
    resources, overhead = (linux_resources(_object(spec, key)) for key in keys)
    return resources, overhead


def _labels(spec: Fields) -> dict[str, str]:
    """The labels that CRI-O writes into each specification. containerd writes none."""
    return _mapping(spec, f"{_CRIO}.Labels")


def _mapping(spec: Fields, annotation: str) -> dict[str, str]:
    """The JSON object in an annotation, which maps names to texts."""
    held = _object(spec, annotation)
    return {key: held.text(key) for key in held.data}


def _object(spec: Fields, annotation: str) -> Fields:
    """The JSON object in an annotation; empty without one."""
    text = spec.strings("annotations").get(annotation, "")
    path = f"annotations[{annotation}]"
    try:
        data = parse_json(text, ANNOTATION) if text else {}
    except ValueError as error:
        spec.fail(f"is not JSON: {error}", path)
    return Fields(data, spec.source, path)


def _image(spec: Fields) -> Image | None:
    """The image, from the annotations of CRI-O or containerd, which normalizes the name."""
    annotations = spec.strings("annotations")
    name = annotations.get(f"{_CRIO}.ImageName", "")
    ref = annotations.get(f"{_CRIO}.ImageRef", "")
    if not name and "io.kubernetes.cri.image-name" in annotations:
        try:
            reference = ImageReference.parse(annotations["io.kubernetes.cri.image-name"])
        except ValueError:
            return None
        bare = not reference.tag and not reference.digest
        name = str(replace(reference, tag="latest") if bare else reference)
    if not name and not ref:
        return None
    _, at, digest = ref.rpartition("@")
    config = "" if at or not ref else f"sha256:{ref.rpartition(':')[2]}"
    return Image(name=name, digest=digest if at else "", config_digest=config)


def _id(spec: Fields) -> str:
    """The id that CRI-O writes; else the last part of the cgroup path, if it looks like an id."""
    id = spec.strings("annotations").get(f"{_CRIO}.ContainerID", "")
    if id:
        return id
    path = spec.object("linux").text("cgroupsPath")
    last = path.replace(":", "/").rpartition("/")[2]
    return last if len(last) == 64 and set(last) <= set("0123456789abcdef") else ""
