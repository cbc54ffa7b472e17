"""The requests of a kubelet that resizes a pod in place.

After ``doPodResizeAction`` in Kubernetes v1.36, ``pkg/kubelet/kuberuntime/kuberuntime_manager.go``: there is one
round for memory, and one for CPU. A growing pod is updated before its containers, a shrinking pod after them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Callable

from nri_sync.api.nri_pb2 import LinuxResources
from nri_sync.kit.fields.qos import pod_qos
from nri_sync.testing.manifests import Kind, Sizes, Workload, WorkloadContainer

__all__ = ["Step", "check_resize", "growth", "resize"]

# A memory limit of this size or more means no limit.
_UNLIMITED = 1 << 62


@dataclass(frozen=True)
class Step:
    """One request: UpdateContainer, or UpdatePodSandbox without a container."""

    resources: LinuxResources
    container: WorkloadContainer | None = None


def check_resize(workload: Workload, target: Workload) -> None:
    """Raise ValueError for a resize that Kubernetes rejects, or about which too little is known."""
    names = [item.name for item in workload.containers]
    if [item.name for item in target.containers] != names:
        raise ValueError(
            f"{target.name}: a resize cannot add or remove containers: {', '.join(names)}"
        )
    known = [item.sizes is not None for item in (*workload.containers, *target.containers)]
    if workload.resized is None or target.resized is None or not all(known):
        raise ValueError(f"{target.name}: only pods of manifests can be resized")
    before, after = pod_qos(workload.pod), pod_qos(target.pod)
    if before is not after:
        raise ValueError(
            f"{target.name}: the resize would change the QoS class from {before and before.value} to "
            f"{after and after.value}, which Kubernetes refuses"
        )


def growth(
    workload: Workload,
    running: Sequence[WorkloadContainer],
    resources: Callable[[WorkloadContainer], LinuxResources],
) -> Iterator[Step]:
    """A resize that grows to the present resources of the pod; ``resources`` returns those of a container.

    The pod is updated once for each of its limits, and once more for its CPU shares.
    """
    new = workload.resized or workload.pod.linux.pod_resources
    limited = [item for item in running if resources(item).memory.limit.value > 0]
    rounds = [(1 + (new.cpu.quota.value > 0), running)]
    if limited:
        rounds.insert(0, (int(0 < new.memory.limit.value < _UNLIMITED), limited))
    for pod_updates, members in rounds:
        yield from [Step(new)] * pod_updates
        for item in members:
            yield Step(resources(item), item)


def resize(
    workload: Workload, target: Workload, running: Sequence[WorkloadContainer]
) -> Iterator[Step]:
    """A resize to the resources of ``target``, the same pod in another manifest."""
    check_resize(workload, target)
    return _Resize(workload, target, running).steps()


class _Resize:
    def __init__(
        self, workload: Workload, target: Workload, running: Sequence[WorkloadContainer]
    ) -> None:
        assert workload.resized is not None
        assert target.resized is not None
        self._targets = {item.name: item for item in target.containers}
        # Sidecars come first, in reverse order.
        sidecars = [item for item in running if item.kind is Kind.SIDECAR]
        others = [item for item in running if item.kind is Kind.ORDINARY]
        self._running = [*reversed(sidecars), *others]
        self._wanted = target.resized
        self._has = LinuxResources()
        self._has.CopyFrom(target.resized)
        self._has.cpu.CopyFrom(workload.resized.cpu)
        self._has.memory.CopyFrom(workload.resized.memory)

    def steps(self) -> Iterator[Step]:
        memory = self._changed(lambda sizes: (sizes.memory_limit, sizes.memory_request))
        cpu = self._changed(lambda sizes: (sizes.cpu_limit, sizes.cpu_request))
        # Pod-level resources are resized even if no container changes.
        if memory or self._wanted.memory != self._has.memory:
            yield from self._round(memory, self._with_memory, ["memory.limit"])
        if cpu or self._wanted.cpu != self._has.cpu:
            yield from self._round(cpu, self._with_cpu, ["cpu.quota", "cpu.shares"])

    def _changed(self, sizes: Callable[[Sizes], tuple[int, int]]) -> list[WorkloadContainer]:
        """The containers with a changed limit or request: decreases come first, in reverse order."""
        found: list[WorkloadContainer] = []
        for item in self._running:
            target = self._targets[item.name]
            assert item.sizes is not None
            assert target.sizes is not None
            before, after = sizes(item.sizes), sizes(target.sizes)
            # The limit decides, unless only the request differs.
            if after < before:
                found.insert(0, item)
            elif after > before:
                found.append(item)
        return found

    def _round(
        self,
        containers: Sequence[WorkloadContainer],
        resources: Callable[[WorkloadContainer], LinuxResources],
        values: Sequence[str],
    ) -> Iterator[Step]:
        """``resizeContainers``: limits grow before requests, and shrink after them."""
        for value in values:
            if _value(self._wanted, value) > _value(self._has, value):
                yield self._pod(value)
        for item in containers:
            yield Step(resources(item), item)
        for value in reversed(values):
            if _value(self._wanted, value) < _value(self._has, value):
                yield self._pod(value)

    def _pod(self, value: str) -> Step:
        """An UpdatePodSandbox that adds one more of the new values."""
        kind, _, name = value.partition(".")
        getattr(getattr(self._has, kind), name).value = _value(self._wanted, value)
        new = LinuxResources()
        new.CopyFrom(self._has)
        return Step(new)

    def _with_memory(self, item: WorkloadContainer) -> LinuxResources:
        """The new memory, with the old CPU."""
        new = self._with_cpu(item)
        assert item.resized is not None
        new.cpu.CopyFrom(item.resized.cpu)
        return new

    def _with_cpu(self, item: WorkloadContainer) -> LinuxResources:
        """The new CPU. At this step the memory is the new one, too."""
        new, wanted = LinuxResources(), self._targets[item.name].resized
        assert wanted is not None
        new.CopyFrom(wanted)
        return new


def _value(resources: LinuxResources, path: str) -> int:
    kind, _, name = path.partition(".")
    value: int = getattr(getattr(resources, kind), name).value
    return value
