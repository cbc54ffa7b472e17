"""Gives containers exclusive CPUs, close to each other and to their memory. All other containers share the rest.

The plugin stores nothing: at Synchronize the runtime sends the CPUs of each container.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nri_sync
from nri_sync import api, errors, kit

__all__ = ["CPUPinning", "Config", "Topology"]

logger = logging.getLogger("cpu-pinning")


def positive(text: str) -> int:
    """Parse the annotation: the number of CPUs."""
    count = kit.parse_int(text)
    if count < 1:
        raise ValueError("not a number of CPUs")
    return count


ANNOTATIONS = kit.Annotations("pinning.example.com", exclusive=True)
CPUS = ANNOTATIONS.declare("exclusive-cpus", positive)


@dataclass
class Config:
    """The ``reserved`` CPUs are never exclusive, so that the sharing containers always have some."""

    reserved: str = "0"
    sys: Path = Path("/sys")


@dataclass(frozen=True)
class Topology:
    """The CPUs of each NUMA node. CPUs of one core are adjacent."""

    nodes: dict[int, tuple[int, ...]]

    @classmethod
    def read(cls, sys: Path) -> Topology:
        """Read the topology of this machine from ``/sys``. Raises OSError."""

        def cpus_in(file: str) -> frozenset[int]:
            return frozenset(kit.parse_cpus((sys / "devices/system" / file).read_text().strip()))

        def core(cpu: int) -> tuple[int, int]:
            return min(cpus_in(f"cpu/cpu{cpu}/topology/thread_siblings_list")), cpu

        online = cpus_in("cpu/online")
        nodes = {}
        for directory in sorted((sys / "devices/system/node").glob("node[0-9]*")):
            cpus = cpus_in(f"node/{directory.name}/cpulist") & online
            if cpus:  # other nodes have only memory
                nodes[int(directory.name[len("node") :])] = tuple(sorted(cpus, key=core))
        return cls(nodes or {0: tuple(sorted(online, key=core))})

    @property
    def cpus(self) -> frozenset[int]:
        return frozenset(cpu for cpus in self.nodes.values() for cpu in cpus)

    def choose(self, count: int, free: frozenset[int]) -> frozenset[int]:
        """Choose free CPUs: of the node with the fewest that suffice, or else of as few nodes as possible."""
        if count > len(free):
            raise errors.Reject(
                f"{count} exclusive CPUs are requested, but only {len(free)} are free"
            )
        by_node = [[cpu for cpu in cpus if cpu in free] for cpus in self.nodes.values()]
        fitting = [cpus for cpus in by_node if len(cpus) >= count]
        if fitting:
            return frozenset(min(fitting, key=len)[:count])
        fullest_first = sorted(by_node, key=len, reverse=True)
        return frozenset([cpu for cpus in fullest_first for cpu in cpus][:count])


class CPUPinning(nri_sync.Plugin):
    """``updates`` sends updates after events whose response cannot contain updates."""

    def __init__(self, updates: kit.UpdateQueue) -> None:
        self._updates = updates
        # Guards the attributes below: Synchronize or a late handler may run beside another handler.
        self._lock = threading.Lock()
        self._topology = Topology({})
        self._reserved: frozenset[int] = frozenset()
        # The pod of each container, and the exclusive CPUs of containers.
        self._containers: dict[str, str] = {}
        self._exclusive: dict[str, frozenset[int]] = {}

    def on_config(self, config: Config) -> None:
        topology = Topology.read(config.sys)
        reserved = frozenset(kit.parse_cpus(config.reserved)) & topology.cpus
        if not reserved:
            raise ValueError(
                f"reserved: there is no CPU {config.reserved!r}, and at least one must be reserved"
            )
        with self._lock:
            self._topology, self._reserved = topology, reserved

    def synchronize(
        self, pods: list[api.PodSandbox], containers: list[api.Container]
    ) -> list[api.Update]:
        by_id = {pod.id: pod for pod in pods}
        living = [item for item in containers if item.state != api.ContainerState.CONTAINER_STOPPED]
        with self._lock:
            self._containers = {item.id: item.pod_sandbox_id for item in living}
            self._exclusive = {}
            wanted = {
                item.id: self._wanted(by_id.get(item.pod_sandbox_id), item) for item in living
            }
            for container in living:
                has = frozenset(kit.parse_cpus(container.linux.resources.cpu.cpus))
                if has and len(has) == wanted[container.id] and has <= self._free():
                    self._exclusive[container.id] = has
            # The containers that have their CPUs already come first.
            for container_id, count in wanted.items():
                if count and container_id not in self._exclusive:
                    try:
                        self._take(container_id, count)
                    except errors.Reject as error:
                        logger.error("container %s must share CPUs: %s", container_id, error)
            return [
                self._update(item.id)
                for item in living
                if _cpuset_of(item) != self._cpuset(item.id)
            ]

    def create_container(
        self, pod: api.PodSandbox, container: api.Container
    ) -> tuple[api.Adjustment, list[api.Update]]:
        count = CPUS.get(pod, container)
        with self._lock:
            if count:
                self._take(container.id, count)
            # The sharing containers have fewer CPUs from now on. The runtime updates them before this one starts.
            others = self._sharing() if count else []
            self._containers[container.id] = pod.id
            cpus, mems = self._cpuset(container.id)
            return api.Adjustment().set_cpu(cpus=cpus, mems=mems), others

    def update_container(
        self, pod: api.PodSandbox, container: api.Container, resources: api.LinuxResources
    ) -> list[api.Update]:
        """Set the CPUs again, because an update, for example by the kubelet, would widen them."""
        with self._lock:
            return [self._update(container.id)]

    def stop_container(self, pod: api.PodSandbox, container: api.Container) -> list[api.Update]:
        with self._lock:
            return self._release([container.id])

    def remove_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        self._removed([container.id])

    def remove_pod_sandbox(self, pod: api.PodSandbox) -> None:
        with self._lock:
            containers = [item for item, pod_id in self._containers.items() if pod_id == pod.id]
        self._removed(containers)

    def _removed(self, containers: Iterable[str]) -> None:
        """Release the CPUs of removed containers. After a crash there is no StopContainer before."""
        with self._lock:
            updates = self._release(containers)
        for update in updates:
            self._updates.put(update)

    def _wanted(self, pod: api.PodSandbox | None, container: api.Container) -> int | None:
        try:
            return None if pod is None else CPUS.get(pod, container)
        except errors.Reject as error:
            logger.error("container %s must share CPUs: %s", container.id, error)
            return None

    # The methods below require the lock.

    def _free(self) -> frozenset[int]:
        return self._rest() - self._reserved

    def _rest(self) -> frozenset[int]:
        return self._topology.cpus.difference(*self._exclusive.values())

    def _take(self, container_id: str, count: int) -> None:
        self._exclusive[container_id] = self._topology.choose(count, self._free())
        logger.info(
            "container %s has CPUs %s of nodes %s", container_id, *self._cpuset(container_id)
        )

    def _release(self, containers: Iterable[str]) -> list[api.Update]:
        freed = False
        for container_id in containers:
            self._containers.pop(container_id, None)
            freed = self._exclusive.pop(container_id, None) is not None or freed
        return self._sharing() if freed else []

    def _sharing(self) -> list[api.Update]:
        return [self._update(item) for item in self._containers if item not in self._exclusive]

    def _update(self, container_id: str) -> api.Update:
        cpus, mems = self._cpuset(container_id)
        return api.Update(container_id, ignore_failure=True).set_cpu(cpus=cpus, mems=mems)

    def _cpuset(self, container_id: str) -> tuple[str, str]:
        cpus = self._exclusive.get(container_id) or self._rest()
        mems = [node for node, has in self._topology.nodes.items() if cpus & frozenset(has)]
        return kit.format_cpus(cpus), kit.format_cpus(mems)


def _cpuset_of(container: api.Container) -> tuple[str, str]:
    cpu = container.linux.resources.cpu
    return cpu.cpus, cpu.mems


def program() -> kit.Program:
    """Return the program with the plugin and its update queue."""
    queue = kit.UpdateQueue()
    return kit.Program(
        CPUPinning(queue), config=Config, interceptors=[queue], name="cpu-pinning", idx="90"
    )


if __name__ == "__main__":
    kit.main(program())
