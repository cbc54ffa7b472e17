"""Requests and limits of a pod and its containers, and the resources that the kubelet derives.

After Kubernetes v1.36: ``pkg/apis/core/v1/defaults.go`` for defaults, ``k8s.io/component-helpers/resource`` for
sums, ``pkg/kubelet/kuberuntime`` for the runtime. Its features are at their defaults: pod-level resources are on,
MemoryQoS is off.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nri_sync.kit.fields.cpu import DEFAULT_PERIOD, milli_to_quota, milli_to_shares
from nri_sync.kit.fields.qos import QoS, oom_score_adj, qos_of_resources
from nri_sync.kit.fields.quantity import Quantity
from nri_sync.testing.manifests.cri import Resources
from nri_sync.testing.manifests.fields import Fields
from nri_sync.testing.manifests.model import Assumptions, Kind, Sizes

__all__ = ["ContainerAmounts", "PodAmounts"]

Amounts = dict[str, Quantity]

_HUGE = "hugepages-"
_MILLI = 10**6
_ZERO = Quantity()
_MOST = (1 << 63) - 1
# The memory limit of an unlimited cgroup, by version.
_UNLIMITED = {1: _MOST - 4095, 2: _MOST}
_PAGE_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")


@dataclass
class ContainerAmounts:
    """Requests and limits of a container."""

    name: str
    kind: Kind
    requests: Amounts
    limits: Amounts

    @classmethod
    def read(cls, spec: Fields, kind: Kind) -> ContainerAmounts:
        """The amounts of an entry of ``spec.containers`` or ``spec.initContainers``."""
        requests, limits = _read(spec.object("resources"))
        return cls(spec.text("name"), kind, requests, limits)


def _read(resources: Fields) -> tuple[Amounts, Amounts]:
    limits, requests = (
        {name: _rounded(amount) for name, amount in resources.quantities(key).items()}
        for key in ("limits", "requests")
    )
    for name, limit in limits.items():
        request = requests.get(name, limit)
        if request > limit:
            resources.fail(
                f"the request of {name}, {request}, is more than its limit, {limit}", "requests"
            )
        if name.startswith(_HUGE) and request != limit:
            resources.fail(f"the request of {name} must be its limit, {limit}", "requests")
    for name in requests:
        if name.startswith(_HUGE) and name not in limits:
            resources.fail(f"{name} needs a limit, too", "limits")
    return requests, limits


def _rounded(amount: Quantity) -> Quantity:
    """``SetDefaults_ResourceList``: amounts are rounded up to thousandths."""
    exact = amount.nanos % _MILLI == 0
    return amount if exact else replace(amount, nanos=amount.milli * _MILLI)


@dataclass
class PodAmounts:
    """Requests and limits of all containers of a pod, and of the pod itself. Constant, so that sums are kept."""

    containers: Sequence[ContainerAmounts]
    requests: Amounts = field(default_factory=dict)
    limits: Amounts = field(default_factory=dict)
    #: Whether the pod has pod-level resources.
    own: bool = False
    overhead: Amounts = field(default_factory=dict)
    #: The class in the status, if the API server has set it.
    status_qos: QoS | None = None
    node_critical: bool = False

    @classmethod
    def read(
        cls, spec: Fields, containers: Sequence[ContainerAmounts], **more: object
    ) -> PodAmounts:
        """The amounts of a pod's ``spec``; ``more`` are the other fields."""
        resources = spec.object("resources")
        requests, limits = _read(resources)
        own = bool(requests or limits)
        amounts = cls(containers, requests, limits, own, **more)  # type: ignore[arg-type]
        if amounts.own:
            amounts._fill_in()
        return amounts

    def _fill_in(self) -> None:
        """``defaultHugePagePodLimits`` and ``defaultPodRequests``."""
        for name, total in aggregate(self.containers, "limits").items():
            if name.startswith(_HUGE) and name not in self.requests:
                self.limits.setdefault(name, total)
        if not self.limits:
            return
        for name, total in aggregate(self.containers, "requests").items():
            if name in ("cpu", "memory"):
                self.requests.setdefault(name, total)
        for name, limit in self.limits.items():
            self.requests.setdefault(name, limit)

    @functools.cached_property
    def _counted(self) -> list[ContainerAmounts]:
        """The containers that count. Ephemeral containers request nothing, and do not count."""
        return [item for item in self.containers if item.kind is not Kind.EPHEMERAL]

    @functools.cached_property
    def qos(self) -> QoS:
        if self.status_qos is not None:
            return self.status_qos
        if self.own:
            return qos_of_resources([(self.requests, self.limits)])
        return qos_of_resources((item.requests, item.limits) for item in self._counted)

    # For the runtime, at creation

    def container(self, of: ContainerAmounts, assumptions: Assumptions) -> Resources:
        """``generateLinuxContainerResources``."""
        cpu_limit = self._limit(of, "cpu")
        memory_limit = self._limit(of, "memory")
        resources = _resources(of.requests.get("cpu"), cpu_limit, memory_limit, assumptions)
        resources.oom_score_adj = self._oom_score(of, assumptions)
        resources.huge_pages = dict.fromkeys(assumptions.huge_page_sizes, 0)
        for name, limit in {**self.limits, **of.limits}.items():
            size = _page_size(name)
            if size in resources.huge_pages:
                resources.huge_pages[size] = int(limit)
        if assumptions.swap_limits:
            # NoSwap is the kubelet's swap behaviour.
            if assumptions.cgroup_version == 2:
                resources.unified["memory.swap.max"] = "0"
            else:
                resources.swap_limit = resources.memory_limit
        return resources

    def _limit(self, of: ContainerAmounts, name: str) -> Quantity:
        return of.limits.get(name) or (self.limits.get(name) if self.own else None) or _ZERO

    def sandbox(self, assumptions: Assumptions) -> Resources:
        """``calculateSandboxResources``: the sum for the containers that run at the same time."""
        requests = {**aggregate(self.containers, "requests"), **self.requests}
        limits = {**aggregate(self.containers, "limits"), **self.limits}
        return _resources(
            requests.get("cpu"),
            limits.get("cpu", _ZERO),
            limits.get("memory", _ZERO),
            assumptions,
        )

    # For the runtime, at a resize in place

    def resized_container(self, of: ContainerAmounts, assumptions: Assumptions) -> Resources:
        """``updatePodContainerResources``: CPU and memory only, each of them present, even as 0."""
        requests, limits = (
            {name: amounts.get(name, _ZERO) for name in ("cpu", "memory")}
            for amounts in (of.requests, of.limits)
        )
        return self.container(replace(of, requests=requests, limits=limits), assumptions)

    def sizes(self, of: ContainerAmounts) -> Sizes:
        """``containerResourcesFromRequirements``."""
        requests = of.requests
        return Sizes(
            cpu_limit=self._limit(of, "cpu").milli,
            cpu_request=requests.get("cpu", _ZERO).milli,
            memory_limit=int(self._limit(of, "memory")),
            memory_request=int(requests.get("memory", _ZERO)),
        )

    def resized_sandbox(self, assumptions: Assumptions) -> Resources:
        """``ResourceConfigForPod``. A limit that not all containers declare keeps the cgroup's value."""
        resources = self.sandbox(assumptions)
        resources.unified = {}
        if not self._declared("cpu"):
            resources.quota = -1
        if not self._declared("memory"):
            resources.memory_limit = _UNLIMITED[assumptions.cgroup_version]
        return resources

    def _declared(self, name: str) -> bool:
        if self.own and self.limits.get(name):
            return True
        return all(item.limits.get(name) for item in self._counted)

    def overhead_resources(self, assumptions: Assumptions) -> Resources:
        """``convertOverheadToLinuxResources``."""
        if not self.overhead:
            return Resources()
        cpu = self.overhead.get("cpu", _ZERO)
        return _resources(cpu, cpu, self.overhead.get("memory", _ZERO), assumptions)

    def _oom_score(self, of: ContainerAmounts, assumptions: Assumptions) -> int:
        """``GetContainerOOMScoreAdjust``: memory that no container requests is shared among all containers."""
        request = int(of.requests.get("memory", _ZERO))
        if of.kind is Kind.SIDECAR:
            request = max(request, self._least)
        return oom_score_adj(
            self.qos, request + self._share, assumptions.memory, node_critical=self.node_critical
        )

    @functools.cached_property
    def _least(self) -> int:
        """The least request for memory of the ordinary containers."""
        ordinary = (item for item in self.containers if item.kind is Kind.ORDINARY)
        return min(int(item.requests.get("memory", _ZERO)) for item in ordinary)

    @functools.cached_property
    def _share(self) -> int:
        """The part of each container in the memory that only the pod requests."""
        if not self.requests.get("memory"):
            return 0
        asked_for = aggregate(self.containers, "requests").get("memory", _ZERO)
        return max(0, int(self.requests["memory"]) - int(asked_for)) // len(self._counted)


