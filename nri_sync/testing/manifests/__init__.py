"""Workloads for simulations and tests, from manifests, the output of crictl and OCI specifications.

:func:`load` accepts Kubernetes manifests, the output of ``crictl inspectp`` and ``crictl inspect``, and OCI
``config.json`` files. It recognizes the format of each, and returns the pods and containers that the kubelet and
containerd would pass to plugins, with the OCI specifications of the containers. It reads nothing but these files,
and the same files give the same workloads. docs/manifests.md has the sources of all values.
"""

from __future__ import annotations

from collections.abc import Iterable

from nri_sync.testing.manifests.crictl import crictl_workloads, is_crictl
from nri_sync.testing.manifests.documents import TEMPLATE, Input, read
from nri_sync.testing.manifests.fields import Fields
from nri_sync.testing.manifests.model import (
    Assumptions,
    ImageConfig,
    Kind,
    ManifestError,
    Sizes,
    Workload,
    WorkloadContainer,
)
from nri_sync.testing.manifests.specs import is_spec, spec_workloads
from nri_sync.testing.manifests.templates import is_kubernetes, kubernetes_workloads

__all__ = [
    "Assumptions",
    "ImageConfig",
    "Input",
    "Kind",
    "ManifestError",
    "Sizes",
    "Workload",
    "WorkloadContainer",
    "check_ids",
    "load",
]


def load(*inputs: Input, assumptions: Assumptions | None = None) -> list[Workload]:
    """The workloads in files or texts: those of Kubernetes first, then those of OCI, then those of crictl.

    The pods and containers of crictl, or a Pod and its ConfigMaps, may be spread over several inputs.

    Args:
        inputs: paths, ``-`` for standard input, or texts, which contain a newline, or begin with a brace.
        assumptions: the properties of the node.

    Raises:
        ManifestError: an input cannot be read or mapped, or no input has a workload.
    """
    try:
        return _load(inputs, assumptions or Assumptions())
    except ManifestError as error:
        if "{{" not in error.problem or error.problem.endswith(TEMPLATE):
            raise
        problem = f"{error.problem}: it has {TEMPLATE}"
        raise ManifestError(error.source, error.path, problem) from None


def _load(inputs: Iterable[Input], assumptions: Assumptions) -> list[Workload]:
    kubernetes: list[Fields] = []
    crictl: list[Fields] = []
    specs: list[Fields] = []
    documents = [document for given in inputs for document in read(given)]
    for document in documents:
        if is_kubernetes(document):
            kubernetes.append(document)
        elif is_crictl(document):
            crictl.append(document)
        elif is_spec(document):
            specs.append(document)
        else:
            keys = ", ".join(list(document.data)[:5])
            document.fail(
                "is neither a Kubernetes object (apiVersion, kind), nor the output of crictl inspectp or "
                f"inspect (status, info), nor an OCI config.json (ociVersion); it has: {keys}"
            )
    workloads = kubernetes_workloads(kubernetes, assumptions)
    workloads += spec_workloads(specs)
    workloads += crictl_workloads(crictl)
    check_ids(workloads)
    if not workloads:
        source = documents[0].source if documents else "<nothing>"
        kinds = sorted({document.text("kind") for document in documents})
        raise ManifestError(
            source, "", f"no pod and no template of one; there is: {', '.join(kinds) or 'nothing'}"
        )
    return workloads


def check_ids(workloads: Iterable[Workload]) -> None:
    """Raise ManifestError if two pods or containers have the same id."""
    seen: dict[str, str] = {}
    for workload in workloads:
        named = [(workload.pod.id, f"pod {workload.name}")]
        for item in workload.containers:
            named.append((item.container.id, f"container {item.name} of pod {workload.name}"))
        for id, what in named:
            if id in seen:
                raise ManifestError(workload.source, "", f"{what} is in {seen[id]}, too")
            seen[id] = workload.source
