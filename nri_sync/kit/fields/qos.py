"""QoS classes of pods, and the values that the kubelet derives from them.

NRI has no field for the QoS class. The cgroup and the OOM score that the kubelet chooses show the class. Pure
functions, after Kubernetes v1.36: ``pkg/apis/core/v1/helper/qos``, ``pkg/kubelet/qos``,
``pkg/kubelet/cm`` and ``pkg/kubelet/kuberuntime``.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from typing import Union

from nri_sync import api
from nri_sync.kit.fields.cgroups import cgroup_name, expand_slice
from nri_sync.kit.fields.quantity import Quantity

__all__ = [
    "QoS",
    "container_qos",
    "estimate_memory_request",
    "kubelet_cgroup_parent",
    "memory_high",
    "oom_score_adj",
    "pod_qos",
    "qos_of_resources",
]

# From ``pkg/kubelet/qos/policy.go``.
_GUARANTEED_SCORE, _BEST_EFFORT_SCORE = -997, 1000
_LOWEST_BURSTABLE_SCORE = 1000 + _GUARANTEED_SCORE
_COMPUTE = ("cpu", "memory")

Amounts = Mapping[str, Union[Quantity, str, int, float]]


class QoS(str, enum.Enum):
    """A QoS class. Its value is the name in Kubernetes."""

    GUARANTEED = "Guaranteed"
    BURSTABLE = "Burstable"
    BEST_EFFORT = "BestEffort"


def pod_qos(pod: api.PodSandbox) -> QoS | None:
    """Return the QoS class of a pod, from its cgroup parent; None if the kubelet has not chosen the parent.

    The kubelet does not choose it with cgroupsPerQOS false, and for pods of other programs, such as crictl.
    """
    name = cgroup_name(pod.linux.cgroup_parent)
    if len(name) < 2 or not name[-1].startswith("pod"):
        return None
    levels = {"kubepods": QoS.GUARANTEED, "burstable": QoS.BURSTABLE, "besteffort": QoS.BEST_EFFORT}
    return levels.get(name[-2])


def container_qos(pod: api.PodSandbox, container: api.Container) -> QoS | None:
    """Return the QoS class of a container, from its pod's cgroup parent, or else from its OOM score.

    A node-critical pod has the OOM score of a Guaranteed pod, in any class. None for scores that the
    kubelet does not set. The resources do not show the class, because they contain no memory request.
    """
    by_parent = pod_qos(pod)
    if by_parent is not None:
        return by_parent
    score = api.optional.get(container.linux, "oom_score_adj")
    if score == _GUARANTEED_SCORE:
        return QoS.GUARANTEED
    if score == _BEST_EFFORT_SCORE:
        return QoS.BEST_EFFORT
    if score is not None and _LOWEST_BURSTABLE_SCORE <= score < _BEST_EFFORT_SCORE:
        return QoS.BURSTABLE
    return None


def qos_of_resources(containers: Iterable[tuple[Amounts, Amounts]]) -> QoS:
    """Return the class that Kubernetes gives to a pod, from its containers' requests and limits
    (``ComputePodQOS``).

    ``containers`` has a pair of mappings from resource names for each container and init container, or a single
    pair if the pod itself has resources. As in the API server, a missing request equals its limit; a request of 0
    does not. Raises ValueError for an amount that is not a quantity.
    """
    requests: dict[str, Quantity] = {}
    limits: dict[str, Quantity] = {}
    all_limited = True
    for request, limit in containers:
        limited = _positive(limit)
        all_limited = all_limited and len(limited) == len(_COMPUTE)
        _add(limits, limited)
        defaults = {name: amount for name, amount in limited.items() if name not in request}
        _add(requests, {**defaults, **_positive(request)})
    if not requests and not limits:
        return QoS.BEST_EFFORT
    return QoS.GUARANTEED if all_limited and requests == limits else QoS.BURSTABLE


def _positive(amounts: Amounts) -> dict[str, Quantity]:
    """Return the amounts that count for the QoS class."""
    parsed = {name: Quantity.parse(amounts[name]) for name in _COMPUTE if name in amounts}
    return {name: amount for name, amount in parsed.items() if amount > Quantity()}


def _add(sums: dict[str, Quantity], amounts: Mapping[str, Quantity]) -> None:
    for name, amount in amounts.items():
        sums[name] = sums.get(name, Quantity()) + amount


def oom_score_adj(
    qos: QoS, memory_request: int, memory_capacity: int, *, node_critical: bool = False
) -> int:
    """Return the OOM score adjustment that the kubelet sets for a container (``GetContainerOOMScoreAdjust``).

    Memory in bytes: the container's request, and the node's capacity. For a sidecar (an init container that keeps
    running), pass the least request of the regular containers if that is more. If the pod itself has resources,
    add an equal share of the memory that its containers have not requested.
    """
    if node_critical or qos is QoS.GUARANTEED:
        return _GUARANTEED_SCORE
    if qos is QoS.BEST_EFFORT:
        return _BEST_EFFORT_SCORE
    score = 1000 - 1000 * memory_request // memory_capacity
    return max(_LOWEST_BURSTABLE_SCORE, min(_BEST_EFFORT_SCORE - 1, score))


def estimate_memory_request(score: int, memory_capacity: int) -> int | None:
    """Return the memory request in bytes behind the OOM score of a Burstable container; None for other scores.

    The score is in thousandths of the node's memory, so the request may be up to a thousandth of it larger than
    the result. The ends of the range are limits: 999 means 0 to two thousandths (the result is 0), and 3 means all
    from 997 thousandths on.
    """
    if not _LOWEST_BURSTABLE_SCORE <= score < _BEST_EFFORT_SCORE:
        return None
    if score == _BEST_EFFORT_SCORE - 1:
        return 0
    return -(-(1000 - score) * memory_capacity // 1000)


def memory_high(
    request: int, limit: int, *, throttling_factor: float = 0.9, page_size: int = 4096
) -> int | None:
    """Return the value in bytes that the kubelet writes to memory.high with its feature MemoryQoS; None for none.

    ``limit`` is the container's limit, or else the memory that the node has for pods. KEP-2570: above
    ``throttling_factor`` of the way from request to limit, the kernel slows the container down before it kills it.
    """
    if request == limit:
        return None
    high = math.floor(request + (limit - request) * throttling_factor)
    high = high // page_size * page_size
    return high if high > request else None


def kubelet_cgroup_parent(
    qos: QoS, pod_uid: str, *, systemd: bool = False, root: tuple[str, ...] = ()
) -> str:
    """Return the cgroup parent that the kubelet gives to a pod: the inverse of ``pod_qos``.

    ``root`` is the kubelet's setting cgroupRoot, as the parts of its name (``podContainerManagerImpl``).
    """
    level = () if qos is QoS.GUARANTEED else (qos.value.lower(),)
    parts = (*root, "kubepods", *level, f"pod{pod_uid}")
    if systemd:
        return expand_slice("-".join(part.replace("-", "_") for part in parts) + ".slice")
    return "/" + "/".join(parts)
