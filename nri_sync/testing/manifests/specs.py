"""OCI runtime specifications: a ``config.json`` as a workload, and what one tells of its pod."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from nri_sync.api.nri_pb2 import PodSandbox
from nri_sync.testing.manifests import ids
from nri_sync.testing.manifests.fields import Fields
from nri_sync.testing.manifests.messages import container_message, pod_message
from nri_sync.testing.manifests.model import Kind, ManifestError, Workload, WorkloadContainer

__all__ = ["cgroup_parent", "is_spec", "made_up_pod", "naming", "spec_workload"]

_OF_POD = "io.kubernetes.pod"
# Who runs it, and the annotations it has for: the id of the sandbox; name, namespace and uid of the pod; the
# name of the container. The labels of the kubelet are better.
_ANNOTATIONS = (
    (
        "io.kubernetes.cri.sandbox-id", "io.kubernetes.cri.sandbox-name",
        "io.kubernetes.cri.sandbox-namespace", "io.kubernetes.cri.sandbox-uid",
        "io.kubernetes.cri.container-name",
    ),
    (
        "io.kubernetes.cri-o.SandboxID", f"{_OF_POD}.name", f"{_OF_POD}.namespace", f"{_OF_POD}.uid",
        "io.kubernetes.container.name",
    ),
)  # fmt: skip


def is_spec(document: Fields) -> bool:
    return "ociVersion" in document


@contextmanager
def naming(spec: Fields) -> Iterator[None]:
    """What is wrong with a specification, raised as a ManifestError."""
    try:
        yield
    except ManifestError:
        raise
    except (AttributeError, TypeError, ValueError) as error:
        raise ManifestError(spec.source, spec.path, f"is no OCI specification: {error}") from None


def _told(spec: Fields) -> list[str]:
    """Id of the sandbox; name, namespace and uid of the pod; name of the container; "" for what it tells not."""
    annotations = spec.strings("annotations")
    told = [[annotations.get(key, "") for key in keys] for keys in _ANNOTATIONS]
    return [next(filter(None, values), "") for values in zip(*told)]


def cgroup_parent(spec: Fields) -> str:
    """The cgroup parent of the pod, as the path of a container in it tells."""
    path = spec.object("linux").text("cgroupsPath")
    return path.split(":")[0] if path.count(":") == 2 else posixpath.dirname(path)


def made_up_pod(spec: Fields, labels: Mapping[str, str], id: str) -> PodSandbox:
    """A pod of what the specification of a container tells of it."""
    _, name, namespace, uid, _ = _told(spec)
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


def spec_workload(spec: Fields) -> Workload:
    """A ``config.json``, as a container in a pod of its own. Raises ManifestError."""
    if not spec.object("process"):
        spec.fail("is missing: without it there is no container to run", "process")
    if "windows" in spec or "vm" in spec:
        spec.fail("is not for Linux containers, and NRI is")
    pod_id, _, _, _, name = _told(spec)
    bundle = Path(spec.source).parent.name
    name = name or bundle or "container"
    pod_id = pod_id or ids.container_id("pod of", spec.source)
    pod = made_up_pod(spec, {}, pod_id)
    with naming(spec):
        message = container_message(
            spec.data,
            id=_id(spec) or ids.container_id("container", spec.source),
            pod_id=pod_id,
            name=name,
            labels={},
        )
    return Workload(
        source=spec.source,
        pod=pod,
        containers=(WorkloadContainer(message, Kind.ORDINARY, spec.data),),
        notes=(
            "an OCI specification says nothing of the pod, of labels and of the image: made up, or left out",
        ),
    )


def _id(spec: Fields) -> str:
    """The last part of the path of the container's cgroup, if it looks like an id."""
    path = spec.object("linux").text("cgroupsPath")
    last = path.replace(":", "/").rpartition("/")[2]
    return last if len(last) == 64 and set(last) <= set("0123456789abcdef") else ""