def aggregate(containers: Iterable[ContainerAmounts], which: str) -> Amounts:
    """The maximum that containers have at the same time (``AggregateContainerRequests`` and ``...Limits``).

    An init container runs together with the sidecars before it.
    """
    total: Amounts = {}
    sidecars: Amounts = {}
    most: Amounts = {}
    for container in containers:
        amounts: Mapping[str, Quantity] = getattr(container, which)
        if container.kind is not Kind.INIT:
            _add(total, amounts)
        if container.kind is Kind.SIDECAR:
            _add(sidecars, amounts)
            _raise(most, sidecars)
        elif container.kind is Kind.INIT:
            beside = dict(sidecars)
            _add(beside, amounts)
            _raise(most, beside)
    _raise(total, most)
    return total


def _add(total: Amounts, amounts: Mapping[str, Quantity]) -> None:
    for name, amount in amounts.items():
        total[name] = total.get(name, _ZERO) + amount


def _raise(total: Amounts, amounts: Mapping[str, Quantity]) -> None:
    for name, amount in amounts.items():
        total[name] = max(total.get(name, amount), amount)


def _resources(
    cpu_request: Quantity | None,
    cpu_limit: Quantity,
    memory_limit: Quantity,
    assumptions: Assumptions,
) -> Resources:
    """``calculateLinuxResources``."""
    shares_of = cpu_limit if cpu_request is None else cpu_request
    resources = Resources(
        shares=milli_to_shares(shares_of.milli),
        quota=min(_MOST, milli_to_quota(cpu_limit.milli)),
        period=DEFAULT_PERIOD,
        # A sum may exceed the maximum of each of its parts.
        memory_limit=min(_MOST, int(memory_limit)),
    )
    if assumptions.cgroup_version == 2:
        # With ``singleProcessOOMKill`` false, all processes of a container are killed together.
        resources.unified["memory.oom.group"] = "1"
    return resources


def _page_size(name: str) -> str:
    """The size of a resource such as "hugepages-2Mi" as the cgroup has it: "2MB"."""
    if not name.startswith(_HUGE):
        return ""
    try:
        size = int(Quantity.parse(name[len(_HUGE) :]))
    except ValueError:
        return ""
    unit = 0
    while size >= 1024 and size % 1024 == 0 and unit < len(_PAGE_UNITS) - 1:
        size //= 1024
        unit += 1
    return f"{size}{_PAGE_UNITS[unit]}"
